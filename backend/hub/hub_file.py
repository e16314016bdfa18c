"""`hub.toml`: what a hub is, where its database, nodes and secrets are, and its limits.

Spec: docs/format/hub_file.md. `encode` and `decode` are pure; `load` and `read_secret` touch the disk and
block. The file holds no secret: these are in files of their own, which nobody but the hub's user may read.
"""

from __future__ import annotations

import os
import re
import stat
from dataclasses import asdict, dataclass, field, fields
from typing import Final
from urllib.parse import urlsplit

import tomli_w

from backend.coding import ClusterMap, ClusterNode, Profile
from backend.errors import FormatError, NotFoundError, TransientError, UsageError
from backend.nodes import NodeEntry, decode_entries, encode_entry
from backend.system import TomlTable
from backend.upstream import RESERVED_SECONDS

FILE_NAME: Final = "hub.toml"
PACK_KEY: Final = "pack.key"
PEPPER: Final = "pepper"
FORMAT: Final = 1
ID_SIZE: Final = 16
SECRET_SIZE: Final = 32
MAX_SIZE: Final = 1 << 20
_ADDRESS: Final = re.compile(r"(\[[0-9a-fA-F:.]+\]|[^\[\]:/\s]+):([0-9]{1,5})")
_OTHERS: Final = stat.S_IRWXG | stat.S_IRWXO


@dataclass(frozen=True, slots=True)
class Limits:
    """Seconds, bytes, or bytes a second."""

    retention_seconds: int = int(RESERVED_SECONDS)
    """what no commit names any more, or none ever did, is kept for so long"""
    head_seconds: int = 20
    """a request's head is here then, or its connection ends"""
    body_rate: int = 1024
    """a body that comes slower than this is refused"""
    connections: int = 10_000
    """more are told to come again later"""
    drain_seconds: int = 0
    """from SIGTERM on, in which a balancer sees that this process is not ready"""


RANGES: Final = {
    "retention_seconds": (3600, 10 * 365 * 86_400),
    "head_seconds": (1, 3600),
    "body_rate": (1, 1 << 30),
    "connections": (1, 1_000_000),
    "drain_seconds": (0, 3600),
}


@dataclass(frozen=True, slots=True)
class HubFile:
    """The content of `hub.toml`. `id` has 16 bytes: the nodes say that they are this hub's. Addresses are
    `HOST:PORT`; an empty `metrics`: none are served. Paths may be relative to the file's folder."""

    id: bytes
    public_url: str
    database: str
    profile: Profile
    nodes: tuple[NodeEntry, ...]
    listen: str = "127.0.0.1:8080"
    metrics: str = ""
    pack_key_file: str = PACK_KEY
    pepper_file: str = PEPPER
    is_sign_up_open: bool = False
    epoch: int = 1
    limits: Limits = field(default_factory=Limits)

    def cluster(self) -> ClusterMap:
        """The map that says where fragments belong."""
        return ClusterMap(
            self.epoch, tuple(ClusterNode(each.name, each.zone, each.weight) for each in self.nodes)
        )


def encode(hub: HubFile) -> bytes:
    """The TOML text. `UsageError` where a value cannot be stored."""
    table: dict[str, object] = {
        "format": FORMAT,
        "id": hub.id.hex(),
        "public_url": hub.public_url,
        "listen": hub.listen,
        "database": hub.database,
        "pack_key_file": hub.pack_key_file,
        "pepper_file": hub.pepper_file,
        "sign_up": "open" if hub.is_sign_up_open else "closed",
        "profile": str(hub.profile),
        "cluster": {"epoch": hub.epoch},
        "limits": asdict(hub.limits),
        "nodes": [encode_entry(node) for node in hub.nodes],
    }
    if hub.metrics:
        table["metrics"] = hub.metrics
    try:
        data = tomli_w.dumps(table).encode()
        decode(data, "the new hub file")
    except UnicodeEncodeError:
        raise UsageError("a path is not valid UTF-8 and cannot be stored") from None
    except FormatError as error:
        raise UsageError(str(error)) from None
    return data


def decode(data: bytes, where: str) -> HubFile:
    """The hub in `data`; `FormatError` with one line that starts with `where`."""
    table = TomlTable.of_file(data, where, MAX_SIZE, "hub file")
    table.format(FORMAT)
    needed = ("format", "id", "public_url", "listen", "database", "pack_key_file", "pepper_file", "sign_up")
    table.only(*needed, "profile", "cluster", "limits", "nodes", "metrics")
    cluster = table.table("cluster")
    cluster.only("epoch")
    return HubFile(
        id=table.hexadecimal("id", ID_SIZE),
        public_url=_url(table),
        database=table.text("database", 4096),
        profile=_profile(table),
        nodes=decode_entries(table),
        listen=_address(table, "listen"),
        metrics=_address(table, "metrics") if "metrics" in table else "",
        pack_key_file=table.text("pack_key_file", 4096),
        pepper_file=table.text("pepper_file", 4096),
        is_sign_up_open=_is_open(table),
        epoch=cluster.number("epoch", 1, 2**63 - 1),
        limits=_limits(table.table("limits")),
    )


def load(path: str) -> HubFile:
    """Read the file. `NotFoundError`, `FormatError`, `TransientError`: the disk fails."""
    return decode(_read(path, MAX_SIZE, f"there is no hub here (no {FILE_NAME})"), path)


def read_secret(path: str) -> bytes:
    """The 32 bytes of a secret. `UsageError`: others than its owner may read or write the file;
    `NotFoundError`, `FormatError`, `TransientError`."""
    data = _read(path, SECRET_SIZE, "there is no such file; a backup of the hub has it", of_owner=True)
    if len(data) != SECRET_SIZE:
        raise FormatError(f"{path}: must have {SECRET_SIZE} bytes")
    return data


def _read(path: str, most: int, absent: str, *, of_owner: bool = False) -> bytes:
    try:
        with open(path, "rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            if of_owner and mode & _OTHERS:
                raise UsageError(f"{path}: others may use it (mode {mode & 0o777:o}): chmod 600")
            return file.read(most + 1)
    except (FileNotFoundError, NotADirectoryError):
        raise NotFoundError(f"{path}: {absent}") from None
    except OSError as error:
        raise TransientError(f"{path}: cannot be read: {error.strerror}") from None


def _url(table: TomlTable) -> str:
    url = table.text("public_url", 1024)
    try:
        parts = urlsplit(url)
        is_url = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.username is None
    except ValueError:
        is_url = False
    if not is_url or parts.query or parts.fragment or url.endswith("/"):
        raise table.wrong("public_url must be like https://hub.example")
    return url


def _address(table: TomlTable, name: str) -> str:
    address = table.text(name, 300)
    try:
        host_and_port(address)
    except UsageError:
        raise table.wrong(f"{name} must be HOST:PORT") from None
    return address


def host_and_port(address: str) -> tuple[str, int]:
    """Of `HOST:PORT`; `UsageError` if it is not that."""
    found = _ADDRESS.fullmatch(address)
    if found is None or int(found[2]) > 65535:
        raise UsageError(f"{address}: an address is HOST:PORT")
    return found[1].strip("[]"), int(found[2])


def _profile(table: TomlTable) -> Profile:
    try:
        return Profile.parse(table.text("profile", 32))
    except UsageError as error:
        raise table.wrong(str(error)) from None


def _is_open(table: TomlTable) -> bool:
    said = table.text("sign_up", 16)
    if said not in ("open", "closed"):
        raise table.wrong("sign_up must be open or closed")
    return said == "open"


def _limits(table: TomlTable) -> Limits:
    names = [each.name for each in fields(Limits)]
    table.only(*names)
    return Limits(**{name: table.number(name, *RANGES[name]) for name in names if name in table})

"""`drive.toml`: what a drive is, where its nodes are, and the key slots that open it.

Spec: docs/format/drive_file.md. `encode` and `decode` are pure; `load` and `save` touch the disk and
block. The file holds no secret in clear. It is not authenticated (it must be readable before there is
a key): whoever can change it can make the drive unavailable, not readable; see docs/threat_model.md.
"""

from __future__ import annotations

import base64
import binascii
import datetime
import math
import os
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import tomli_w

from backend.errors import FormatError, NotFoundError, TransientError, UsageError
from backend.keys import DRIVE_ID_SIZE, KINDS, Argon2Cost, Slot, check_slot
from backend.nodes import NodePlace, place_at
from backend.nodes import files as node_files
from backend.system import THIS_MACHINE, Environment

FILE_NAME: Final = "drive.toml"
FORMAT: Final = 3
CREDENTIALS: Final = "credentials"
SETTINGS: Final = "store"
MAX_SIZE: Final = 1024 * 1024
MAX_NODES: Final = 1024
MAX_SLOTS: Final = 32
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_PROFILE: Final = re.compile(r"[1-9][0-9]{0,2}\+[0-9]{1,3}|copies:[1-9][0-9]{0,2}")


@dataclass(frozen=True, slots=True)
class NodeEntry:
    """A node as the drive file names it. `url` is a plain path, relative to the drive's folder or absolute,
    or a URL with a scheme (`backend.nodes.factory`); `settings` is what the node's kind needs beside it,
    without any secret."""

    name: str
    url: str
    zone: str
    weight: float = 1.0
    votes: bool = True
    settings: Mapping[str, str | int] = field(default_factory=dict, hash=False)

    def place(self, drive_folder: str, environment: Environment = THIS_MACHINE) -> NodePlace:
        """The node's place, as seen from there. No I/O."""
        return place_at(self.url, drive_folder, self.settings, environment)


@dataclass(frozen=True, slots=True)
class DriveFile:
    """The content of `drive.toml`. `created` is in UTC."""

    id: bytes
    name: str
    profile: str
    nodes: tuple[NodeEntry, ...]
    epoch: int
    slots: tuple[Slot, ...]
    created: datetime.datetime


def encode(drive: DriveFile) -> bytes:
    """The TOML text. `UsageError` where a value cannot be stored (a path that is not UTF-8)."""
    table: dict[str, object] = {
        "format": FORMAT,
        "id": drive.id.hex(),
        "name": drive.name,
        "profile": drive.profile,
        "created": drive.created.astimezone(datetime.UTC),
        "cluster": {"epoch": drive.epoch},
        "nodes": [_node_table(node) for node in drive.nodes],
        "key_slots": [_slot_table(slot) for slot in drive.slots],
    }
    try:
        data = tomli_w.dumps(table).encode()
    except UnicodeEncodeError:
        raise UsageError("a name or path of the drive is not valid UTF-8 and cannot be stored") from None
    decode(data, "the new drive file")
    return data


def decode(data: bytes, where: str) -> DriveFile:
    """The drive in `data`; `FormatError` with one line that starts with `where`."""
    if len(data) > MAX_SIZE:
        raise FormatError(f"{where}: over {MAX_SIZE} bytes, so it is not a drive file")
    try:
        table = tomllib.loads(data.decode())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise FormatError(f"{where}: not valid TOML: {str(error).splitlines()[0]}") from None
    return _Reader(where, "", table).drive()


def load(path: str) -> DriveFile:
    """Read the file `path`. `NotFoundError` if there is none, `FormatError` if it is not a drive
    file, `TransientError` if the disk fails."""
    try:
        node_files.require_regular(os.stat(path), path)
        with open(path, "rb") as file:
            data = file.read(MAX_SIZE + 1)
    except (FileNotFoundError, NotADirectoryError):
        raise NotFoundError(f"{path}: there is no drive here (no {FILE_NAME})") from None
    except OSError as error:
        raise TransientError(f"{path}: cannot be read: {error.strerror}") from None
    return decode(data, path)


def save(path: str, drive: DriveFile, *, exclusive: bool = False) -> None:
    """Write the file `path` atomically and durably. With `exclusive`, FileExistsError if it exists.
    Other failures are OSError."""
    THIS_MACHINE.disk.write_file(path, [encode(drive)], exclusive=exclusive)


def _node_table(node: NodeEntry) -> dict[str, object]:
    table: dict[str, object] = {
        "name": node.name,
        "url": node.url,
        "zone": node.zone,
        "weight": float(node.weight),
        "votes": node.votes,
    }
    settings = dict(node.settings)
    if CREDENTIALS in settings:
        table[CREDENTIALS] = settings.pop(CREDENTIALS)
    return table | ({SETTINGS: settings} if settings else {})


def _slot_table(slot: Slot) -> dict[str, object]:
    table: dict[str, object] = {
        "kind": slot.kind,
        "salt": base64.b64encode(slot.salt).decode(),
        "wrapped": base64.b64encode(slot.wrapped).decode(),
    }
    if slot.cost is not None:
        table |= {
            "memory_kib": slot.cost.memory_kib,
            "iterations": slot.cost.iterations,
            "lanes": slot.cost.lanes,
        }
    return table


class _Reader:
    """Checks one table of the file; errors name the file and the place in it."""

    def __init__(self, where: str, place: str, table: object) -> None:
        self._where = where
        self._place = place
        if not isinstance(table, dict):
            raise self._wrong("is not a table")
        self._table: dict[str, Any] = table

    def drive(self) -> DriveFile:
        self._format()
        self._only("format", "id", "name", "profile", "created", "cluster", "nodes", "key_slots")
        cluster = _Reader(self._where, "cluster: ", self._get("cluster", dict))
        cluster._only("epoch")
        nodes = tuple(reader._node() for reader in self._tables("nodes", MAX_NODES))
        if not nodes or len({node.name for node in nodes}) != len(nodes):
            raise self._wrong("nodes must be at least one, each with a name of its own")
        if not any(node.votes for node in nodes):
            raise self._wrong("one node at least must vote")
        return DriveFile(
            id=self._id(),
            name=self._text("name", 255),
            profile=self._profile(),
            nodes=nodes,
            epoch=cluster._number("epoch", 1, 2**63 - 1),
            slots=tuple(reader._slot() for reader in self._tables("key_slots", MAX_SLOTS)),
            created=self._created(),
        )

    def _format(self) -> None:
        version = self._number("format", 0, 2**63 - 1)
        if version != FORMAT:
            raise self._wrong(f"has format {version}, this drivefs knows only format {FORMAT}")

    def _node(self) -> NodeEntry:
        self._only("name", "url", "zone", "weight", "votes", CREDENTIALS, SETTINGS)
        name, zone = self._text("name", 64), self._text("zone", 64)
        if not _NAME.fullmatch(name) or not _NAME.fullmatch(zone):
            raise self._wrong(
                "name and zone start with a letter or digit and have letters, digits, . _ - only"
            )
        url, settings = self._text("url", 4096), self._settings()
        try:
            place_at(url, "/", settings)
        except UsageError as error:
            raise self._wrong(str(error)) from None
        weight = self._get("weight", (int, float))
        if isinstance(weight, bool) or not math.isfinite(weight) or not 0 <= weight <= 1e15:
            raise self._wrong("weight must be a number that is not negative")
        return NodeEntry(name, url, zone, float(weight), self._get("votes", bool), settings)

    def _settings(self) -> Mapping[str, str | int]:
        """The place checks their values."""
        table = self._get(SETTINGS, dict) if SETTINGS in self._table else {}
        if CREDENTIALS in table or not all(type(value) in (str, int) for value in table.values()):
            raise self._wrong(f"{SETTINGS} must have texts and whole numbers, and no {CREDENTIALS}")
        named = {CREDENTIALS: self._text(CREDENTIALS, 4096)} if CREDENTIALS in self._table else {}
        return table | named

    def _slot(self) -> Slot:
        kind = self._text("kind", 32)
        costs = ("memory_kib", "iterations", "lanes") if kind == "passphrase" else ()
        self._only("kind", "salt", "wrapped", *costs)
        if kind not in KINDS:
            raise self._wrong(f"kind {kind!r} is unknown")
        cost = Argon2Cost(*(self._number(name, 1, 2**32 - 1) for name in costs)) if costs else None
        known = KINDS[KINDS.index(kind)]
        slot = Slot(known, self._base64("salt"), self._base64("wrapped"), cost)
        try:
            check_slot(slot)
        except FormatError as error:
            raise self._wrong(str(error)) from None
        return slot

    def _id(self) -> bytes:
        text = self._text("id", 2 * DRIVE_ID_SIZE)
        if not re.fullmatch(f"[0-9a-f]{{{2 * DRIVE_ID_SIZE}}}", text):
            raise self._wrong("id must have 32 hexadecimal digits")
        return bytes.fromhex(text)

    def _profile(self) -> str:
        profile = self._text("profile", 32)
        if not _PROFILE.fullmatch(profile):
            raise self._wrong("profile must be like 4+2 or copies:3")
        return profile

    def _created(self) -> datetime.datetime:
        created: datetime.datetime = self._get("created", datetime.datetime)
        if created.tzinfo is None:
            raise self._wrong("created must be a time with its zone")
        return created.astimezone(datetime.UTC)

    def _tables(self, name: str, most: int) -> list[_Reader]:
        tables = self._get(name, list)
        if len(tables) > most:
            raise self._wrong(f"{name} has over {most} entries")
        return [_Reader(self._where, f"{name} {at}: ", table) for at, table in enumerate(tables, 1)]

    def _only(self, *names: str) -> None:
        unknown = sorted(self._table.keys() - set(names))
        if unknown:
            raise self._wrong(f"unknown entry {unknown[0]!r}")

    def _text(self, name: str, longest: int) -> str:
        text: str = self._get(name, str)
        if not 0 < len(text) <= longest:
            raise self._wrong(f"{name} must have 1 to {longest} characters")
        return text

    def _number(self, name: str, least: int, most: int) -> int:
        number: int = self._get(name, int)
        if isinstance(number, bool) or not least <= number <= most:
            raise self._wrong(f"{name} must be a whole number from {least} to {most}")
        return number

    def _base64(self, name: str) -> bytes:
        try:
            return base64.b64decode(self._text(name, 1024), validate=True)
        except (binascii.Error, ValueError):
            raise self._wrong(f"{name} is not base 64") from None

    def _get(self, name: str, kind: type | tuple[type, ...]) -> Any:
        if name not in self._table:
            raise self._wrong(f"{name} is missing")
        value = self._table[name]
        if not isinstance(value, kind):
            raise self._wrong(f"{name} has the wrong type")
        return value

    def _wrong(self, what: str) -> FormatError:
        return FormatError(f"{self._where}: {self._place}{what}")

"""The identity file of a directory node: which drive a directory belongs to, and as which node.

`node.toml` (docs/format/node.md) holds no secret. It is written once, by mkfs, and never changed.
"""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import tomli_w

from backend.errors import NodeError
from backend.nodes import files as node_files
from backend.nodes import nesting
from backend.nodes.node import IDENTITY_KEY
from backend.system import THIS_MACHINE, Durable

IDENTITY_FILE: Final = IDENTITY_KEY
VERSION: Final = 1
MAX_FILE_SIZE: Final = 4096
DRIVE_ID_SIZE: Final = 16

_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_IGNORED: Final = {"lost+found"}


@dataclass(frozen=True, slots=True)
class NodeIdentity:
    """`name` is unique in the drive; `drive_id` has 16 bytes; `zone` is the failure domain."""

    name: str
    drive_id: bytes
    zone: str


def initialise_directory_node(
    path: str, drive_id: bytes, name: str, zone: str, disk: Durable = THIS_MACHINE.disk
) -> None:
    """Make the folder `path` (and its parents) the node `name` of a drive; durable when it returns.
    `NodeError` if it is another node; else the errors of `require_fit`. Again with the same identity: no
    change. Blocks; `OSError` as the kernel gives it."""
    identity = NodeIdentity(name, drive_id, zone)
    require_nameable(identity)
    if os.path.lexists(os.path.join(path, IDENTITY_FILE)):
        require_same(read_identity(path, name), identity, path)
        return
    disk.make_folders(path)
    require_fit(path, name)
    disk.write_file(os.path.join(path, IDENTITY_FILE), [encode_identity(identity)])


def require_fit(path: str, name: str, *, emptied: bool = False) -> None:
    """`UsageError` if the folder `path` lies in a node; `NodeError` if it cannot be written, or there is
    anything in it (`emptied`: anything that `nesting.clear` leaves)."""
    nesting.require_outside(path)
    if not os.access(path, os.R_OK | os.W_OK | os.X_OK):
        raise NodeError(f"{name}: {path} cannot be read and written by this user", name)
    found = nesting.nodes_within(path) if emptied else _foreign_in(path)
    for foreign in found:
        raise NodeError(f"{name}: {path} is not empty (it holds {foreign}): choose an empty folder", name)


def _foreign_in(path: str) -> list[str]:
    return sorted(entry for entry in set(os.listdir(path)) - _IGNORED if not entry.startswith(".tmp-"))


def read_identity(path: str, name: str) -> NodeIdentity:
    """Whose node the folder is. `NodeError` in one line if the path is missing, is no node, or its
    identity file cannot be read or understood. `name` is how messages call the node. Blocks."""
    try:
        data = node_files.read_at_most(path, IDENTITY_FILE, MAX_FILE_SIZE + 1)
    except (FileNotFoundError, NotADirectoryError):
        raise NodeError(f"{name}: {path} {_why_no_node(path, name)}", name) from None
    except OSError as error:
        raise NodeError(f"{name}: cannot read {path}/{IDENTITY_FILE}: {error.strerror}", name) from error
    try:
        return decode_identity(data)
    except ValueError as error:
        raise NodeError(f"{name}: {path}/{IDENTITY_FILE} is damaged: {error}", name) from error


def _why_no_node(path: str, name: str) -> str:
    anew = f"drivefs node replace DRIVE {name}"
    if not os.path.lexists(path):
        return f"is missing; is its disk mounted? If it is new, or lost for good: {anew}"
    if not os.path.isdir(path):
        return f"is not a folder; if it is lost for good: {anew} NEWPATH"
    what = f"is not a node ({IDENTITY_FILE} is missing)"
    if _is_empty(path):
        return f"{what} but an empty folder; is its disk mounted? If it is a new one: {anew}"
    return f"{what}; is its disk mounted? If the rest is there: fsck.drivefs -y DRIVE, else: {anew} NEWPATH"


def _is_empty(path: str) -> bool:
    try:
        return not _foreign_in(path)
    except OSError:
        return False


def encode_identity(identity: NodeIdentity) -> bytes:
    """The contents of the identity file."""
    drive = identity.drive_id.hex()
    fields = {"format": VERSION, "drive": drive, "name": identity.name, "zone": identity.zone}
    return b"# A node of a drivefs drive. Do not change.\n" + tomli_w.dumps(fields).encode()


def decode_identity(data: bytes) -> NodeIdentity:
    """The contents of an identity file; `ValueError` names the fault in it."""
    if len(data) > MAX_FILE_SIZE:
        raise ValueError(f"more than {MAX_FILE_SIZE} bytes")
    fields = tomllib.loads(data.decode())
    if fields.get("format") != VERSION:
        raise ValueError(f"format {fields.get('format')!r} is unknown here (known: {VERSION})")
    drive_id = bytes.fromhex(_text(fields, "drive"))
    identity = NodeIdentity(_text(fields, "name"), drive_id, _text(fields, "zone"))
    if len(drive_id) != DRIVE_ID_SIZE or not all(map(_NAME.fullmatch, (identity.name, identity.zone))):
        raise ValueError("drive, name or zone is not as it must be")
    return identity


def _text(fields: Mapping[str, object], name: str) -> str:
    value = fields.get(name)
    if not isinstance(value, str):
        raise ValueError(f"{name} is missing")
    return value


def require_nameable(identity: NodeIdentity) -> None:
    """`NodeError` if no node may have that name or zone; `ValueError` if no drive has that id."""
    name, zone = identity.name, identity.zone
    if not _NAME.fullmatch(name) or not _NAME.fullmatch(zone):
        raise NodeError(f"{name!r} in zone {zone!r}: letters, digits, '.', '_', '-' only, at most 64", name)
    if len(identity.drive_id) != DRIVE_ID_SIZE:
        raise ValueError(f"a drive id has {DRIVE_ID_SIZE} bytes")


def require_same(found: NodeIdentity, identity: NodeIdentity, place: str) -> None:
    """`NodeError` if `place` is `found` and so cannot become `identity`."""
    if found.drive_id != identity.drive_id:
        raise NodeError(f"{identity.name}: {place} is a node of another drive", identity.name)
    if found != identity:
        raise NodeError(f"{identity.name}: {place} is already this drive's {found.name}", identity.name)

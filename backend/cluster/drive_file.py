"""`drive.toml`: what a drive is, where its nodes are, and the key slots that open it.

Spec: docs/format/drive_file.md. `encode` and `decode` are pure; `load` and `save` touch the disk and
block. The file holds no secret in clear. It is not authenticated (it must be readable before there is
a key): whoever can change it can make the drive unavailable, not readable; see docs/threat_model.md.
"""

from __future__ import annotations

import base64
import datetime
import os
import re
from dataclasses import dataclass
from typing import Final

import tomli_w

from backend.errors import FormatError, NotFoundError, TransientError, UsageError
from backend.keys import DRIVE_ID_SIZE, KINDS, Argon2Cost, Slot, check_slot
from backend.nodes import NodeEntry, decode_entries, encode_entry
from backend.nodes import files as node_files
from backend.system import THIS_MACHINE, TomlTable, plain_hash

FILE_NAME: Final = "drive.toml"
FORMAT: Final = 3
MAX_SIZE: Final = 1024 * 1024
MAX_SLOTS: Final = 32
MAX_ADDRESS: Final = 4096
_PROFILE: Final = re.compile(r"[1-9][0-9]{0,2}\+[0-9]{1,3}|copies:[1-9][0-9]{0,2}")


@dataclass(frozen=True, slots=True)
class DriveFile:
    """The content of `drive.toml`. `created` is in UTC. `moved`: the address to which the drive has moved, or
    is about to; empty: it is here."""

    id: bytes
    name: str
    profile: str
    nodes: tuple[NodeEntry, ...]
    epoch: int
    slots: tuple[Slot, ...]
    created: datetime.datetime
    moved: str = ""

    @property
    def nodes_id(self) -> bytes:
        """16 bytes that tell these nodes from others that the drive was made on, or moved to. Changes of the
        nodes leave it as it is."""
        made = self.created.astimezone(datetime.UTC).isoformat(timespec="microseconds")
        return plain_hash(self.id + made.encode())[:16]


def encode(drive: DriveFile) -> bytes:
    """The TOML text. `UsageError` where a value cannot be stored (a path that is not UTF-8)."""
    table: dict[str, object] = {
        "format": FORMAT,
        "id": drive.id.hex(),
        "name": drive.name,
        "profile": drive.profile,
        "created": drive.created.astimezone(datetime.UTC),
        "cluster": {"epoch": drive.epoch},
        "nodes": [encode_entry(node) for node in drive.nodes],
        "key_slots": [_slot_table(slot) for slot in drive.slots],
    }
    if drive.moved:
        table["moved"] = drive.moved
    try:
        data = tomli_w.dumps(table).encode()
    except UnicodeEncodeError:
        raise UsageError("a name or path of the drive is not valid UTF-8 and cannot be stored") from None
    decode(data, "the new drive file")
    return data


def decode(data: bytes, where: str) -> DriveFile:
    """The drive in `data`; `FormatError` with one line that starts with `where`."""
    return _drive(TomlTable.of_file(data, where, MAX_SIZE, "drive file"))


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


def require_here(folder: str, drive: DriveFile) -> None:
    """`UsageError` if the drive in `folder` has moved away."""
    if drive.moved:
        raise UsageError(
            f"{folder}: the drive has moved to {drive.moved}: mount that; if a move was interrupted, "
            f"drivefs move-to --undo {folder} settles where it is"
        )


def save(path: str, drive: DriveFile, *, exclusive: bool = False) -> None:
    """Write the file `path` atomically and durably. With `exclusive`, FileExistsError if it exists.
    Other failures are OSError."""
    THIS_MACHINE.disk.write_file(path, [encode(drive)], exclusive=exclusive)


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


def _drive(table: TomlTable) -> DriveFile:
    table.format(FORMAT)
    table.only("format", "id", "name", "profile", "created", "cluster", "nodes", "key_slots", "moved")
    cluster = table.table("cluster")
    cluster.only("epoch")
    nodes = decode_entries(table)
    if not any(node.votes for node in nodes):
        raise table.wrong("one node at least must vote")
    return DriveFile(
        id=table.hexadecimal("id", DRIVE_ID_SIZE),
        name=table.text("name", 255),
        profile=_profile(table),
        nodes=nodes,
        epoch=cluster.number("epoch", 1, 2**63 - 1),
        slots=tuple(map(_slot, table.tables("key_slots", MAX_SLOTS))),
        created=_created(table),
        moved=table.text("moved", MAX_ADDRESS) if "moved" in table else "",
    )


def _slot(table: TomlTable) -> Slot:
    kind = table.text("kind", 32)
    costs = ("memory_kib", "iterations", "lanes") if kind == "passphrase" else ()
    table.only("kind", "salt", "wrapped", *costs)
    if kind not in KINDS:
        raise table.wrong(f"kind {kind!r} is unknown")
    cost = Argon2Cost(*(table.number(name, 1, 2**32 - 1) for name in costs)) if costs else None
    known = KINDS[KINDS.index(kind)]
    slot = Slot(known, table.base64("salt"), table.base64("wrapped"), cost)
    try:
        check_slot(slot)
    except FormatError as error:
        raise table.wrong(str(error)) from None
    return slot


def _profile(table: TomlTable) -> str:
    profile = table.text("profile", 32)
    if not _PROFILE.fullmatch(profile):
        raise table.wrong("profile must be like 4+2 or copies:3")
    return profile


def _created(table: TomlTable) -> datetime.datetime:
    created: datetime.datetime = table.get("created", datetime.datetime)
    if created.tzinfo is None:
        raise table.wrong("created must be a time with its zone")
    return created.astimezone(datetime.UTC)

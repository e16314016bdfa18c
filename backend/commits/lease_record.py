"""The lease record as it is stored on a node. Pure functions; spec: docs/format/lease.md.

JSON, because a person with a drive that is held wants to read by whom. It holds no secret; the
machine is named by a hash, as machine-id(5) asks for, and the host by its name. Its seal is keyed: a record
whose seal fits was written by somebody who has the drive's key.
"""

from __future__ import annotations

import hmac
import json
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Final

from backend.errors import CorruptError, FormatError
from backend.system import keyed_hash

FORMAT: Final = 2
MAX_SIZE: Final = 4096


@dataclass(frozen=True, slots=True)
class Holder:
    """A process, named so that another on the same machine can see whether it still runs."""

    machine: str
    boot: str
    pid_namespace: str
    pid: int
    started: int
    host: str


@dataclass(frozen=True, slots=True)
class LeaseRecord:
    """Who holds the drive under which epoch. `renewals` counts up while it is held; `token` is random
    for each acquisition; `seconds` is for how long the holder may be silent; `until_ns` is the
    holder's wall clock's idea of that, for people only."""

    drive: str
    epoch: int
    held: bool
    renewals: int
    token: str
    seconds: float
    until_ns: int
    holder: Holder
    seal: str = ""


def sealed(record: LeaseRecord, secret: bytes) -> LeaseRecord:
    """The record with its seal. `secret` is the drive's key for leases, 32 bytes."""
    return replace(record, seal=_seal(record, secret))


def is_sealed(record: LeaseRecord, secret: bytes) -> bool:
    """Whether the seal fits."""
    return hmac.compare_digest(record.seal.encode(errors="replace"), _seal(record, secret).encode())


def _seal(record: LeaseRecord, secret: bytes) -> str:
    return keyed_hash(secret, b"drivefs lease 2\0" + encode(replace(record, seal=""))).hex()


def encode(record: LeaseRecord) -> bytes:
    """The stored bytes."""
    return json.dumps({"format": FORMAT, **asdict(record)}, indent=1).encode() + b"\n"


def decode(data: bytes) -> LeaseRecord:
    """The record in `data`, its seal not looked at. `FormatError` for an unknown version, `CorruptError` for
    anything else."""
    if len(data) > MAX_SIZE:
        raise CorruptError("lease: too long")
    try:
        table = json.loads(data)
    except (ValueError, RecursionError):
        raise CorruptError("lease: not JSON") from None
    if not isinstance(table, dict):
        raise CorruptError("lease: not a table")
    version = table.pop("format", None)
    if version != FORMAT:
        raise FormatError(f"lease: unknown format {version!r}")
    holder = Holder(**_checked(table.pop("holder", None), Holder))
    return LeaseRecord(**_checked({**table, "holder": holder}, LeaseRecord))


def _checked(table: object, kind: type) -> dict[str, Any]:
    types: dict[str, Any] = {
        "str": str,
        "int": int,
        "bool": bool,
        "float": (int, float),
        "Holder": Holder,
    }
    wanted = {entry.name: types[str(entry.type)] for entry in fields(kind)}
    if not isinstance(table, dict) or table.keys() != wanted.keys():
        raise CorruptError("lease: entries are missing or unknown")
    for name, value in table.items():
        wrong_bool = isinstance(value, bool) != (wanted[name] is bool)
        if wrong_bool or not isinstance(value, wanted[name]):
            raise CorruptError(f"lease: {name} has the wrong type")
        if isinstance(value, (int, float)) and not 0 <= value < 2**64:
            raise CorruptError(f"lease: {name} is out of range")
    return table

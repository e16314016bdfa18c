"""The lease record as it is stored on a node. Pure functions; spec: docs/format/lease.md.

JSON, because a person with a drive that is held wants to read by whom. It holds no secret; the
machine is named by a hash, as machine-id(5) asks for, and the host by its name. Its seal is keyed and covers
the bytes as they are stored: a record whose seal fits was written by somebody who has the drive's key.
"""

from __future__ import annotations

import hmac
import json
import re
from dataclasses import dataclass, fields
from typing import Any, Final

from backend.errors import CorruptError, FormatError
from backend.system import keyed_hash
from backend.upstream import NO_COMMIT, Head

FORMAT: Final = 3
MAX_SIZE: Final = 4096
_SEAL: Final = re.compile(rb'"seal": "([0-9a-f]{64})"\n}\n\Z')
_HASH: Final = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True, order=True)
class Claim:
    """A holder's knowledge of the log: under `epoch` it had the commit `head` in enough copies. Of two claims
    the higher one is of the later holder, or of the same one later."""

    epoch: int
    number: int
    hash: bytes

    @property
    def head(self) -> Head:
        """The commit."""
        return Head(self.number, self.hash)


NO_CLAIM: Final = Claim(0, 0, NO_COMMIT)


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
    """The holder of the drive, and its epoch. `map` is the epoch of the cluster map that the holder knows;
    `claim` what it knows of the log. `renewals` counts up while it is held; `token` is random for each
    acquisition, `nonce` for each swap; `seconds` is for how long the holder may be silent; `until_ns` is the
    holder's wall clock's idea of that, for people only."""

    drive: str
    epoch: int
    held: bool
    renewals: int
    token: str
    nonce: str
    map: int
    claim: Claim
    seconds: float
    until_ns: int
    holder: Holder


def encode(record: LeaseRecord, secret: bytes) -> bytes:
    """The stored bytes, sealed. `secret` is the drive's key for leases, 32 bytes."""
    claim, holder = record.claim, record.holder
    table = {
        "format": FORMAT,
        "drive": record.drive,
        "epoch": record.epoch,
        "held": record.held,
        "renewals": record.renewals,
        "token": record.token,
        "nonce": record.nonce,
        "map": record.map,
        "head_epoch": claim.epoch,
        "head": claim.number,
        "head_hash": claim.hash.hex(),
        "seconds": record.seconds,
        "until_ns": record.until_ns,
        "holder": {name: getattr(holder, name) for name in _HOLDER},
    }
    body = json.dumps(table, separators=(",\n", ": ")).encode()[:-1] + b",\n"
    return body + b'"seal": "' + _seal(body, secret) + b'"\n}\n'


def is_sealed(data: bytes, secret: bytes) -> bool:
    """Whether the seal of the stored bytes fits."""
    found = _SEAL.search(data)
    return found is not None and hmac.compare_digest(found[1], _seal(data[: found.start()], secret))


def _seal(body: bytes, secret: bytes) -> bytes:
    return keyed_hash(secret, b"drivefs lease 3\0" + body).hex().encode()


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
    holder = Holder(**_checked(table.pop("holder", None), _HOLDER))
    checked = _checked(table, _RECORD)
    del checked["seal"]
    number, found = checked.pop("head"), checked.pop("head_hash")
    if not _HASH.fullmatch(found):
        raise CorruptError("lease: head_hash is not 64 hexadecimal digits")
    claim = Claim(checked.pop("head_epoch"), number, bytes.fromhex(found))
    return LeaseRecord(**checked, claim=claim, holder=holder)


_TYPES: Final[dict[str, Any]] = {"str": str, "int": int, "bool": bool, "float": (int, float)}
_HOLDER: Final = {entry.name: _TYPES[str(entry.type)] for entry in fields(Holder)}
_RECORD: Final = {
    **{entry.name: _TYPES[str(entry.type)] for entry in fields(LeaseRecord) if str(entry.type) in _TYPES},
    **{"head_epoch": int, "head": int, "head_hash": str, "seal": str},
}


def _checked(table: object, wanted: dict[str, Any]) -> dict[str, Any]:
    if not isinstance(table, dict) or table.keys() != wanted.keys():
        raise CorruptError("lease: entries are missing or unknown")
    for name, value in table.items():
        wrong_bool = isinstance(value, bool) != (wanted[name] is bool)
        if wrong_bool or not isinstance(value, wanted[name]):
            raise CorruptError(f"lease: {name} has the wrong type")
        if isinstance(value, (int, float)) and not 0 <= value < 2**64:
            raise CorruptError(f"lease: {name} is out of range")
    return table

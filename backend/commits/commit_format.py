"""The binary form of a commit, its hash, and what its payload is bound to. Pure functions.

Spec: docs/format/commit.md. Little endian; one version; sizes are checked against the limits and
against the bytes that are there before anything is allocated.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Final

from backend.buffer import Buffer
from backend.errors import CorruptError, FormatError
from backend.system import plain_hash
from backend.upstream import BLOCK_ID_SIZE, COMMIT_HASH_SIZE, BlockId, Commit

MAGIC: Final = b"DFCOMMIT"
VERSION: Final = 1
MAX_BLOCKS: Final = 1 << 19
"""Of added, and of dropped, block references of one commit."""
MAX_PAYLOAD: Final = 32 * 1024 * 1024
_HEADER: Final = struct.Struct("<8sHHIQ32sQQQII")
"""magic, version, flags (0), device, number, previous, epoch, time_ns, reserved (0), added, dropped"""
_PAYLOAD_LENGTH: Final = struct.Struct("<I")


def encode(commit: Commit) -> bytes:
    """The commit's bytes. `FormatError` if it is over a limit."""
    if len(commit.payload) > MAX_PAYLOAD:
        raise FormatError(f"commit {commit.number}: the payload is over {MAX_PAYLOAD} bytes")
    return b"".join((envelope_bytes(commit), _PAYLOAD_LENGTH.pack(len(commit.payload)), commit.payload))


_PURPOSE: Final = b"drivefs commit payload 1\0"


def envelope_bytes(commit: Commit) -> bytes:
    """Everything but the payload and its length: the first bytes of the encoding."""
    return _envelope(
        commit.number,
        commit.previous,
        commit.device,
        commit.epoch,
        commit.time_ns,
        commit.added,
        commit.dropped,
    )


def payload_associated_data(
    drive_id: bytes,
    number: int,
    previous: bytes,
    device: int,
    epoch: int,
    time_ns: int,
    added: Sequence[BlockId],
    dropped: Sequence[BlockId],
) -> bytes:
    """The associated data of the payload's seal: purpose, drive and the whole envelope, so that a payload
    cannot be moved to another drive, number or history, nor its block references be changed."""
    envelope = _envelope(number, previous, device, epoch, time_ns, added, dropped)
    return _PURPOSE + drive_id + envelope


def associated_data_of(drive_id: bytes, commit: Commit) -> bytes:
    """The associated data of the payload of `commit`, if it is a commit of the drive."""
    return _PURPOSE + drive_id + envelope_bytes(commit)


def commit_hash(commit: Commit) -> bytes:
    """32 bytes: BLAKE3 of the encoding."""
    return plain_hash(encode(commit))


def decode(data: Buffer) -> Commit:
    """The commit in `data`, all of it. `FormatError` for an unknown version or a size over its limit,
    `CorruptError` for anything else that an encoder does not write."""
    view = memoryview(data)
    if len(view) < _HEADER.size:
        raise CorruptError("commit: shorter than its header")
    magic, version, flags, device, number, previous, epoch, time_ns, reserved, added, dropped = (
        _HEADER.unpack_from(view)
    )
    if magic != MAGIC:
        raise FormatError("commit: bad magic")
    if version != VERSION or flags or reserved:
        raise FormatError(f"commit: unknown version {version} or flags {flags}")
    first = _HEADER.size
    second = first + _ids_size(added)
    end = second + _ids_size(dropped)
    payload = _payload(view, end)
    added_ids, dropped_ids = _ids(view[first:second]), _ids(view[second:end])
    return Commit(number, previous, device, epoch, time_ns, added_ids, dropped_ids, payload)


def _envelope(
    number: int,
    previous: bytes,
    device: int,
    epoch: int,
    time_ns: int,
    added: Sequence[BlockId],
    dropped: Sequence[BlockId],
) -> bytes:
    _ids_size(len(added))
    _ids_size(len(dropped))
    if len(previous) != COMMIT_HASH_SIZE or any(len(i) != BLOCK_ID_SIZE for i in (*added, *dropped)):
        raise ValueError("hashes and block ids have 32 bytes")
    header = _HEADER.pack(
        MAGIC, VERSION, 0, device, number, previous, epoch, time_ns, 0, len(added), len(dropped)
    )
    return b"".join((header, *added, *dropped))


def _ids_size(count: int) -> int:
    if count > MAX_BLOCKS:
        raise FormatError(f"commit: {count} block references, at most {MAX_BLOCKS} are allowed")
    return count * BLOCK_ID_SIZE


def _ids(view: memoryview) -> tuple[BlockId, ...]:
    return tuple(BlockId(bytes(view[at : at + BLOCK_ID_SIZE])) for at in range(0, len(view), BLOCK_ID_SIZE))


def _payload(view: memoryview, offset: int) -> bytes:
    if len(view) < offset + _PAYLOAD_LENGTH.size:
        raise CorruptError("commit: cut off within its envelope")
    (length,) = _PAYLOAD_LENGTH.unpack_from(view, offset)
    if length > MAX_PAYLOAD:
        raise FormatError(f"commit: the payload says {length} bytes, at most {MAX_PAYLOAD} are allowed")
    start = offset + _PAYLOAD_LENGTH.size
    if len(view) != start + length:
        raise CorruptError("commit: its length is not what its header says")
    return bytes(view[start:])

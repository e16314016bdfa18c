"""The binary form of a commit, its hash, its signature, and what its payload is bound to. Pure functions.

Spec: docs/format/commit.md. Little endian; one version; sizes are checked against the limits and
against the bytes that are there before anything is allocated.
"""

from __future__ import annotations

import struct
from dataclasses import replace
from typing import Final

from backend.buffer import Buffer
from backend.errors import CorruptError, FormatError
from backend.system import is_signed, plain_hash, sign
from backend.upstream import BLOCK_ID_SIZE, COMMIT_HASH_SIZE, UNSIGNED, BlockId, Commit

MAGIC: Final = b"DFCOMMIT"
VERSION: Final = 3
_EARLIER: Final = {1: "commits were signed", 2: "there were key epochs"}
MAX_BLOCKS: Final = 1 << 19
"""Of added, and of dropped, block references of one commit."""
MAX_PAYLOAD: Final = 32 * 1024 * 1024
MAX_AUTHORITY: Final = 1024 * 1024
SIGNATURE_SIZE: Final = len(UNSIGNED)
_HEADER: Final = struct.Struct("<8sHHIQ32sQQQIIII")
"""magic, version, flags (0), device, number, previous, epoch, time_ns, sequence, key epoch, length of the
authority section, added, dropped"""
_PAYLOAD_LENGTH: Final = struct.Struct("<I")


_PAYLOAD_PURPOSE: Final = b"drivefs commit payload 3\0"
_SIGNATURE_PURPOSE: Final = b"drivefs commit 3\0"


def encode(commit: Commit) -> bytes:
    """The commit's bytes. `FormatError` if it is over a limit."""
    if len(commit.signature) != SIGNATURE_SIZE:
        raise ValueError("signatures have 64 bytes")
    return b"".join((*_unsigned(commit), commit.signature))


def _unsigned(commit: Commit) -> tuple[bytes, bytes, bytes]:
    """All bytes before the signature. `FormatError` if the commit is over a limit."""
    if len(commit.payload) > MAX_PAYLOAD:
        raise FormatError(f"commit {commit.number}: the payload is over {MAX_PAYLOAD} bytes")
    return _envelope(commit), _PAYLOAD_LENGTH.pack(len(commit.payload)), commit.payload


def payload_associated_data(drive_id: bytes, commit: Commit) -> bytes:
    """The associated data of the payload's seal: purpose, drive and the whole envelope, so that a payload
    cannot be moved to another drive, number or history, nor its block references be changed."""
    return _PAYLOAD_PURPOSE + drive_id + _envelope(commit)


def signed(drive_id: bytes, commit: Commit, signing_key: bytes) -> Commit:
    """`commit` with the signature of its device. `FormatError` if it is over a limit."""
    return replace(commit, signature=sign(signing_key, _signed_message(drive_id, commit)))


def is_signed_by(drive_id: bytes, commit: Commit, key: bytes) -> bool:
    """Whether the device of that public key has signed `commit`, as one of the drive."""
    return is_signed(key, commit.signature, _signed_message(drive_id, commit))


def _signed_message(drive_id: bytes, commit: Commit) -> bytes:
    """A hash stands for the commit: it may have 32 MiB, and Ed25519 reads a message twice."""
    return _SIGNATURE_PURPOSE + drive_id + plain_hash(b"".join(_unsigned(commit)))


def commit_hash(commit: Commit) -> bytes:
    """32 bytes: BLAKE3 of the encoding."""
    return plain_hash(encode(commit))


def decode(data: Buffer) -> Commit:
    """The commit in `data`, all of it. `FormatError` for an unknown version or a size over its limit,
    `CorruptError` for anything else that an encoder does not write."""
    view = memoryview(data)
    if len(view) < _HEADER.size:
        raise CorruptError("commit: shorter than its header")
    header = _HEADER.unpack_from(view)
    magic, version, flags, device, number, previous, epoch, time_ns, sequence, *rest = header
    key_epoch, authority_size, added, dropped = rest
    _check_version(magic, version, flags)
    first = _HEADER.size
    second = first + _ids_size(added)
    third = second + _ids_size(dropped)
    end = third + _authority_size(authority_size)
    payload, signature = _payload_and_signature(view, end)
    return Commit(
        number,
        previous,
        device,
        epoch,
        time_ns,
        _ids(view[first:second]),
        _ids(view[second:third]),
        payload,
        sequence,
        key_epoch,
        bytes(view[third:end]),
        signature,
    )


def _check_version(magic: bytes, version: int, flags: int) -> None:
    if magic != MAGIC:
        raise FormatError("commit: bad magic")
    if version in _EARLIER:
        raise FormatError(
            f"commit: version {version}, of a drive made before {_EARLIER[version]}: its files can be copied "
            "to a new drive, by the drivefs that made it"
        )
    if version != VERSION or flags:
        raise FormatError(f"commit: unknown version {version} or flags {flags}")


def _envelope(commit: Commit) -> bytes:
    added, dropped = commit.added, commit.dropped
    _ids_size(len(added))
    _ids_size(len(dropped))
    _authority_size(len(commit.authority))
    if len(commit.previous) != COMMIT_HASH_SIZE or any(len(i) != BLOCK_ID_SIZE for i in (*added, *dropped)):
        raise ValueError("hashes and block ids have 32 bytes")
    header = _HEADER.pack(
        MAGIC,
        VERSION,
        0,
        commit.device,
        commit.number,
        commit.previous,
        commit.epoch,
        commit.time_ns,
        commit.sequence,
        commit.key_epoch,
        len(commit.authority),
        len(added),
        len(dropped),
    )
    return b"".join((header, *added, *dropped, commit.authority))


def _authority_size(size: int) -> int:
    if size > MAX_AUTHORITY:
        raise FormatError(f"commit: an authority section of {size} bytes, over {MAX_AUTHORITY}")
    return size


def _ids_size(count: int) -> int:
    if count > MAX_BLOCKS:
        raise FormatError(f"commit: {count} block references, at most {MAX_BLOCKS} are allowed")
    return count * BLOCK_ID_SIZE


def _ids(view: memoryview) -> tuple[BlockId, ...]:
    return tuple(BlockId(bytes(view[at : at + BLOCK_ID_SIZE])) for at in range(0, len(view), BLOCK_ID_SIZE))


def _payload_and_signature(view: memoryview, offset: int) -> tuple[bytes, bytes]:
    if len(view) < offset + _PAYLOAD_LENGTH.size:
        raise CorruptError("commit: cut off within its envelope")
    (length,) = _PAYLOAD_LENGTH.unpack_from(view, offset)
    if length > MAX_PAYLOAD:
        raise FormatError(f"commit: the payload says {length} bytes, at most {MAX_PAYLOAD} are allowed")
    start = offset + _PAYLOAD_LENGTH.size
    if len(view) != start + length + SIGNATURE_SIZE:
        raise CorruptError("commit: its length is not what its header says")
    return bytes(view[start : start + length]), bytes(view[start + length :])

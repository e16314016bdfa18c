"""Codec of the journal's segments and records; the format is specified in docs/format/journal.md.

Pure functions on bytes. All integers are little endian. A record is a header (payload length,
type, sequence, checksum) and its payload; the checksum is XXH3-64 over the header before it and
the payload, seeded with the segment's number and salt, so that what a recycled segment still holds from
its former life never passes for a record, even if a power cut took the former life's name and its number is
given again.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

import msgpack
import xxhash

from backend.buffer import Buffer
from backend.errors import FormatError
from cache.namespace import loaded_time, stored_time

MAGIC: Final = b"drvfsjnl"
VERSION: Final = 5
_OLDEST_VERSION: Final = 1
"""It had no salt."""
SEGMENT_HEADER: Final = struct.Struct("<8sHHIQQQQ")
"""magic, version, reserved (0), salt, segment number, first sequence, open commit, checksum"""
SEGMENT_HEADER_SIZE: Final = SEGMENT_HEADER.size
RECORD_HEADER: Final = struct.Struct("<IIQQ")
RECORD_HEADER_SIZE: Final = RECORD_HEADER.size
_CHECKED: Final = struct.Struct("<IIQ")
_SHORT: Final = 4096
MAX_PAYLOAD: Final = 24 << 20
"""Bytes of a record's payload, but for `MAX_REBASED`."""
_U64: Final = (1 << 64) - 1
OFFSET_BITS: Final = 32
OFFSET_MASK: Final = (1 << OFFSET_BITS) - 1
"""A position is segment number << 32 | offset in the segment's file."""


class RecordType(IntEnum):
    """The kind of a payload."""

    OPERATION = 1
    """an encoded operation (docs/format/operation.md)"""
    DATA = 2
    """inode, offset, time, then the bytes that were written there"""
    TRUNCATE = 3
    """inode, new size, time"""
    CUT = 4
    """commit number, time, the inodes whose content up to here belongs to it"""
    EXTENTS = 5
    """commit number, an encoded `SetExtents` of that commit"""
    PUBLISHED = 6
    """commit number, time, the commit's hash, the position before which nothing is needed any more"""
    BATCH = 7
    """encoded operations that are all accepted, or none: a record is whole or is not there"""
    BULK = 8
    """as DATA, but the bytes are in a bulk file, and may have been lost where the record was not"""
    GIVEN_UP = 9
    """a position: the records from there up to this one are not to be followed any more"""
    TIMES = 10
    """inode, modification and change time: those of its content so far, as its writer has them"""
    VOID = 11
    """a position: the EXTENTS from there up to this one name blocks that are gone, and do not count"""
    UNCUT = 12
    """two positions: the records between them, which made a cut, do not count, nor do the EXTENTS from the
    first up to this one"""
    REBASED = 13
    """the published state on which all that is not published is from here on; the operations that say it
    now; where dirty content went"""
    FOLLOWED = 14
    """number, offset and size of an encoded commit that others published, then its bytes from there on: it
    counts with the REBASED record that comes after it"""


MAX_REBASED: Final = 256 << 20
"""Bytes of a REBASED record's payload, which says all operations that are not published: more than may be
(`Pressure.is_over` of `cache.publish`), and as much as a commit holds."""


def largest_payload(kind: int) -> int:
    """Bytes that the payload of a record of that type has at most."""
    return MAX_REBASED if kind == RecordType.REBASED else MAX_PAYLOAD


@dataclass(frozen=True, slots=True)
class Rebased:
    """The payload of a REBASED record. `base`, `base_hash`: the newest published commit. `moved`: by inode,
    where its dirty content is now; 0: nowhere."""

    base: int
    base_hash: bytes
    operations: tuple[bytes, ...]
    moved: dict[int, int]


@dataclass(frozen=True, slots=True)
class SegmentHeader:
    number: int
    first_sequence: int
    open_commit: int
    salt: int = 0
    """random, 32 bits"""

    @property
    def seed(self) -> int:
        """Of the checksums of its records."""
        return (self.salt << 32 ^ self.number) & _U64


CONTENT_HEADER: Final = struct.Struct("<QQq")
"""inode, offset (or size), time in nanoseconds: how DATA and TRUNCATE begin."""
_TIMES: Final = struct.Struct("<Qqq")
_BULK: Final = struct.Struct("<QQqQIQ")
_GIVEN_UP: Final = struct.Struct("<Q")
_UNCUT: Final = struct.Struct("<QQ")
FOLLOWED_HEADER: Final = struct.Struct("<QII")
"""commit number, offset, size of the whole: how FOLLOWED begins."""
_LARGEST_PIECE: Final = 16 << 20
"""Bytes of a commit in one FOLLOWED record."""


@dataclass(frozen=True, slots=True)
class Bulk:
    """The payload of a BULK record: a write whose bytes are elsewhere."""

    inode: int
    offset: int
    time_ns: int
    position: int
    """number of the bulk file << 32 | offset in it"""
    length: int
    checksum: int


def encode_segment_header(header: SegmentHeader) -> bytes:
    """`SEGMENT_HEADER_SIZE` bytes."""
    fields = (MAGIC, VERSION, 0, header.salt, header.number, header.first_sequence, header.open_commit)
    checksum = xxhash.xxh3_64_intdigest(SEGMENT_HEADER.pack(*fields, 0))
    return SEGMENT_HEADER.pack(*fields, checksum)


def decode_segment_header(data: Buffer) -> SegmentHeader | None:
    """The header, or None if these bytes are none (never written, torn). `FormatError` for a
    version that this code does not know."""
    if len(data) < SEGMENT_HEADER_SIZE:
        return None
    magic, version, reserved, salt, number, first, commit, checksum = SEGMENT_HEADER.unpack_from(data)
    fields = (magic, version, reserved, salt, number, first, commit)
    if magic != MAGIC or xxhash.xxh3_64_intdigest(SEGMENT_HEADER.pack(*fields, 0)) != checksum:
        return None
    if not _OLDEST_VERSION <= version <= VERSION:
        raise FormatError(f"journal segment version {version} is unknown (this drivefs knows {VERSION})")
    return SegmentHeader(number, first, commit, salt)


def encode_record_header(
    seed: int, kind: int, sequence: int, parts: tuple[Buffer, ...], length: int
) -> bytes:
    """The header of a record whose payload is the concatenation of `parts`, `length` bytes, in a segment of
    that seed."""
    checked = (_CHECKED.pack(length, kind, sequence), *parts)
    return RECORD_HEADER.pack(length, kind, sequence, _digest(seed, checked, length))


def _digest(seed: int, parts: tuple[Buffer, ...], length: int) -> int:
    """xxh3 of the parts joined. To join a few bytes takes less time than to make a hash object."""
    if length <= _SHORT:
        return xxhash.xxh3_64_intdigest(b"".join(parts), seed)
    checksum = xxhash.xxh3_64(seed=seed)
    for part in parts:
        checksum.update(part)
    return checksum.intdigest()


def decode_record(
    seed: int, data: memoryview, offset: int, sequence: int
) -> tuple[RecordType, memoryview] | None:
    """The type and payload of the record at `offset`, or None where the journal ends: zeros, a
    torn record, another sequence number or another life of the segment."""
    if offset + RECORD_HEADER_SIZE > len(data):
        return None
    length, kind, number, checksum = RECORD_HEADER.unpack_from(data, offset)
    end = offset + RECORD_HEADER_SIZE + length
    if number != sequence or length > largest_payload(kind) or end > len(data):
        return None
    payload = data[offset + RECORD_HEADER_SIZE : end]
    digest = xxhash.xxh3_64(_CHECKED.pack(length, kind, number), seed=seed)
    digest.update(payload)
    if digest.intdigest() != checksum:
        return None
    try:
        return RecordType(kind), payload
    except ValueError:
        raise FormatError(f"journal record type {kind} is unknown to this drivefs") from None


def record_sequence(data: memoryview, offset: int) -> int:
    """The sequence number that the record header at `offset`, be it right or not, says; 0 if the data ends
    before it does."""
    if offset + RECORD_HEADER_SIZE > len(data):
        return 0
    _, _, number, _ = RECORD_HEADER.unpack_from(data, offset)
    return int(number)


def encode_batch(operations: Sequence[bytes]) -> bytes:
    """Payload of a BATCH record. The journal refuses one over `MAX_PAYLOAD`."""
    return bytes(msgpack.packb(list(operations)))


def decode_batch(payload: Buffer) -> list[bytes]:
    """The encoded operations. `FormatError` for anything but what `encode_batch` makes; msgpack allocates
    nothing on the word of a length that the bytes do not bear out."""
    try:
        operations = msgpack.unpackb(payload, max_array_len=len(payload), max_bin_len=len(payload))
    except (ValueError, msgpack.UnpackException) as error:
        raise FormatError(f"not a batch of operations: {error}") from None
    if type(operations) is not list or not all(type(operation) is bytes for operation in operations):
        raise FormatError("not a batch of operations: something else is in it")
    return operations


def bulk_checksum(position: int, data: Buffer) -> int:
    """Of bytes at that place: the same elsewhere do not pass for them."""
    return xxhash.xxh3_64_intdigest(data, seed=position)


def encode_bulk(bulk: Bulk) -> bytes:
    """Payload of a BULK record."""
    return _BULK.pack(bulk.inode, bulk.offset, bulk.time_ns, bulk.position, bulk.length, bulk.checksum)


def decode_bulk(payload: Buffer) -> Bulk:
    """The value that `encode_bulk` was given. `FormatError` for a payload of another length."""
    if len(payload) != _BULK.size:
        raise FormatError(f"a BULK record of {len(payload)} bytes")
    return Bulk(*_BULK.unpack(payload))


def encode_times(inode: int, mtime_ns: int, ctime_ns: int) -> bytes:
    """Payload of a TIMES record."""
    return _TIMES.pack(inode, stored_time(mtime_ns), stored_time(ctime_ns))


def decode_times(payload: Buffer) -> tuple[int, int, int]:
    """(inode, modification time, change time). `FormatError` for a payload of another length."""
    if len(payload) != _TIMES.size:
        raise FormatError(f"a TIMES record of {len(payload)} bytes")
    inode, mtime_ns, ctime_ns = _TIMES.unpack(payload)
    return inode, loaded_time(mtime_ns), loaded_time(ctime_ns)


def encode_given_up(position: int) -> bytes:
    """Payload of a GIVEN_UP or VOID record."""
    return _GIVEN_UP.pack(position)


def decode_given_up(payload: Buffer) -> int:
    """The position. `FormatError` for a payload of another length."""
    if len(payload) != _GIVEN_UP.size:
        raise FormatError(f"a GIVEN_UP or VOID record of {len(payload)} bytes")
    (position,) = _GIVEN_UP.unpack(payload)
    return int(position)


def encode_uncut(begin: int, end: int) -> bytes:
    """Payload of an UNCUT record: the cut is what is said in [begin, end)."""
    return _UNCUT.pack(begin, end)


def decode_uncut(payload: Buffer) -> tuple[int, int]:
    """The positions that `encode_uncut` was given. `FormatError` for a payload of another length."""
    if len(payload) != _UNCUT.size:
        raise FormatError(f"an UNCUT record of {len(payload)} bytes")
    begin, end = _UNCUT.unpack(payload)
    return begin, end


def encode_cut(commit: int, time_ns: int, inodes: list[int]) -> bytes:
    """Payload of a CUT record."""
    return bytes(msgpack.packb([commit, time_ns, inodes]))


def decode_cut(payload: Buffer) -> tuple[int, int, list[int]]:
    """(commit, time, frozen inodes)."""
    commit, time_ns, inodes = msgpack.unpackb(payload)
    return commit, time_ns, inodes


def encode_extents(commit: int, operation: bytes) -> bytes:
    """Payload of an EXTENTS record."""
    return bytes(msgpack.packb([commit, operation]))


def decode_extents(payload: Buffer) -> tuple[int, bytes]:
    """(commit, encoded SetExtents)."""
    commit, operation = msgpack.unpackb(payload)
    return commit, operation


def encode_published(commit: int, time_ns: int, commit_hash: bytes, needed: int) -> bytes:
    """Payload of a PUBLISHED record."""
    return bytes(msgpack.packb([commit, time_ns, commit_hash, needed]))


def decode_published(payload: Buffer) -> tuple[int, int, bytes, int]:
    """(commit, time, hash, needed); the last is 0 in segments up to version 3, which did not have it."""
    commit, time_ns, commit_hash, *needed = msgpack.unpackb(payload)
    return commit, time_ns, commit_hash, needed[0] if needed else 0


def encode_followed(number: int, commit: Buffer) -> Iterator[tuple[bytes, Buffer]]:
    """Payloads, in two parts each, of the FOLLOWED records that say an encoded commit."""
    for offset in range(0, len(commit), _LARGEST_PIECE):
        piece = memoryview(commit)[offset : offset + _LARGEST_PIECE]
        yield FOLLOWED_HEADER.pack(number, offset, len(commit)), piece


def decode_followed(payload: Buffer) -> tuple[int, int, int]:
    """(commit number, offset, length) of the piece that the payload ends with. `FormatError`: it cannot be
    part of a commit of the size that it says."""
    if len(payload) <= FOLLOWED_HEADER.size:
        raise FormatError(f"a FOLLOWED record of {len(payload)} bytes")
    number, offset, size = FOLLOWED_HEADER.unpack_from(payload)
    length = len(payload) - FOLLOWED_HEADER.size
    if offset + length > size:
        raise FormatError(f"a FOLLOWED record with bytes {offset} to {offset + length} of {size}")
    return number, offset, length


def encode_rebased(rebased: Rebased) -> bytes:
    """Payload of a REBASED record. The journal refuses one over `MAX_REBASED`."""
    moved = sorted(rebased.moved.items())
    return bytes(msgpack.packb([rebased.base, rebased.base_hash, rebased.operations, moved]))


def decode_rebased(payload: Buffer) -> Rebased:
    """The value that `encode_rebased` was given. `FormatError` for anything else."""
    try:
        base, base_hash, operations, moved = msgpack.unpackb(
            payload, max_array_len=len(payload), max_bin_len=len(payload)
        )
        rebased = Rebased(base, base_hash, tuple(operations), {inode: to for inode, to in moved})
    except (ValueError, TypeError, msgpack.UnpackException) as error:
        raise FormatError(f"not a REBASED record: {error}") from None
    numbers = (base, *rebased.moved, *rebased.moved.values())
    if any(type(number) is not int for number in numbers) or any(
        type(each) is not bytes for each in (base_hash, *rebased.operations)
    ):
        raise FormatError("not a REBASED record: something else is in it")
    return rebased

"""From what was cut to the commit that is appended: the extents of its contents, and its envelope.

Pure functions, but for the nonce: of one cut no two commits are equal, so that one which may have been
appended has to be kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from backend.commits import payload_associated_data, signed
from backend.upstream import BlockId, Commit, Head
from cache.journal import Layer, PendingCommit, Stored
from cache.namespace import InodeRow, Release, SetExtents, decode, encode, is_release
from cache.publish.commit_payload import seal_operations

_CONTENT: Final = encode(SetExtents(0, 0, (), ()))[:2]
"""how an encoded operation with extents begins"""


@dataclass(frozen=True, slots=True)
class LogKeys:
    """What opens the commits of a drive."""

    drive_id: bytes
    commit_key: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class CommitIdentity:
    """The maker of a commit. `host`: what the machine is called, for people."""

    keys: LogKeys
    device: int
    host: bytes
    signing_key: bytes = field(repr=False)


def extents_of(row: InodeRow, layer: Layer) -> SetExtents:
    """The operation that puts what the layer has, all of it stored, into the file of `row`."""
    cleared: list[tuple[int, int]] = []
    extents: list[tuple[int, int, bytes, int]] = []
    for piece in layer.pieces:
        if cleared and cleared[-1][1] == piece.start:
            cleared[-1] = (cleared[-1][0], piece.end)
        else:
            cleared.append((piece.start, piece.end))
        if isinstance(piece, Stored):
            _join(extents, piece)
    return SetExtents(row.inode, row.content_commit, tuple(cleared), tuple(extents))


def _join(extents: list[tuple[int, int, bytes, int]], piece: Stored) -> None:
    """Add the piece, as more of the extent before where it goes on in the same block."""
    length = piece.end - piece.start
    if extents:
        offset, before, block, block_offset = extents[-1]
        if (offset + before, block, block_offset + before) == (piece.start, piece.block, piece.block_offset):
            extents[-1] = (offset, before + length, block, block_offset)
            return
    extents.append((piece.start, length, piece.block, piece.block_offset))


def build(identity: CommitIdentity, pending: PendingCommit, head: Head, epoch: int, sequence: int) -> Commit:
    """The commit of what was cut, after `head`, by a session of this epoch; `sequence` is the device's."""
    operations = pending.all_operations()
    added = tuple(sorted(blocks_named(operations)))
    dropped = tuple(sorted(_released(pending.operations)))
    draft = Commit(
        pending.number, head.hash, identity.device, epoch, pending.time_ns, added, dropped, b"", sequence
    )
    return sealed(identity, draft, operations)


def sealed(identity: CommitIdentity, draft: Commit, operations: Sequence[bytes]) -> Commit:
    """The commit that `draft` is without its payload and its signature."""
    drive_id = identity.keys.drive_id
    binding = payload_associated_data(drive_id, draft)
    payload = seal_operations(identity.keys.commit_key, operations, binding)
    return signed(drive_id, replace(draft, payload=payload), identity.signing_key)


def blocks_named(operations: list[bytes]) -> set[BlockId]:
    """The blocks that the contents in a commit refer to: written ones, and those of instant copies."""
    found: set[BlockId] = set()
    for encoded in operations:
        if encoded[:2] != _CONTENT:
            continue
        operation = decode(encoded)
        assert isinstance(operation, SetExtents)
        found.update(BlockId(block) for _, _, block, _ in operation.extents)
    return found


def _released(operations: list[bytes]) -> set[BlockId]:
    found: set[BlockId] = set()
    for encoded in filter(is_release, operations):
        operation = decode(encoded)
        assert isinstance(operation, Release)
        found.update(map(BlockId, operation.blocks))
    return found


def is_same_commit(pending: PendingCommit, operations: list[bytes], head: Head, commit: Commit) -> bool:
    """Whether `commit`, whose opened payload is `operations`, is the pending one: a process that was
    killed between appending and noting it finds its own commit in the log."""
    return (commit.number, commit.previous) == (
        pending.number,
        head.hash,
    ) and operations == pending.all_operations()

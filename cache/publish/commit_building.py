"""From what was cut to the commit that is appended: the extents of its contents, and its envelope.

Pure functions, but for the nonce: of one cut no two commits are equal, so that one which may have been
appended has to be kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from backend.commits import encode_authority, payload_associated_data, signed
from backend.keys import KeyRing
from backend.upstream import BlockId, Commit, Head
from cache.journal import Layer, PendingCommit, Stored
from cache.namespace import (
    InodeRow,
    Namespace,
    Release,
    SetExtents,
    decode,
    encode,
    is_release,
)
from cache.publish.commit_payload import seal_operations
from cache.publish.key_epochs import commit_key, epoch_begun

_CONTENT: Final = encode(SetExtents(0, 0, (), ()))[:2]
"""how an encoded operation with extents begins"""


@dataclass(frozen=True, slots=True)
class CommitIdentity:
    """The maker of a commit. `host`: what the machine is called, for people."""

    ring: KeyRing
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


def build(identity: CommitIdentity, pending: PendingCommit, namespace: Namespace, epoch: int) -> Commit:
    """The commit of what was cut, after the newest published one, by a session of this epoch."""
    operations = pending.all_operations()
    added = tuple(sorted(blocks_named(operations)))
    dropped = tuple(sorted(_released(pending.operations)))
    number, device, previous = pending.number, identity.device, namespace.head().hash
    sequence, newest = namespace.devices.sequence_of(device) + 1, namespace.epochs.as_of(number)
    assert newest is not None, "the first one begins where the first device is added"
    envelope = (number, previous, device, epoch, pending.time_ns, added, dropped)
    draft = Commit(*envelope, payload=b"", sequence=sequence, key_epoch=newest.number)
    return sealed(identity, draft, operations)


def sealed(identity: CommitIdentity, draft: Commit, operations: Sequence[bytes]) -> Commit:
    """The commit that `draft` is without its authority section, its payload and its signature."""
    ring = identity.ring
    draft = replace(draft, authority=encode_authority(epoch_begun(operations)))
    binding = payload_associated_data(ring.drive_id, draft)
    payload = seal_operations(commit_key(ring, draft), operations, binding)
    return signed(ring.drive_id, replace(draft, payload=payload), identity.signing_key)


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

"""The key epochs of commits: which one seals a payload, and the one that begins where a device is revoked."""

from __future__ import annotations

from collections.abc import Sequence

from backend.commits import MAX_EPOCH, decode_authority
from backend.errors import CorruptError, UsageError
from backend.keys import KeyRing
from backend.upstream import Commit, KeyEpoch
from cache.journal import Ledger
from cache.namespace import NewEpoch, Operation, decode, is_new_epoch


def commit_key(ring: KeyRing, commit: Commit) -> bytes:
    """The key of the payload of `commit`, which may begin its key epoch itself. `CorruptError`,
    `FormatError`: its envelope names none that is there."""
    begun = decode_authority(commit.authority)
    if begun is None:
        return ring.of(commit.key_epoch).commit
    if begun.number != commit.key_epoch:
        raise CorruptError(f"it begins key epoch {begun.number} and says it is of {commit.key_epoch}")
    return ring.opened(begun.number, begun.wrapped).commit


def epoch_begun(operations: Sequence[bytes]) -> KeyEpoch | None:
    """The key epoch that a commit of these encoded operations begins, if it does."""
    for encoded in filter(is_new_epoch, operations):
        operation = decode(encoded)
        assert isinstance(operation, NewEpoch)
        return KeyEpoch(operation.number, operation.wrapped, operation.before)
    return None


def begin_if_due(ledger: Ledger, ring: KeyRing) -> None:
    """Have the open commit begin a key epoch if it revokes a device, which is to read nothing that comes
    after it. Nothing is pending. Raises what `Ledger.accept` raises."""
    if ledger.namespace.devices.is_any_revoked_in(ledger.namespace.commit):
        ledger.accept_all(next_epoch(ledger, ring))


def next_epoch(ledger: Ledger, ring: KeyRing) -> list[Operation]:
    """The operation by which the open commit begins a key epoch; none if one begins that is not published
    yet. `UsageError`: the drive has had its last."""
    epochs = ledger.namespace.epochs
    newest = epochs.newest()
    is_published = newest == epochs.as_of(ledger.head.number)
    if not is_published:
        return []
    if newest is not None and newest.number >= MAX_EPOCH:
        raise UsageError(
            f"the drive has had its {MAX_EPOCH} key epochs, so none begins and no device can be revoked any "
            "more: its files can be copied to a new drive"
        )
    return [NewEpoch(*ring.next_after(newest))]

"""Under which key epoch a commit is sealed: the one place where that is judged (docs/format/key_epoch.md).

A commit is judged by the epochs as of the commit before it, and by what it begins itself. Functions of these
rows, the ring and the commit; they change no row. Reading need not wait for that: `learn_ahead`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

from backend.commits import decode_authority, encode_authority
from backend.errors import CorruptError, FormatError
from backend.keys import KeyRing
from backend.upstream import Commit, CommitLog, KeyEpoch
from cache.namespace import MalformedError, Namespace, NewEpoch, Operation, RevokeDevice, check_form

MOST_AHEAD: Final = 1 << 14
"""Commits that are looked through for epochs: who has no key can make them without end."""
_AT_ONCE: Final = 256


def check_epoch(
    namespace: Namespace, ring: KeyRing, commit: Commit, operations: Sequence[Operation]
) -> list[KeyEpoch]:
    """The epoch that `commit`, whose operations are these, begins; none or one. `MalformedError` unless the
    commit is of that, or of the newest before it; unless its authority section says the same as its
    operations; and if it revokes a device and begins none. `namespace` holds the commits before it."""
    begun = list(_begun(operations))
    before = namespace.epochs.as_of(commit.number - 1)
    if len(begun) > 1 or encode_authority(begun[0] if begun else None) != commit.authority:
        raise MalformedError("its authority section is not what its operations say")
    expected = begun[0].number if begun else _number_of(before)
    if commit.key_epoch != expected or (begun and expected != _number_of(before) + 1):
        raise MalformedError(
            f"it is of key epoch {commit.key_epoch}, and the newest before it is {_number_of(before)}"
        )
    if not begun and any(isinstance(each, RevokeDevice) for each in operations):
        raise MalformedError("it revokes a device and begins no key epoch")
    for each in begun:
        _check_chain(ring, each, before)
    return begun


async def learn_ahead(ring: KeyRing, log: CommitLog, after: int, most: int = MOST_AHEAD) -> None:
    """`ring` learns the epochs that the commits after number `after` begin, `most` commits at most, before
    these are judged: it opens what others sealed under them, and seals nothing. `CorruptError`: one is
    damaged, or nobody who has the drive's key made it; what asking the log raises."""
    at, until = after, after + most
    while at < until and (commits := await log.commits_after(at, min(_AT_ONCE, until - at))):
        for commit, _ in commits:
            begun = _epoch_of(commit)
            if begun is not None:
                ring.learn_ahead(begun)
        at = commits[-1][0].number


def _epoch_of(commit: Commit) -> KeyEpoch | None:
    try:
        return decode_authority(commit.authority)
    except (CorruptError, FormatError) as error:
        raise MalformedError(f"commit {commit.number} is damaged: {error}") from error


def _begun(operations: Sequence[Operation]) -> Iterator[KeyEpoch]:
    for each in operations:
        if isinstance(each, NewEpoch):
            check_form(each)
            yield KeyEpoch(each.number, each.wrapped, each.before)


def _number_of(epoch: KeyEpoch | None) -> int:
    return 0 if epoch is None else epoch.number


def _check_chain(ring: KeyRing, epoch: KeyEpoch, before: KeyEpoch | None) -> None:
    try:
        ring.check(epoch, before)
    except CorruptError as error:
        raise MalformedError(str(error)) from error

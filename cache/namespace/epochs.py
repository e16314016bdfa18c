"""The key epochs of a drive as rows: which there are, from which commit on, their keys sealed.

Invariants (event-loop thread only):
1. Epochs are numbered from 1 without a gap, and none ever goes: blocks of each may be there.
2. The rows as of commit N-1, and what N itself begins, say under which epoch N is sealed.
"""

from __future__ import annotations

from typing import Final

from backend.upstream import KeyEpoch
from cache.namespace.refusals import OutOfDateError
from cache.namespace.row_store import RowStore, insert

_PUT: Final = insert("key_epoch", ("number", "wrapped", "before", "born"))
_OF: Final = "SELECT number, wrapped, before FROM key_epoch WHERE born <= ? ORDER BY number DESC LIMIT 1"
_ALL: Final = "SELECT number, wrapped, before FROM key_epoch WHERE born <= ? ORDER BY number"


class EpochStore:
    """The table `key_epoch`."""

    def __init__(self, store: RowStore) -> None:
        self._store = store

    def newest(self) -> KeyEpoch | None:
        """The newest, published or not; None if the drive has none yet."""
        return self.as_of(self._store.commit)

    def as_of(self, commit: int) -> KeyEpoch | None:
        """The newest one that began with `commit` or before."""
        found = self._store.connection.execute(_OF, (commit,)).fetchone()
        return None if found is None else KeyEpoch(*found)

    def until(self, commit: int) -> list[KeyEpoch]:
        """All that began with `commit` or before, in order."""
        return [KeyEpoch(*row) for row in self._store.connection.execute(_ALL, (commit,))]

    def add(self, epoch: KeyEpoch) -> None:
        """`OutOfDateError` if it is not the next one."""
        before = self.newest()
        expected = 1 if before is None else before.number + 1
        if epoch.number != expected:
            raise OutOfDateError(f"an operation begins key epoch {epoch.number}, and {expected} is next")
        self._store.write(_PUT, [(*epoch, self._store.commit)])

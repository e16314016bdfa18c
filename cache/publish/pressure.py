"""The pressure of what was accepted and is not published: when a cut should not wait, when writers have to.

Neither the journal nor memory may be outgrown, nor what one commit can hold. Event-loop thread.
"""

from __future__ import annotations

from typing import Final

from cache.journal import LITTLE, Ledger, Trimming

OPERATIONS_LIMIT: Final = 16 << 20
"""Encoded operations in memory that make a cut due."""
WRITES_LIMIT: Final = 100_000
"""Writes in memory that make a cut due; each may become a block, of which a commit holds 2^19."""


class Pressure:
    """See the module. `journal_limit`: bytes of the journal at which writers wait."""

    def __init__(self, ledger: Ledger, trimming: Trimming, journal_limit: int) -> None:
        self._ledger = ledger
        self._trimming = trimming
        self._journal_limit = journal_limit

    @property
    def calls_for_cut(self) -> bool:
        """Whether a cut should not wait for its time: the journal or memory fills, or the journal is lost."""
        ledger = self._ledger
        return (
            ledger.operation_bytes > OPERATIONS_LIMIT
            or ledger.open_writes > WRITES_LIMIT
            or self._trimming.journal_bytes > self._journal_limit // 2
            or ledger.room.is_tight
            or bool(ledger.custody.lost)
            or self._trimming.journal_bytes > max(ledger.local_left(), LITTLE)
        )

    @property
    def blocks_writers(self) -> bool:
        """Whether writers have to wait."""
        return self.is_over(1)

    def is_over(self, times: int) -> bool:
        """Whether so many times as much was accepted as makes writers wait."""
        ledger = self._ledger
        used = ledger.journal.used_bytes
        return (
            used - self._trimming.pinned_bytes > times * self._journal_limit
            or ledger.operation_bytes > 2 * times * OPERATIONS_LIMIT
            or ledger.open_writes > 2 * times * WRITES_LIMIT
            or (used > LITTLE and ledger.local_room.is_short(ledger.local_left(), times))
        )

"""A cut that was taken back: the journal says which commit an operation is of, whatever was let go."""

from __future__ import annotations

from pathlib import Path
from stat import S_IFREG
from tempfile import TemporaryDirectory

from hypothesis import example, given
from hypothesis import strategies as st

from backend.upstream import Head
from cache.journal import SMALLEST_SEGMENT, Ledger
from cache.journal.journal import Journal
from cache.journal.scan import PendingCommit, scan
from cache.local.local_state import JOURNAL, LocalState
from cache.namespace.operations import ROOT_INODE, Create, SetAttributes

FILES = (10, 11, 12)
Steps = list[tuple[str, int]]
Rounds = list[tuple[Steps, set[int], Steps, set[int], Steps]]
OPERATION, SEGMENT = ("operation", 0), ("segment", 0)
_step = st.one_of(st.just(OPERATION), st.just(SEGMENT), st.tuples(st.just("write"), st.sampled_from(FILES)))
_steps = st.lists(_step, max_size=4)
_inodes = st.sets(st.sampled_from(FILES))
_rounds = st.lists(st.tuples(_steps, _inodes, _steps, _inodes, _steps), max_size=3)
"""What comes before a cut, what it takes, what comes before it is taken back; what the next takes, and what
comes before that is published."""


class History:
    """A ledger that cuts, takes back and publishes."""

    def __init__(self, ledger: Ledger) -> None:
        self.ledger = ledger
        self.now = 1
        for inode in FILES:
            name = b"%d" % inode
            self.ledger.accept(Create(ROOT_INODE, name, inode, S_IFREG | 0o644, 0, 0, 0, b"", self.now))

    def take(self, steps: Steps) -> None:
        for kind, inode in steps:
            self.now += 1
            if kind == "operation":
                self.ledger.accept(SetAttributes(ROOT_INODE, mtime_ns=self.now))
            elif kind == "write":
                self.ledger.write(inode, 0, b"content", self.now)
            else:
                self.ledger.journal.begin_segment(self.ledger.namespace.commit)

    def cut_and_take_back(self, inodes: set[int], meanwhile: Steps) -> None:
        if self._cut(inodes) is not None:
            self.take(meanwhile)
            self.ledger.reopen()

    def cut_and_publish(self, inodes: set[int], meanwhile: Steps) -> None:
        pending = self._cut(inodes)
        if pending is not None:
            self.take(meanwhile)
            self.ledger.published(Head(pending.number, bytes([pending.number]) * 32))

    def _cut(self, inodes: set[int]) -> PendingCommit | None:
        return self.ledger.cut([inode for inode, _ in self.ledger.dirty.tops() if inode in inodes])

    def needed(self) -> int:
        """As trimming has it."""
        oldest = self.ledger.dirty.oldest_position()
        published = self.ledger.positions.published
        return published if oldest is None else min(published, oldest)


@given(_rounds, _steps)
@example([([("write", 10)], {10}, [SEGMENT, OPERATION, ("write", 11)], {10}, [])], [])
async def test_what_is_left_of_the_journal_has_each_operation_in_its_commit(
    rounds: Rounds, last: Steps
) -> None:
    with TemporaryDirectory() as name:
        local = LocalState(Path(name))
        local.ledger.journal.segment_size = SMALLEST_SEGMENT
        local.recovery.replay()
        history = History(local.ledger)
        for before, first, meanwhile, second, later in rounds:
            history.take(before)
            history.cut_and_take_back(first, meanwhile)
            history.cut_and_publish(second, later)
        history.take(last)
        operations, commit = local.ledger.operations, local.namespace.commit
        local.ledger.journal.drop_before(history.needed())
        dirty = {inode for inode, _ in local.ledger.dirty.tops()}
        local.close()
        found = scan(Journal(Path(name) / JOURNAL))
        assert found.commit == commit
        assert {inode for inode, _ in found.dirty.tops()} == dirty
        left = {each.number: each.operations for each in found.unfinished() if each.number >= commit}
        assert left.pop(commit, []) == operations
        assert not left

"""A cut that was taken back: the journal says which commit an operation is of, whatever was let go."""

from __future__ import annotations

from pathlib import Path
from stat import S_IFREG
from tempfile import TemporaryDirectory

from hypothesis import assume, example, given
from hypothesis import strategies as st

from backend.upstream import Head
from cache.journal import SMALLEST_SEGMENT, SUFFIX, Ledger
from cache.journal.format import OFFSET_BITS
from cache.journal.journal import Journal
from cache.journal.scan import PendingCommit, Scan, scan
from cache.local.local_state import JOURNAL, LocalState
from cache.namespace.operations import ROOT_INODE, Create, SetAttributes
from tests.unreadable import Unreadable, is_before, pages_of

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
        self.stated = 0
        """what the newest PUBLISHED record says is needed"""
        for inode in FILES:
            name = b"%d" % inode
            self.ledger.accept(Create(ROOT_INODE, name, inode, S_IFREG | 0o644, 0, 0, 0, b"", self.now))

    def take(self, steps: Steps) -> None:
        for kind, inode in steps:
            self.now += 1
            if kind == "operation":
                self.ledger.accept(SetAttributes(ROOT_INODE, mtime_ns=self.now))
            elif kind == "write":
                self.ledger.write(inode, 0, b"content" * 1000, self.now)
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
            self.stated = min(pending.oldest, pending.start)
            self.ledger.published(Head(pending.number, bytes([pending.number]) * 32))

    def _cut(self, inodes: set[int]) -> PendingCommit | None:
        return self.ledger.cut([inode for inode, _ in self.ledger.dirty.tops() if inode in inodes])

    def live(self, rounds: Rounds, last: Steps) -> None:
        for before, first, meanwhile, second, later in rounds:
            self.take(before)
            self.cut_and_take_back(first, meanwhile)
            self.cut_and_publish(second, later)
        self.take(last)
        self.operations, self.commit = self.ledger.operations, self.ledger.namespace.commit
        self.dirty = {inode for inode, _ in self.ledger.dirty.tops()}
        self.head = self.ledger.head.number

    def compare(self, found: Scan) -> None:
        """What was not published is what the scan says."""
        assert found.commit == self.commit
        assert {inode for inode, _ in found.dirty.tops()} == self.dirty
        left = {each.number: each.operations for each in found.unfinished() if each.number >= self.commit}
        assert left.pop(self.commit, []) == self.operations
        assert not left

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
        history.live(rounds, last)
        local.ledger.journal.drop_before(history.needed())
        local.close()
        history.compare(scan(Journal(Path(name) / JOURNAL)))


_WRITES = [("write", 10)] * 3
_ROT: Rounds = [(_WRITES, {10}, [SEGMENT], {10}, []), (_WRITES, {10}, [SEGMENT], {10}, [])]


@given(_rounds, _steps, st.integers(0, 1 << 30), st.booleans())
@example([(_WRITES, set(), [], {10}, []), (_WRITES, {10}, [], {10}, [])], [], 1, False)
@example(_ROT, [], 0, True)
async def test_what_is_needed_of_the_journal_has_each_operation_in_its_commit(
    rounds: Rounds, last: Steps, chance: int, rots: bool
) -> None:
    """The same, of one that cannot be read somewhere before, or of which a segment's header is not one."""
    with TemporaryDirectory() as name:
        local = LocalState(Path(name))
        local.ledger.journal.segment_size = SMALLEST_SEGMENT
        local.recovery.replay()
        history, unreadable = History(local.ledger), Unreadable(Path(name))
        history.live(rounds, last)
        local.close()
        pages = [page for page in pages_of(Path(name)) if is_before(history.stated, page)]
        assume(pages)
        page = pages[chance % len(pages)]
        if rots and page >> OFFSET_BITS < history.stated >> OFFSET_BITS:
            with open(Path(name, JOURNAL, f"{page >> OFFSET_BITS:016x}{SUFFIX}"), "r+b") as file:
                file.write(b"no header")
        else:
            unreadable.break_at(page)
        with unreadable.installed():
            journal = Journal(Path(name) / JOURNAL)
            history.compare(scan(journal, published=history.head))
            assert journal.begin == history.stated

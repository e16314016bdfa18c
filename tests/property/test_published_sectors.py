"""A bad sector anywhere in a journal: where all that it held is published, nothing is lost and nothing set
aside."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from stat import S_IFREG
from tempfile import TemporaryDirectory
from unittest.mock import patch

import pytest
from hypothesis import event, example, given
from hypothesis import strategies as st

import cache.journal.ledger
from cache.drive import Drive
from cache.journal.format import encode_published
from cache.namespace.operations import ROOT_INODE
from cache.recovery import StaleCacheError
from tests.contents import content
from tests.drives import QUIET, make_file, opened, tree
from tests.memory_upstream import MemoryUpstream
from tests.unreadable import Unreadable, is_before, pages_of

OPTIONS = replace(QUIET, large_write=20_000, journal_size=1 << 20)
_size = st.sampled_from([9_000, 900, 10, 25_000])
_mostly = st.sampled_from([True, True, False])
Round = tuple[list[int], bool, bool]
"""Sizes of files that are made and closed; whether those that are open are closed, and whether one is opened
that stays so. Then a commit is published."""
ROUNDS = st.lists(
    st.tuples(st.lists(_size, min_size=1, max_size=4), _mostly, _mostly), min_size=2, max_size=6
)


@dataclass
class Life:
    """What a process does until it is killed. `needed`: as its newest PUBLISHED record has it."""

    needed: int = 0
    opened: list[int] = field(default_factory=list)
    count: int = 0

    async def run(self, drive: Drive, rounds: list[Round], last: list[int]) -> None:
        for sizes, closes, opens in rounds:
            await self.make(drive, sizes)
            if closes:
                for inode in self.opened:
                    await drive.settle(inode)
                self.opened.clear()
            if opens:
                made = await drive.make_node(ROOT_INODE, self.name(), S_IFREG | 0o644, 0, 0, 0)
                await drive.write(made.inode, 0, content("text", 2000, self.count))
                self.opened.append(made.inode)
            await drive.publisher.publish(everything=False)
        await self.make(drive, last)

    async def make(self, drive: Drive, sizes: list[int]) -> None:
        for size in sizes:
            await make_file(drive, self.name(), content("random", size, self.count))

    def name(self) -> bytes:
        self.count += 1
        return b"%03d" % self.count

    def published(self, commit: int, time_ns: int, commit_hash: bytes, needed: int) -> bytes:
        """Beside `encode_published`."""
        self.needed = needed
        return encode_published(commit, time_ns, commit_hash, needed)


_ROUND = ([9_000, 900], True, True)


@pytest.mark.logs_warnings
@given(ROUNDS, st.lists(_size, max_size=3), st.booleans(), st.integers(0, 1 << 30))
@example([_ROUND, _ROUND], [900], True, 1)
@example([_ROUND, *([([9_000] * 4, True, True)] * 4)], [900], True, 0)
async def test_what_is_published_need_not_be_read(
    rounds: list[Round], last: list[int], is_stored: bool, chance: int
) -> None:
    """`is_stored`: the sector is where all is published, if there is such a place."""
    with TemporaryDirectory() as name:
        folder, life, upstream = Path(name, "here"), Life(), MemoryUpstream()
        with patch.object(cache.journal.ledger, "encode_published", life.published):
            async with opened(folder, upstream, OPTIONS, crash=True) as drive:
                await life.run(drive, rounds, last)
                expected = await tree(drive)
        upstream.lose_unflushed()
        unreadable, pages = Unreadable(folder), pages_of(folder)
        pages = [page for page in pages if is_before(life.needed, page) == is_stored] or pages
        page = pages[chance % len(pages)]
        unreadable.break_at(page)
        with unreadable.installed():
            is_stored = is_before(life.needed, page)
            event(f"stored: {is_stored}")
            try:
                async with opened(folder, upstream, OPTIONS) as drive:
                    assert drive.notices
                    if is_stored:
                        assert await tree(drive) == expected
                        (line, *_) = drive.notices
                        assert "is stored" in line
                    await drive.sync()
                    found = await tree(drive)
            except StaleCacheError:
                assert not is_stored
                return
        async with opened(Path(name, "there"), upstream, read_only=True) as other:
            assert await tree(other) == found

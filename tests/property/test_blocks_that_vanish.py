"""A commit was stored, its extents are journaled, and it was not appended: nothing in the log names its
blocks, so another mount may let them go. The journal has their bytes: they are stored anew.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backend.errors import TransientError
from backend.upstream import BlockId, Commit, Head
from cache.drive import Drive
from cache.namespace.operations import ROOT_INODE
from tests.contents import contents
from tests.drives import content_of, make_file, opened
from tests.memory_upstream import MemoryUpstream

WAYS = ("crash", "close")


class NeverAppends(MemoryUpstream):
    """Stores blocks; appends only while `appends`."""

    appends = True

    async def append(self, commit: Commit, expected: Head) -> Head:
        if not self.appends:
            raise TransientError("the answer did not come")
        return await super().append(commit, expected)


def vanish(upstream: MemoryUpstream, which: Iterator[bool]) -> None:
    """Some of the blocks that no commit names."""
    named = {block for commit, _ in upstream.commits for block in commit.added}
    for block in sorted(upstream.stored.keys() - named):
        if next(which):
            del upstream.stored[BlockId(block)]


@st.composite
def choices(draw: st.DrawFn) -> Iterator[bool]:
    source = draw(st.randoms(use_true_random=False))
    return iter(lambda: source.random() < 0.7, None)


async def change(drive: Drive, old: bytes, new: list[bytes]) -> dict[bytes, bytes]:
    """New files, one deleted, and a small write beside a small extent, which is absorbed."""
    expected = {}
    for number, data in enumerate(new):
        await make_file(drive, b"%d" % number, data)
        expected[b"%d" % number] = data
    beside = drive.lookup(ROOT_INODE, b"old")
    await drive.write(beside.inode, len(old), b"and more")
    await drive.settle(beside.inode)
    expected[b"old"] = old + b"and more"
    return expected


@pytest.mark.logs_warnings
@settings(max_examples=settings().max_examples // 6)
@given(
    old=contents(min_size=1, max_size=20_000),
    new=st.lists(contents(min_size=1, max_size=200_000), min_size=1, max_size=4),
    which=choices(),
    ends=st.lists(st.sampled_from(WAYS), min_size=1, max_size=3),
    flushed=st.booleans(),
)
async def test_they_are_stored_again(
    old: bytes, new: list[bytes], which: Iterator[bool], ends: list[str], flushed: bool
) -> None:
    upstream = NeverAppends()
    with TemporaryDirectory() as folder:
        here = Path(folder, "here")
        async with opened(here, upstream) as drive:
            await make_file(drive, b"old", old)
            await drive.sync()
        upstream.appends = False
        expected: dict[bytes, bytes] = {}
        for end in ends:
            async with opened(here, upstream, crash=end == "crash") as drive:
                expected = expected or await change(drive, old, new)
                assert {name: await content_of(drive, name) for name in expected} == expected
                with pytest.raises(TransientError):
                    await drive.sync()
                if flushed:
                    drive.ledger.save()
            upstream.lose_unflushed()
            vanish(upstream, which)
        upstream.appends = True
        async with opened(here, upstream) as drive:
            await drive.sync()
            drive.blocks.clear()
            assert {name: await content_of(drive, name) for name in expected} == expected
        async with opened(Path(folder, "elsewhere"), upstream) as drive:
            assert {name: await content_of(drive, name) for name in expected} == expected

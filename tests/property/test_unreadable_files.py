"""Files of which the journal cannot be read for a while, with crashes between: all else is published each
time, another machine never sees wrong bytes, and in the end everything is there.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, field, replace
from itertools import chain
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from unittest.mock import patch

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from backend.errors import TransientError
from cache.attributes import AttributeChange
from cache.drive import Drive
from cache.errors import DriveFullError, InputOutputError, UnreadableError
from cache.namespace.operations import ROOT_INODE
from cache.publish import publisher
from tests.contents import contents
from tests.drives import QUIET, content, content_of, make_file, opened
from tests.memory_upstream import MemoryUpstream
from tests.unreadable import Unreadable

SMALL = replace(QUIET, journal_size=32 << 20, large_write=1)
"""Small segments are made quickly. All bytes lie beside the records: a record that cannot be read
is another matter (`cache.journal.salvage`)."""
NAMES = [b"a", b"b", b"c", b"d"]
_names = st.sampled_from(NAMES)
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("unreadable_after_cut"), _names),
        st.tuples(st.just("write"), _names, contents(min_size=1, max_size=100_000)),
        st.tuples(st.just("write"), _names, contents(min_size=1, max_size=2_000)),
        st.tuples(st.just("append"), _names, contents(min_size=1, max_size=5_000)),
        st.tuples(st.just("truncate"), _names, st.integers(0, 50_000)),
        st.tuples(st.just("delete"), _names),
        st.tuples(st.just("rename"), _names, _names),
        st.tuples(st.just("break_file"), _names),
        st.tuples(st.just("mend")),
        st.tuples(st.just("publish")),
        st.tuples(st.just("cut_only")),
        st.tuples(st.just("publish_on_full_nodes")),
        st.tuples(st.just("reopen"), st.booleans()),
        st.tuples(st.just("flush")),
    ),
    min_size=8,
    max_size=25,
)


def _simple(step: tuple[Any, ...]) -> list[tuple[Any, ...]]:
    """A few in a row that are unlikely to be met otherwise."""
    if step[0] != "unreadable_after_cut":
        return [step]
    return [
        ("cut_only",),
        ("flush",),
        ("reopen", True),
        ("break_file", step[1]),
        ("reopen", True),
        ("publish",),
    ]


@dataclass
class File:
    data: bytes
    published: bytes = b""
    """what the others saw last"""
    cut: list[bytes] = field(default_factory=list)
    """what commits took of it that were not appended then"""


@dataclass
class Life:
    folder: Path
    unreadable: Unreadable
    upstream: MemoryUpstream = field(default_factory=MemoryUpstream)
    files: dict[bytes, File] = field(default_factory=dict)
    looks: int = 0

    async def run(self, steps: list[tuple[Any, ...]]) -> None:
        steps = [*chain.from_iterable(map(_simple, steps)), ("mend",), ("publish",)]
        while steps:
            ends = next((at for at, step in enumerate(steps) if step[0] == "reopen"), len(steps) - 1)
            now, steps = steps[: ends + 1], steps[ends + 1 :]
            crash = now[-1] == ("reopen", True)
            async with opened(self.folder / "here", self.upstream, SMALL, crash=crash) as drive:
                for name, *arguments in now:
                    if name != "reopen":
                        await getattr(self, name)(drive, *arguments)
            self.upstream.lose_unflushed()

    async def write(self, drive: Drive, name: bytes, data: bytes) -> None:
        if name not in self.files:
            await make_file(drive, name)
            self.files[name] = File(b"")
        inode = drive.lookup(ROOT_INODE, name).inode
        await drive.set_attributes(inode, AttributeChange(size=0))
        await drive.write(inode, 0, data)
        await drive.settle(inode)
        self.files[name].data = data

    async def append(self, drive: Drive, name: bytes, data: bytes) -> None:
        if name in self.files:
            inode = drive.lookup(ROOT_INODE, name).inode
            await drive.write(inode, len(self.files[name].data), data)
            self.files[name].data += data

    async def truncate(self, drive: Drive, name: bytes, size: int) -> None:
        if name in self.files:
            inode = drive.lookup(ROOT_INODE, name).inode
            await drive.set_attributes(inode, AttributeChange(size=size))
            self.files[name].data = self.files[name].data[:size].ljust(size, b"\0")

    async def delete(self, drive: Drive, name: bytes) -> None:
        if self.files.pop(name, None) is not None:
            await drive.unlink(ROOT_INODE, name)

    async def rename(self, drive: Drive, name: bytes, new: bytes) -> None:
        if name in self.files and name != new:
            await drive.rename(ROOT_INODE, name, ROOT_INODE, new)
            self.files[new] = self.files.pop(name)

    async def break_file(self, drive: Drive, name: bytes) -> None:
        if name in self.files:
            self.unreadable.break_file(drive, drive.lookup(ROOT_INODE, name).inode)

    async def mend(self, drive: Drive) -> None:
        self.unreadable.mend()

    async def flush(self, drive: Drive) -> None:
        drive.ledger.save()

    async def cut_only(self, drive: Drive) -> None:
        """A commit is cut, and not appended."""
        self.upstream.away = True
        try:
            await drive.publisher.publish(everything=True)
        except TransientError:
            # What found no room before is stored before a cut.
            assert drive.ledger.pending is not None or drive.ledger.set_apart.lack_of_room() is not None
            for name, file in self.files.items():
                if not self._is_bad(drive, name):
                    file.cut.append(file.data)
        self.upstream.away = False

    async def publish_on_full_nodes(self, drive: Drive) -> None:
        """Names are published; contents are those of before or of now."""
        self.upstream.full = True
        with suppress(DriveFullError, UnreadableError):
            await drive.sync()
        self.upstream.full = False
        apart = await drive.set_apart()
        assert drive.ledger.pending is None
        for name, file in self.files.items():
            if f"/{name.decode()}" not in apart:
                file.published, file.cut = file.data, []
        await self._compare_elsewhere({name for name in self.files if f"/{name.decode()}" in apart})

    async def publish(self, drive: Drive) -> None:
        bad = {name for name in self.files if self._is_bad(drive, name)}
        if bad:
            with pytest.raises(UnreadableError) as caught:
                await drive.sync()
            assert all(f"/{name.decode()} " in str(caught.value) for name in bad)
        else:
            await drive.sync()
        status = await drive.status()
        assert {apart.path.encode() for apart in status.set_apart} == {b"/" + name for name in bad}
        assert status.published == (not bad)
        await self._compare_here(drive, bad)
        await self._compare_elsewhere(bad)

    def _is_bad(self, drive: Drive, name: bytes) -> bool:
        return self.unreadable.hits(drive, drive.lookup(ROOT_INODE, name).inode)

    async def _compare_here(self, drive: Drive, bad: set[bytes]) -> None:
        for name, file in self.files.items():
            inode = drive.lookup(ROOT_INODE, name).inode
            assert drive.size(inode) == len(file.data)
            if name in bad:
                with pytest.raises((OSError, InputOutputError)):
                    await content(drive, inode)
            else:
                file.published, file.cut = file.data, []
                assert await content(drive, inode) == file.data

    async def _compare_elsewhere(self, bad: set[bytes]) -> None:
        self.looks += 1
        elsewhere = self.folder / f"elsewhere-{self.looks}"
        async with opened(elsewhere, self.upstream, SMALL, read_only=True) as other:
            assert {entry.name for entry in other.entries(ROOT_INODE, 0, 100)} == self.files.keys()
            for name, file in self.files.items():
                found = await content_of(other, name)
                assert found in [file.published, *(file.cut if name in bad else [])]
                file.published = found


@pytest.mark.logs_warnings
@settings(max_examples=settings().max_examples // 5, deadline=None)
@given(steps=STEPS, rounds=st.sampled_from([0, publisher.ROUNDS]))
@example(
    steps=[("write", b"a", b"x" * 5000), ("write", b"b", b"y" * 50), ("unreadable_after_cut", b"a")], rounds=3
)
@example(
    steps=[("write", b"a", b"x" * 50), ("publish",), ("append", b"a", b"z"), ("unreadable_after_cut", b"a")],
    rounds=3,
)
@example(
    steps=[("write", b"a", b"x" * 50), ("write", b"b", b"y"), ("break_file", b"a"), ("publish",)], rounds=0
)
@example(
    steps=[
        ("write", b"b", b"x" * 57),
        ("break_file", b"b"),
        ("cut_only",),
        ("write", b"b", b"y" * 100),
        ("publish",),
    ],
    rounds=0,
)
async def test_all_else_is_published(steps: list[tuple[Any, ...]], rounds: int) -> None:
    """With no `rounds` everything is sealed after the cut, as what is written while the rest is sealed."""
    with TemporaryDirectory() as folder:
        unreadable = Unreadable(Path(folder, "here"))
        with unreadable.installed(), patch.object(publisher, "ROUNDS", rounds):
            await Life(Path(folder), unreadable).run(steps)

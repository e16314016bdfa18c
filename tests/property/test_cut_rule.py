"""The cut takes what the rule says of the moment of the cut, whatever happened to the files while they were
looked for and sealed: written, closed, renamed, removed, pressed for room, unreadable, readable again.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from unittest.mock import PropertyMock, patch

import pytest
import trio
from hypothesis import example, given, settings
from hypothesis import strategies as st

import cache.journal.set_apart
from cache.attributes import AttributeChange
from cache.blocks.sealer import Sealer
from cache.drive import Drive
from cache.errors import UnreadableError
from cache.journal.dirty import Layer
from cache.journal.ledger import Ledger
from cache.journal.scan import PendingCommit
from cache.namespace.operations import ROOT_INODE
from cache.publish.pressure import Pressure
from cache.publish.publisher import Publisher
from tests.contents import contents
from tests.drives import make_file, opened, tree
from tests.memory_upstream import MemoryUpstream
from tests.unreadable import Unreadable

NAMES = [b"a", b"b", b"c", b"d"]
_names = st.sampled_from(NAMES)
_steps = st.lists(
    st.one_of(
        st.tuples(st.just("write"), _names, contents(min_size=1, max_size=3_000)),
        st.tuples(st.just("close"), _names),
        st.tuples(st.just("fsync"), _names),
        st.tuples(st.just("truncate"), _names, st.integers(0, 2_000)),
        st.tuples(st.just("unlink"), _names, st.booleans()),
        st.tuples(st.just("let_go")),
        st.tuples(st.just("rename"), _names, _names),
        st.tuples(st.just("break_file"), _names),
        st.tuples(st.just("mend")),
        st.tuples(st.just("press"), st.booleans()),
    ),
    max_size=6,
)
Steps = list[tuple[Any, ...]]
Round = tuple[Steps, list[Steps], bool]
"""what happens before a commit, what while it is made (in turn before and after each sealing), and whether it
is to take everything"""
ROUNDS = st.lists(st.tuples(_steps, st.lists(_steps, max_size=7), st.booleans()), min_size=1, max_size=4)


@dataclass
class Life:
    unreadable: Unreadable
    pressed: PropertyMock
    drive: Drive = field(init=False)
    meanwhile: list[Steps] = field(default_factory=list)
    everything: bool = False
    taken_open: set[int] = field(default_factory=set)
    """inodes that a cut took while they were open; not again for being fsynced, in this short life"""
    taken_before: set[int] = field(default_factory=set)
    """the same, before the last cut"""
    held: list[int] = field(default_factory=list)
    cuts: int = 0

    async def run(self, rounds: list[Round]) -> None:
        for before, meanwhile, everything in rounds:
            await self.steps(before)
            self.meanwhile, self.everything = [*meanwhile], everything
            try:
                await self.drive.publisher.publish(everything=everything)
            except UnreadableError:  # of what was written after the last look
                self.unreadable.mend()
                await self.drive.publisher.publish(everything=everything)

    async def steps(self, steps: Iterable[tuple[Any, ...]]) -> None:
        for name, *arguments in steps:
            await getattr(self, name)(*arguments)

    async def pass_time(self) -> None:
        if self.meanwhile:
            await self.steps(self.meanwhile.pop(0))

    def check(self, inodes: list[int]) -> None:
        """The rule, in the words of `cache.publish.cut_rule`, of each file by itself."""
        self.cuts += 1
        self.taken_before = set(self.taken_open)
        ledger, now = self.drive.ledger, trio.current_time()
        expected = set()
        for inode, layer in ledger.dirty.tops():
            row = ledger.namespace.inode(inode)
            assert row is not None
            worth = layer.settled or (layer.synced and inode not in self.taken_open)
            named = row.nlink > 0
            due = self.pressed() or (named and (worth or self.everything))
            if due and not ledger.set_apart.waits(inode, layer, now):
                expected.add(inode)
                self.taken_open |= set() if layer.settled else {inode}
        assert sorted(inodes) == sorted(expected)

    def inode(self, name: bytes) -> int | None:
        names = {entry.name: entry.attributes.inode for entry in self.drive.entries(ROOT_INODE, 0, 9)}
        return names.get(name)

    async def write(self, name: bytes, data: bytes) -> None:
        inode = self.inode(name) or (await make_file(self.drive, name)).inode
        await self.drive.write(inode, 0, data)

    async def close(self, name: bytes) -> None:
        if (inode := self.inode(name)) is not None:
            await self.drive.settle(inode)

    async def fsync(self, name: bytes) -> None:
        if (inode := self.inode(name)) is not None:
            await self.drive.fsync(inode)

    async def truncate(self, name: bytes, size: int) -> None:
        if (inode := self.inode(name)) is not None:
            await self.drive.set_attributes(inode, AttributeChange(size=size))

    async def unlink(self, name: bytes, held: bool) -> None:
        """`held`: a program has it open, so that it stays dirty without a name."""
        if (inode := self.inode(name)) is not None:
            if held:
                self.drive.hold(inode)
                self.held.append(inode)
            await self.drive.unlink(ROOT_INODE, name)

    async def let_go(self) -> None:
        while self.held:
            self.drive.release(self.held.pop())

    async def rename(self, name: bytes, new: bytes) -> None:
        if self.inode(name) is not None and name != new:
            await self.drive.rename(ROOT_INODE, name, ROOT_INODE, new)

    async def break_file(self, name: bytes) -> None:
        if (inode := self.inode(name)) is not None:
            self.unreadable.break_file(self.drive, inode)

    async def mend(self) -> None:
        self.unreadable.mend()

    async def press(self, pressed: bool) -> None:
        self.pressed.return_value = pressed

    def installed(self) -> ExitStack:
        """Around each sealing time passes, and each cut is checked."""
        seal, cut, reopen = Sealer.seal, Ledger.cut, Ledger.reopen

        async def sealing(sealer: Sealer, layers: Iterable[tuple[int, Layer]]) -> dict[int, UnreadableError]:
            await self.pass_time()
            found = await seal(sealer, layers)
            await self.pass_time()
            return found

        def cutting(ledger: Ledger, inodes: list[int]) -> PendingCommit | None:
            self.check(inodes)
            return cut(ledger, inodes)

        def reopening(ledger: Ledger) -> None:
            self.taken_open = self.taken_before
            reopen(ledger)

        async def nothing_by_itself(_: Publisher) -> None:
            await trio.sleep_forever()

        stack = ExitStack()
        stack.enter_context(self.unreadable.installed())
        stack.enter_context(patch.object(Sealer, "seal", sealing))
        stack.enter_context(patch.object(Ledger, "cut", cutting))
        stack.enter_context(patch.object(Ledger, "reopen", reopening))
        stack.enter_context(patch.object(Publisher, "run", nothing_by_itself))
        stack.enter_context(patch.object(Pressure, "calls_for_cut", self.pressed))
        stack.enter_context(patch.object(cache.journal.set_apart, "FIRST_PAUSE", 3600.0))
        return stack


_HALF = ("write", b"a", b"half")
_NEW = [("mend",), ("write", b"a", b"new"), ("close", b"a")]


_MORE = [("write", b"a", b"more"), ("close", b"a")]
_OPEN = [("write", b"b", b"x"), ("fsync", b"b")]


@pytest.mark.logs_warnings
@settings(max_examples=settings().max_examples // 2)
@given(rounds=ROUNDS)
@example(rounds=[([_HALF, ("close", b"a")], [[("write", b"a", b"more")]], False)])
@example(rounds=[([_HALF, ("close", b"a")], [[], [("unlink", b"a", True)]], False)])
@example(rounds=[([_HALF, ("close", b"a")], [[], [("unlink", b"a", False)]], False)])
@example(rounds=[([_HALF, ("write", b"b", b"x"), ("close", b"b")], [[], [("close", b"a")]], False)])
@example(rounds=[([_HALF, ("write", b"b", b"x"), ("close", b"b")], [[], [("rename", b"a", b"c")]], False)])
@example(rounds=[([_HALF, ("write", b"b", b"x"), ("close", b"b")], [[], [("fsync", b"a")]], False)])
@example(rounds=[([_HALF, ("write", b"b", b"x"), ("close", b"b")], [[], [("press", True)]], False)])
@example(rounds=[([_HALF, ("unlink", b"a", True), ("press", True)], [[], [("let_go",)]], False)])
@example(rounds=[([_HALF, ("close", b"a")], [[], _NEW, [], _NEW, [], [("unlink", b"a", True)]], False)])
@example(rounds=[([_HALF], [[("break_file", b"a")]], True)])
@example(rounds=[([_HALF], [[("break_file", b"a")], _NEW], True)])
@example(rounds=[([*_OPEN, *_MORE], [[], _MORE, [], _MORE, [], _MORE, [("break_file", b"a")]], False)])
async def test_the_cut_takes_what_is_due_when_it_is_made(rounds: list[Round]) -> None:
    with TemporaryDirectory() as folder:
        life = Life(Unreadable(Path(folder, "here")), PropertyMock(return_value=False))
        upstream = MemoryUpstream()
        with life.installed():
            async with opened(Path(folder, "here"), upstream) as life.drive:
                await life.run(rounds)
                life.unreadable.mend()
                life.everything, life.meanwhile = True, []
                await life.let_go()
                await life.drive.sync()
                assert life.cuts
                expected = await tree(life.drive)
            async with opened(Path(folder, "there"), upstream, read_only=True) as other:
                assert await tree(other) == expected

"""Sequences of file-system calls on `Drive`, compared with the reference model.

hypothesis makes a list of steps; one `trio.run` executes it. Steps also publish, hold sealing up in
its middle, fail, crash, and reopen with and without the cache. Block sizes and windows are made
small, so that files of some kilobytes meet every path of the sealer.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path
from stat import S_IFDIR, S_IFIFO, S_IFREG
from typing import Any

import pytest
import trio
import trio.testing
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import cache.blocks.chunking
import cache.blocks.sealer
import cache.tree.file_contents
from backend.errors import TransientError
from cache.attributes import AttributeChange, Attributes
from cache.drive import Drive
from cache.errors import FileSystemError
from cache.namespace.operations import ROOT_INODE
from cache.retention.retention import Policy
from tests.contents import contents
from tests.drives import QUIET, content, opened
from tests.memory_upstream import MemoryUpstream
from tests.property.reference_model import Model, Node

OPTIONS = replace(QUIET, journal_size=2 << 20, cache_size=16 << 10)
Step = tuple[Any, ...]

names = st.sampled_from([b"a", b"b", b"c", b"\xff"])
which = st.integers(0, 20)
"""The n-th directory, or file, counted around."""
offsets = st.one_of(st.integers(0, 200), st.integers(0, 12_000), st.sampled_from([64, 256, 1024, 4096, 8192]))


data = contents(min_size=1, max_size=6000, seeds=20)
"""Of few seeds: what is written again is stored once."""


steps = st.one_of(
    st.tuples(
        st.just("create"),
        which,
        names,
        st.sampled_from([S_IFREG | 0o644, S_IFIFO | 0o600]),
        st.integers(0, 2),
    ),
    st.tuples(st.just("create"), which, names, st.just(S_IFREG | 0o600), st.just(0)),
    st.tuples(st.just("create"), which, names, st.sampled_from([S_IFDIR | 0o755, S_IFDIR | 0o2750]), which),
    st.tuples(st.just("symlink"), which, names, st.binary(min_size=1, max_size=20)),
    st.tuples(st.just("link"), which, which, names),
    st.tuples(st.just("unlink"), which, names),
    st.tuples(st.just("remove_directory"), which, names),
    st.tuples(
        st.just("rename"), which, names, which, names, st.sampled_from(["", "", "no_replace", "exchange"])
    ),
    st.tuples(st.just("write"), which, offsets, data),
    st.tuples(st.just("write"), which, offsets, data),
    st.tuples(st.just("write"), which, offsets, data),
    st.tuples(st.just("append"), which, data),
    st.tuples(st.just("truncate"), which, offsets),
    st.tuples(st.just("read"), which, offsets, offsets),
    st.tuples(st.just("chmod"), which, st.integers(0, 0o7777)),
    st.tuples(st.just("set_mtime"), which, st.integers(-(1 << 60), 1 << 60)),
    st.tuples(st.just("set_xattr"), which, st.sampled_from([b"user.x", b"user.y"]), st.binary(max_size=9)),
    st.tuples(st.just("remove_xattr"), which, st.sampled_from([b"user.x", b"user.y"])),
    st.tuples(st.just("hold"), which),
    st.tuples(st.just("release"), which),
    st.tuples(st.just("flush"), which),
    st.tuples(st.just("fsync"), which),
    st.tuples(st.just("tick")),
    st.tuples(st.just("publish"), st.booleans()),
    st.tuples(st.just("begin_publish"), st.booleans(), st.booleans()),
    st.tuples(st.just("end_publish")),
    st.tuples(st.just("publish_fails")),
    st.tuples(st.just("append_is_lost")),
    st.tuples(st.just("snapshot")),
    st.tuples(st.just("collect"), st.booleans()),
    st.tuples(st.just("seal_ahead")),
    st.tuples(st.just("reopen"), st.sampled_from(["close", "crash", "crash", "empty", "no database"])),
)


class Run:
    """One execution of a list of steps."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "cache"
        self.upstream = MemoryUpstream()
        self.stack = AsyncExitStack()
        self.drive: Drive
        self.model: Model
        self.nursery: trio.Nursery
        self.publishing: trio.Event | None = None
        self.publish_scope = trio.CancelScope()
        self.crash = True
        """whether the drive ends as a process that is killed"""

    async def execute(self, sequence: list[Step]) -> None:
        async with trio.open_nursery() as self.nursery:
            try:
                await self.run(sequence)
            finally:
                self.publish_scope.cancel()
                try:
                    if self.publishing is not None:
                        await self.publishing.wait()
                finally:
                    await self.stack.aclose()

    async def run(self, sequence: list[Step]) -> None:
        await self.open()
        root = self.drive.attributes(ROOT_INODE)
        self.model = Model(Node(root.mode, root.uid, root.gid, 2, inode=ROOT_INODE))
        for step in sequence:
            await self.step(step)
        await self.compare()
        for how in ("crash", "close", "empty"):
            await self.reopen(how)
            await self.compare()

    async def open(self) -> None:
        self.crash = True
        self.drive = await self.stack.enter_async_context(
            opened(self.folder, self.upstream, OPTIONS, crash=lambda: self.crash)
        )

    async def step(self, step: Step) -> None:
        await getattr(self, step[0])(*step[1:])

    async def same(
        self, real: Callable[[], Awaitable[object]] | Callable[[], object], model: Callable[[], object]
    ) -> Any:
        """Do it on both; both refuse with the same class, or both succeed. The drive's result."""
        expected = found = None
        result: object = None
        try:
            model()
        except FileSystemError as error:
            expected = type(error)
        try:
            made = real()
            result = await made if isinstance(made, Awaitable) else made
        except FileSystemError as error:
            found = type(error)
        assert found == expected
        return result

    def directory(self, number: int) -> Node:
        directories = self.model.directories()
        return directories[number % len(directories)]

    def node(self, number: int) -> Node:
        return self.model.nodes[number % len(self.model.nodes)]

    def regular(self, number: int) -> Node | None:
        files = self.model.regular()
        return files[number % len(files)] if files else None

    async def _create(
        self, parent: Node, name: bytes, made: Callable[[], Awaitable[Attributes]], model: Any
    ) -> None:
        attributes = await self.same(made, model)
        if attributes is not None:
            parent.names[name].inode = attributes.inode

    async def create(self, directory: int, name: bytes, mode: int, owner: int) -> None:
        parent = self.directory(directory)
        await self._create(
            parent,
            name,
            lambda: self.drive.make_node(parent.inode, name, mode, 0, owner, owner),
            lambda: self.model.create(parent, name, mode, owner, owner),
        )

    async def symlink(self, directory: int, name: bytes, target: bytes) -> None:
        parent = self.directory(directory)
        mode = 0o120777
        await self._create(
            parent,
            name,
            lambda: self.drive.symlink(parent.inode, name, target, 1, 1),
            lambda: self.model.create(parent, name, mode, 1, 1, target),
        )

    async def link(self, number: int, directory: int, name: bytes) -> None:
        node, parent = self.node(number), self.directory(directory)
        await self.same(
            lambda: self.drive.link(node.inode, parent.inode, name),
            lambda: self.model.link(node, parent, name),
        )

    async def unlink(self, directory: int, name: bytes) -> None:
        parent = self.directory(directory)
        await self.same(
            lambda: self.drive.unlink(parent.inode, name), lambda: self.model.unlink(parent, name)
        )

    async def remove_directory(self, directory: int, name: bytes) -> None:
        parent = self.directory(directory)
        await self.same(
            lambda: self.drive.remove_directory(parent.inode, name),
            lambda: self.model.remove_directory(parent, name),
        )

    async def rename(self, one: int, name: bytes, two: int, new_name: bytes, flag: str) -> None:
        parent, new_parent = self.directory(one), self.directory(two)
        no_replace, exchange = flag == "no_replace", flag == "exchange"
        await self.same(
            lambda: self.drive.rename(
                parent.inode, name, new_parent.inode, new_name, no_replace=no_replace, exchange=exchange
            ),
            lambda: self.model.rename(parent, name, new_parent, new_name, no_replace, exchange),
        )

    async def write(self, number: int, offset: int, written: bytes) -> None:
        node = self.regular(number)
        if node is not None:
            await self.drive.write(node.inode, offset, written)
            self.model.write(node, offset, written)

    async def append(self, number: int, written: bytes) -> None:
        node = self.regular(number)
        if node is not None:
            await self.write(number, len(node.data), written)

    async def truncate(self, number: int, size: int) -> None:
        node = self.node(number)
        await self.same(
            lambda: self.drive.set_attributes(node.inode, AttributeChange(size=size)),
            lambda: self.model.truncate(node, size),
        )

    async def read(self, number: int, offset: int, size: int) -> None:
        node = self.regular(number)
        if node is not None:
            found = await self.drive.read(node.inode, offset, size)
            assert bytes(found) == node.data[offset : offset + size]

    async def chmod(self, number: int, mode: int) -> None:
        node = self.node(number)
        await self.drive.set_attributes(node.inode, AttributeChange(mode=mode))
        self.model.set_mode(node, mode)

    async def set_mtime(self, number: int, time_ns: int) -> None:
        node = self.node(number)
        await self.drive.set_attributes(node.inode, AttributeChange(mtime_ns=time_ns))
        node.mtime_ns = time_ns

    async def set_xattr(self, number: int, name: bytes, value: bytes) -> None:
        node = self.node(number)
        await self.drive.set_xattr(node.inode, name, value)
        node.xattrs[name] = value

    async def remove_xattr(self, number: int, name: bytes) -> None:
        node = self.node(number)
        await self.same(
            lambda: self.drive.remove_xattr(node.inode, name), lambda: self.model.remove_xattr(node, name)
        )

    async def hold(self, number: int) -> None:
        node = self.node(number)
        self.drive.hold(node.inode)
        node.holds += 1

    async def release(self, number: int) -> None:
        held = [node for node in self.model.nodes if node.holds]
        if held:
            node = held[number % len(held)]
            self.drive.release(node.inode)
            self.model.release(node)

    async def flush(self, number: int) -> None:
        await self.drive.settle(self.node(number).inode)

    async def fsync(self, number: int) -> None:
        await self.drive.fsync(self.node(number).inode)

    async def tick(self) -> None:
        self.drive.ledger.save()

    async def publish(self, everything: bool) -> None:
        await self.end_publish()
        await self.drive.publisher.publish(everything=everything)

    async def begin_publish(self, everything: bool, cut: bool) -> None:
        """It is held up while it seals, or after its cut."""
        if self.publishing is None:
            self.publishing = trio.Event()
            self.gate = self.upstream.gate = self.upstream.flush_gate = trio.Event()
            if cut:
                self.upstream.gate = None
            self.nursery.start_soon(self._publish, everything, self.publishing)
            await trio.testing.wait_all_tasks_blocked()
            while cut and self.drive.ledger.pending is None and not self.publishing.is_set():
                await trio.sleep(0.001)

    async def _publish(self, everything: bool, done: trio.Event) -> None:
        try:
            with trio.CancelScope() as self.publish_scope:
                await self.drive.publisher.publish(everything=everything)
        finally:
            done.set()

    async def end_publish(self) -> None:
        if self.publishing is not None:
            self.gate.set()
            await self.publishing.wait()
            self.publishing = self.upstream.gate = self.upstream.flush_gate = None

    async def publish_fails(self) -> None:
        await self.end_publish()
        self.upstream.away = True
        try:
            await self.drive.publisher.publish(everything=True)
        except TransientError:
            assert self.drive.ledger.pending is not None
        self.upstream.away = False

    async def append_is_lost(self) -> None:
        await self.end_publish()
        number = len(self.upstream.commits)
        self.upstream.fail_after_append = True
        try:
            await self.drive.publisher.publish(everything=True)
        except TransientError:
            assert len(self.upstream.commits) == number + 1
        self.upstream.fail_after_append = False

    async def snapshot(self) -> None:
        """It flushes the blocks too, and would wait for ever for the publishing that is held up there."""
        await self.end_publish()
        await self.drive.snapshots.make()

    async def collect(self, everything: bool) -> None:
        """Give up blocks that nobody needs; `everything`: all of the past before."""
        await self.end_publish()
        if everything:
            self.drive.retention.set_policy(Policy(0, 0, 0, 0, 0))
        await self.drive.retention.collect(grace=0)
        self.drive.blocks.clear()

    async def seal_ahead(self) -> None:
        if self.publishing is None:
            for inode, layer in self.drive.ledger.dirty.tops():
                await self.drive.sealer.seal_ahead(inode, layer)

    async def reopen(self, how: str) -> None:
        await self.end_publish()
        if how == "empty":
            await self.drive.sync()
        self.crash = how not in ("close", "empty")
        await self.stack.aclose()
        self.stack = AsyncExitStack()
        self.upstream.lose_unflushed()
        if how == "empty":
            shutil.rmtree(self.folder)
        if how == "no database":
            for path in self.folder.glob("namespace.db*"):
                path.unlink()
        self.model.forget_holds()
        await self.open()

    async def compare(self) -> None:
        await self.end_publish()
        self.drive.delete_unused()
        for node in self.model.nodes:
            await self.compare_node(node)
        totals = self.drive.ledger.namespace.statistics()
        known = {node.inode for node in self.model.nodes}
        on_their_way = {inode for inode, _ in self.drive.ledger.dirty.frozen()} - known
        assert on_their_way <= set(self.drive.ledger.namespace.orphans())
        assert totals.inodes == len(self.model.nodes) + len(on_their_way)
        assert totals.bytes <= sum(len(node.data) for node in self.model.regular()) + (1 << 40)

    async def compare_node(self, node: Node) -> None:
        found = self.drive.attributes(node.inode)
        assert (found.mode, found.uid, found.gid, found.nlink) == (node.mode, node.uid, node.gid, node.nlink)
        if node.mtime_ns is not None:
            assert found.mtime_ns == node.mtime_ns
        assert {
            name: self.drive.get_xattr(node.inode, name)
            for name in self.drive.xattr_names(node.inode)
            if not name.startswith(b"drivefs.")  # the drive's own, which no door shows
        } == (node.xattrs)
        if node.is_directory:
            self.compare_names(node)
        elif node.is_regular:
            assert found.size == len(node.data)
            assert await content(self.drive, node.inode) == node.data
            assert found.blocks or not any(node.data)
        elif node.target:
            assert self.drive.read_link(node.inode) == self.model.read_link(node)

    def compare_names(self, node: Node) -> None:
        listed = list(self.listing(node.inode))
        assert {entry.name: entry.attributes.inode for entry in listed} == {
            name: child.inode for name, child in node.names.items()
        }
        assert len(listed) == len(node.names)
        above = node.parent or node
        assert node.nlink == 0 or self.drive.parent(node.inode).inode == above.inode

    def listing(self, directory: int) -> Iterator[Any]:
        cookie = 0
        while batch := self.drive.entries(directory, cookie, 2):
            yield from batch
            cookie = batch[-1].cookie


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache.blocks.chunking, "MIN_BLOCK", 64)
    monkeypatch.setattr(cache.blocks.chunking, "AVERAGE_BLOCK", 256)
    monkeypatch.setattr(cache.blocks.chunking, "MAX_BLOCK", 1024)
    monkeypatch.setattr(cache.blocks.sealer, "MIN_BLOCK", 64)
    monkeypatch.setattr(cache.blocks.sealer, "WINDOW", 3000)
    monkeypatch.setattr(cache.blocks.sealer, "AHEAD", 4000)
    monkeypatch.setattr(cache.tree.file_contents, "AHEAD", 4000)


def execute(sequence: list[Step]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        trio.run(Run(Path(folder)).execute, sequence)


few = settings(max_examples=60, suppress_health_check=list(HealthCheck))


@pytest.mark.logs_warnings
@few
@given(st.lists(steps, min_size=1, max_size=40))
def test_a_drive_is_what_the_model_is(sequence: list[Step]) -> None:
    execute(sequence)


@pytest.mark.soak
@pytest.mark.logs_warnings
@pytest.mark.timeout(3600)
@settings(few, max_examples=int(os.environ.get("SOAK_EXAMPLES", "5000")))
@given(st.lists(steps, min_size=1, max_size=80))
def test_a_drive_is_what_the_model_is_for_long(sequence: list[Step]) -> None:
    execute(sequence)

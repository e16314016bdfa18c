"""Retention, release and compaction end to end (FAULTS 24, 25): space comes back, what is retained stays.

Each test makes a history on six real nodes, remembers every state of it, and compares each retained state
with what was remembered: after an interruption at each step, after the run was finished, from an empty cache.
"""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from stat import S_ISDIR, S_ISREG

import pytest
import trio
import trio.testing

from backend.errors import CorruptError
from backend.failpoints import OF_PROCESS
from backend.keys.key_ring import KeyRing
from backend.keys.keys import DriveKeys
from backend.upstream import BlockId, Upstream
from cache.blocks.block_codec import BlockCodec
from cache.drive import Drive
from cache.history.history import History
from cache.namespace.operations import ROOT_INODE
from cache.retention.retention import Policy
from tests.block_references import block_references
from tests.contents import STORED_KINDS
from tests.contents import content as made_of
from tests.declared_failpoints import DECLARED
from tests.drives import DRIVE_ID, KEYS, content_of, make_file, opened, tree
from tests.upstreams import LocalDrive, directory_nodes

NOTHING = Policy(0, 0, 0, 0, 0)
STEPS = sorted(name for name in DECLARED if name.split(".")[0] in ("retention", "collector", "compaction"))
OFTEN = ("compaction.deleting", "compaction.debris")
State = dict[bytes, tuple[object, ...]]


def codec_of(drive: Drive, drive_id: bytes, keys: DriveKeys) -> BlockCodec:
    """One that opens the blocks of the drive."""
    ring, namespace = KeyRing(drive_id, keys), drive.ledger.namespace
    ring.learn_all(namespace.epochs.until(namespace.commit))
    return BlockCodec(keys.block_id, ring)


async def state_at(
    drive: Drive, commit: int, directory: int = ROOT_INODE, path: bytes = b"", codec: BlockCodec | None = None
) -> State:
    """Everything below a directory as of a commit. `codec`: of the drive's blocks."""
    history, codec = History(drive.ledger.namespace), codec or codec_of(drive, DRIVE_ID, KEYS)
    found: State = {}
    for entry in history.entries_at(directory, commit, 0, 10_000):
        row = history.inode_at(entry.inode, commit)
        assert row is not None
        here = path + b"/" + entry.name
        is_file = S_ISREG(row.mode)
        data = await content_at(drive, history, row.inode, row.size, commit, codec) if is_file else b""
        found[here] = (row.inode, row.mode, row.size, row.mtime_ns, data)
        if S_ISDIR(row.mode):
            found |= await state_at(drive, commit, row.inode, here, codec)
    return found


async def content_at(
    drive: Drive, history: History, inode: int, size: int, commit: int, codec: BlockCodec
) -> bytes:
    data = bytearray(size)
    for extent in history.extents_at(inode, 0, size, commit):
        plain = await plain_block(drive, BlockId(extent.block), codec)
        start = extent.block_offset
        data[extent.offset : extent.offset + extent.length] = plain[start : start + extent.length]
    return bytes(data[:size])


async def plain_block(drive: Drive, block: BlockId, codec: BlockCodec) -> bytes:
    """From the nodes, past the cache."""
    try:
        return bytes(codec.open(block, await drive.upstream.blocks.get_block(block)))
    except CorruptError:
        return bytes(codec.open(block, await drive.upstream.blocks.get_block_again(block)))


@dataclass
class Site:
    """A drive's nodes and one cache directory, and the states that were."""

    path: Path
    local: LocalDrive
    states: dict[int, State] = field(default_factory=dict)

    def stored(self) -> int:
        return sum(path.stat().st_size for path in self.path.glob("node*/packs/*/*"))

    @asynccontextmanager
    async def mounted(self, *, crash: bool = False) -> AsyncIterator[Drive]:
        folder = self.path / "cache"
        async with self.local.opened() as upstream, opened(folder, upstream, crash=crash) as drive:
            yield drive

    def lose_cache(self) -> None:
        shutil.rmtree(self.path / "cache")

    async def publish(self, drive: Drive) -> int:
        """Publish, and remember the state."""
        await drive.sync()
        number = drive.ledger.head.number
        self.states[number] = await state_at(drive, number)
        return number

    async def check(self, drive: Drive) -> None:
        """Every retained state that was remembered is what it was."""
        numbers = [point.number for point in drive.points() if point.number in self.states]
        assert numbers
        for number in numbers:
            assert await state_at(drive, number) == self.states[number]


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path, LocalDrive(directory_nodes(tmp_path), life="gone"))


async def rewrite(drive: Drive, name: bytes, data: bytes) -> None:
    """Write new, rename over."""
    made = await make_file(drive, b"new", data)
    await drive.rename(ROOT_INODE, b"new", ROOT_INODE, name)
    drive.release(made.inode, 0)


def some(number: int, size: int) -> bytes:
    """Contents of one kind after the other."""
    return made_of(STORED_KINDS[number % len(STORED_KINDS)], size, f"{number} {size}")


async def make_history(site: Site, drive: Drive, commits: int = 8) -> None:
    """Files that change at different paces, come and go, and share blocks with each other and the past."""
    shared = some(0, 40_000)
    directory = await drive.make_node(ROOT_INODE, b"d", 0o040755, 0, 0, 0)
    for number in range(1, commits + 1):
        await rewrite(drive, b"each", some(number, 30_000))
        if number % 3 == 0:
            await rewrite(drive, b"third", shared)
        if number % 3 == 1:
            await rewrite(drive, b"third", some(number + 1, 20_000))
        await make_file(drive, b"%d" % number, some(number + 2, 25_000), directory.inode)
        if number > 2:
            await drive.unlink(directory.inode, b"%d" % (number - 2))
        await site.publish(drive)


@pytest.mark.logs_warnings
@pytest.mark.parametrize("cache", ["kept", "lost"])
@pytest.mark.parametrize(("step", "skip"), [*((step, 0) for step in STEPS), *((step, 2) for step in OFTEN)])
async def test_an_interruption_at_each_step(site: Site, step: str, skip: int, cache: str) -> None:
    async with site.mounted(crash=True) as drive:
        await make_history(site, drive)
        await drive.snapshots.make()
        drive.retention.pin(b"three", 3)
        drive.retention.pin(b"six", 6)
        drive.retention.set_policy(NOTHING)
        await drive.sync()
        if step == "compaction.debris":
            make_debris(site.path)
        OF_PROCESS.arm(step, "eio", skip)
        with pytest.raises(OSError, match=step):
            await drive.retention.collect(grace=0)
        OF_PROCESS.disarm_all()
    if cache == "lost":
        site.lose_cache()
    async with site.mounted() as drive:
        await site.check(drive)
        await drive.retention.collect(grace=0)
        await drive.retention.collect(grace=0)
        await site.check(drive)
        assert {3, 6} <= {point.number for point in drive.points()}
        assert len(drive.points()) <= 5
        live = await tree(drive)
        blocks = [BlockId(block) for block in block_references(drive.ledger.namespace)]
        assert len(await drive.upstream.housekeeping.sizes(blocks)) == len(blocks)
        needed = sum((await drive.upstream.housekeeping.sizes(blocks)).values())
        assert site.stored() < 1.5 * needed / 0.6 + 60_000
    site.lose_cache()
    async with site.mounted() as drive:
        await site.check(drive)
        assert await tree(drive) == live


def make_debris(path: Path) -> None:
    for number in range(6):
        name = f"ab{number:02x}" + "cd" * 14
        folder = path / f"node{number}" / "packs" / "ab"
        folder.mkdir(exist_ok=True, parents=True)
        (folder / f"{name}.{number}").write_bytes(b"remains")


async def grow_and_shrink(site: Site, size: int) -> None:
    part = 4 << 20
    async with site.mounted() as drive:
        await make_file(drive, b"small", b"stays" * 1000)
        await site.publish(drive)
        before = site.stored()
        made = await drive.make_node(ROOT_INODE, b"big", 0o100644, 0, 0, 0)
        for offset in range(0, size, part):
            await drive.write(made.inode, offset, os.urandom(part))
        await drive.sync()
        await site.local.blocks.redundancy(30)
        held = site.stored() - before
        assert held > 1.49 * size
        await drive.unlink(ROOT_INODE, b"big")
        await drive.sync()
        drive.retention.set_policy(NOTHING)
        first = await drive.retention.collect(grace=0)
        assert first.points > 0
        assert site.stored() - before <= 0.05 * held
        await drive.store.look()
        assert await content_of(drive, b"small") == b"stays" * 1000
    site.lose_cache()
    async with site.mounted() as drive:
        assert await content_of(drive, b"small") == b"stays" * 1000


async def test_64_mib_come_back(site: Site) -> None:
    await grow_and_shrink(site, 64 << 20)


@pytest.mark.soak
@pytest.mark.timeout(900)
async def test_1_gib_comes_back(site: Site) -> None:
    await grow_and_shrink(site, 1 << 30)


# FAULTS 25: a dedup hit at every moment of a collection


class Barrier:
    """Stops the first call of one method until it is told to go on."""

    def __init__(self, upstream: Upstream, name: str, *, after: bool) -> None:
        role = upstream.log if name == "append" else upstream.blocks
        self.reached, self.go = trio.Event(), trio.Event()
        original = getattr(role, name)

        async def stopped(*arguments: object, **options: object) -> object:
            setattr(role, name, original)
            if not after:
                await self._stop()
            result = await original(*arguments, **options)
            if after:
                await self._stop()
            return result

        setattr(role, name, stopped)

    async def _stop(self) -> None:
        self.reached.set()
        await self.go.wait()


DATA = random.Random(3).randbytes(50_000)


async def with_dead_data(drive: Drive) -> None:
    """DATA is stored, and no version needs it any more."""
    await make_file(drive, b"first", DATA)
    await drive.sync()
    await drive.unlink(ROOT_INODE, b"first")
    await drive.sync()
    drive.retention.set_policy(NOTHING)


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("call", ["stored_blocks", "release", "append", "compact"])
async def test_a_dedup_hit_while_blocks_are_collected(site: Site, call: str, after: bool) -> None:
    """The collection stands still before or after a call to the store; meanwhile the same bytes are written
    and published as far as that goes; then both end."""
    async with site.mounted() as drive:
        await with_dead_data(drive)
        barrier = Barrier(drive.upstream, call, after=after)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(collect, drive)
            await barrier.reached.wait()
            await make_file(drive, b"again", DATA)
            nursery.start_soon(drive.sync)
            await trio.testing.wait_all_tasks_blocked(0.05)
            barrier.go.set()
        await collect(drive)
        drive.blocks.clear()
        assert await content_of(drive, b"again") == DATA
    site.lose_cache()
    async with site.mounted() as drive:
        assert await content_of(drive, b"again") == DATA


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("call", ["missing", "put_blocks", "flush", "append"])
async def test_a_collection_while_a_dedup_hit_is_on_its_way(site: Site, call: str, after: bool) -> None:
    """The other way round: sealing stands still between its question and its commit."""
    async with site.mounted() as drive:
        await with_dead_data(drive)
        await drive.sync()
        await make_file(drive, b"again", DATA)
        barrier = Barrier(drive.upstream, call, after=after)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(drive.sync)
            await barrier.reached.wait()
            nursery.start_soon(collect, drive)
            await trio.testing.wait_all_tasks_blocked(0.05)
            barrier.go.set()
        await collect(drive)
        drive.blocks.clear()
        assert await content_of(drive, b"again") == DATA
    site.lose_cache()
    async with site.mounted() as drive:
        assert await content_of(drive, b"again") == DATA


async def collect(drive: Drive) -> None:
    await drive.retention.collect(grace=0)


@pytest.mark.logs_warnings
async def test_nothing_is_deleted_while_the_index_lacks_what_is_needed(site: Site) -> None:
    """A row of the index was lost: the pack that looks as if nobody needed it stays until the index is
    right again."""
    data = os.urandom(50_000)
    async with site.mounted() as drive:
        await with_dead_data(drive)
        await make_file(drive, b"kept", data)
        await drive.sync()
        (needed,) = live_blocks(drive, b"kept")
        index = site.local.index
        index.database.execute("DELETE FROM blocks WHERE id = ?", (needed,))
        before = site.stored()
        collected = await drive.retention.collect(grace=0)
        assert collected.dead.lost == 1
        assert site.stored() == before
    async with site.mounted() as drive:  # its index is made from the packs
        await collect(drive)
        assert site.stored() < before
        assert await content_of(drive, b"kept") == data


def live_blocks(drive: Drive, name: bytes) -> list[bytes]:
    file = drive.lookup(ROOT_INODE, name)
    return [extent.block for extent in drive.ledger.namespace.extents(file.inode, 0, file.size)]


async def test_blocks_that_only_a_dirty_file_has_stay(site: Site) -> None:
    """Sealed ahead of a writer that goes on: no row names them yet."""
    async with site.mounted() as drive:
        await with_dead_data(drive)
        made = await drive.make_node(ROOT_INODE, b"long", 0o100644, 0, 0, 0)
        data = os.urandom(20 << 20)
        await drive.write(made.inode, 0, data)
        layer = drive.ledger.dirty.top(made.inode)
        assert layer is not None
        await drive.sealer.seal_ahead(made.inode, layer)
        await drive.upstream.blocks.flush()
        assert layer.sealed_to > 0
        await collect(drive)
        assert bytes(await drive.read(made.inode, 0, len(data))) == data
        await drive.sync()
        drive.blocks.clear()
        assert bytes(await drive.read(made.inode, 0, len(data))) == data


async def test_another_mount_has_used_what_this_one_released(site: Site) -> None:
    """Released here, used there, and this cache comes back: nothing may go on the word of an old note."""
    async with site.mounted() as drive:
        await with_dead_data(drive)
        await drive.retention.collect(grace=3600)
    shutil.move(site.path / "cache", site.path / "elsewhere")
    async with site.mounted() as drive:
        await make_file(drive, b"again", DATA)
        await drive.sync()
    site.lose_cache()
    shutil.move(site.path / "elsewhere", site.path / "cache")
    async with site.mounted() as drive:
        await collect(drive)
        drive.blocks.clear()
        assert await content_of(drive, b"again") == DATA

"""Released blocks and compaction: what goes, what stays, and every point in between (FAULTS 24, 25)."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import trio
import trio.testing

from backend.buffer import Buffer
from backend.errors import DriveError, FencedError, NotFoundError, UsageError
from backend.failpoints import OF_PROCESS
from backend.upstream import BlockId, CompactionReport, SealedBlock
from tests.declared_failpoints import DECLARED
from tests.faulty_node import Fault
from tests.unit.backend.blocks.test_block_store import AWAY, Rig, blocks, build, reopened, running

STEPS = sorted(name for name in DECLARED if name.startswith("compaction."))
OFTEN = ("compaction.deleting", "compaction.debris")
FAST = float("inf")


@pytest.fixture
async def rig(tmp_path: Path) -> AsyncIterator[Rig]:
    async with running(build(tmp_path, repair_wait=0.02)) as rig:
        yield rig


async def compact(rig: Rig, grace: float = 0, *, debris: bool = True) -> CompactionReport:
    return await rig.store.compact(grace, FAST, debris=debris)


def ids(sealed: list[SealedBlock]) -> list[BlockId]:
    return [block.id for block in sealed]


def stored(rig: Rig) -> int:
    return sum(fragment.stat().st_size for fragment in rig.fragments())


async def test_a_pack_without_needed_blocks_goes(rig: Rig) -> None:
    sealed = blocks(30)
    await rig.write(sealed)
    dead = sealed[::3]
    assert sorted(await rig.store.release(ids(dead))) == sorted(ids(dead))
    report = await compact(rig)
    assert (report.blocks, report.packs, report.rewritten) == (10, 1, 0)
    assert len(rig.fragments()) == 12
    await rig.check(sealed[1::3] + sealed[2::3])
    with pytest.raises(NotFoundError):
        await rig.store.get_block(dead[0].id)
    status = await rig.store.status()
    assert (status.packs, status.stored_bytes) == (2, stored(rig))


@pytest.mark.logs_warnings
async def test_a_doomed_pack_that_is_read_from_stays(rig: Rig) -> None:
    """The index rots on one disk: a bit of it must not delete what is needed."""
    sealed = blocks(10)
    await rig.write(sealed)
    whole = rig.fragments()
    await rig.store.release([])
    assert rig.index.dying.doom(rig.index.packs.ids(b"", 99))
    assert (await compact(rig)).packs == 0
    assert rig.fragments() == whole
    await rig.check(sealed)


async def test_thin_packs_are_rewritten_together_and_thick_ones_left(rig: Rig) -> None:
    sealed = blocks(90)
    await rig.write(sealed)
    thin = [block for pack in (0, 1) for block in sealed[pack::3][:15]]
    thick = sealed[2::3][:5]
    await rig.store.release(ids(thin + thick))
    before = set(rig.packs())
    report = await compact(rig)
    assert (report.blocks, report.packs, report.rewritten) == (35, 2, 2)
    assert len(rig.packs()) == 2
    assert len(before & set(rig.packs())) == 1
    await rig.check([block for block in sealed if block not in thin + thick])
    assert await compact(rig) == CompactionReport()


async def test_at_least_95_percent_come_back(rig: Rig) -> None:
    kept = blocks(4, 100_000, seed=1)
    await rig.write(kept, packs=1)
    before = stored(rig)
    unique = blocks(60, 100_000, seed=2)
    await rig.write(unique, packs=6)
    held = stored(rig) - before
    await rig.store.release(ids(unique))
    await compact(rig)
    assert stored(rig) - before <= 0.05 * held
    await rig.check(kept)


async def test_a_doomed_pack_that_names_a_removed_node_goes(rig: Rig) -> None:
    """Its fragment there went with the node; it is not waited for."""
    sealed = blocks(10)
    await rig.write(sealed, packs=1)
    [pack_id] = rig.index.packs.ids(b"", 99)
    pack = rig.index.packs.get(pack_id)
    assert pack is not None
    rig.index.packs.set_nodes(pack_id, ["removed", *pack.nodes[1:]])
    await rig.store.release(ids(sealed))
    report = await compact(rig)
    assert (report.packs, report.waiting) == (1, 0)
    assert rig.index.packs.ids(b"", 99) == []


async def test_nothing_goes_before_its_grace(rig: Rig) -> None:
    sealed = blocks(10)
    await rig.write(sealed, packs=1)
    await rig.store.release(ids(sealed))
    assert await compact(rig, grace=3600) == CompactionReport()
    await rig.check(sealed)
    assert await rig.store.missing(ids(sealed)) == set(ids(sealed))


async def test_a_released_block_that_is_needed_again_lives(rig: Rig) -> None:
    sealed = blocks(10)
    await rig.write(sealed, packs=1)
    await rig.store.release(ids(sealed))
    assert await rig.store.release(ids(sealed[5:])) == []
    assert await rig.store.missing(ids(sealed)) == set(ids(sealed[5:]))
    await compact(rig)
    await rig.check(sealed[:5])


async def test_a_released_block_that_is_put_again_is_stored_anew(rig: Rig) -> None:
    sealed = blocks(10)
    await rig.write(sealed, packs=1)
    await rig.store.release(ids(sealed))
    await rig.write(sealed[:3], packs=1)
    assert await rig.store.missing(ids(sealed)) == set(ids(sealed[3:]))
    report = await compact(rig)
    assert report.packs == 1
    await rig.check(sealed[:3])
    async with reopened(rig.path) as other:
        await other.store.reconcile()
        await other.check(sealed[:3])


async def test_a_block_that_is_on_its_way_again_is_not_lost(tmp_path: Path) -> None:
    """It is in the buffer, given again after its release, while the old copy goes."""
    async with running(build(tmp_path, linger=1e9)) as rig:
        sealed = blocks(6)
        await rig.write(sealed, packs=1)
        await rig.store.release(ids(sealed))
        await rig.store.put_blocks(sealed[:2])
        await compact(rig)
        await rig.check(sealed[:2])
        await rig.store.flush()
        assert await rig.store.missing(ids(sealed)) == set(ids(sealed[2:]))
        await rig.check(sealed[:2])


async def test_what_an_earlier_session_released_does_not_go_in_this_one(tmp_path: Path) -> None:
    """Another mount may have used the blocks in between (its index knew of no release)."""
    sealed = blocks(10)
    async with running(build(tmp_path, index=str(tmp_path / "blocks.db"))) as rig:
        await rig.write(sealed, packs=1)
        await rig.store.release(ids(sealed))
    async with running(build(tmp_path, index=str(tmp_path / "blocks.db"))) as rig:
        with pytest.raises(UsageError, match="released in this session"):
            await compact(rig)
        await rig.store.release(ids(sealed[5:]))
        await compact(rig)
        await rig.check(sealed[:5])


@pytest.mark.logs_warnings
@pytest.mark.parametrize("skip", [0, 3])
@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("index", ["kept", "lost"])
async def test_an_interruption_at_each_step(tmp_path: Path, step: str, skip: int, index: str) -> None:
    """Whatever was needed is there afterwards, with the index or without; and the next run finishes."""
    database = str(tmp_path / "blocks.db")
    sealed = blocks(60)
    needed, dead = sealed[:24], sealed[24:]
    async with running(build(tmp_path, index=database, repair_wait=0.02)) as rig:
        await rig.write(needed + dead, packs=4)
        await rig.write(blocks(12, seed=9), packs=1)
        if step == "compaction.debris":
            make_debris(rig, rig.fragments())
        await rig.store.release(ids(dead) + ids(blocks(12, seed=9)))
        OF_PROCESS.arm(step, "eio", skip if step in OFTEN else 0)
        with pytest.raises(OSError, match=step):
            await compact(rig)
        OF_PROCESS.disarm_all()
        await rig.check(needed)
    async with running(build(tmp_path, index=database if index == "kept" else ":memory:")) as rig:
        await rig.store.reconcile()
        await rig.check(needed)
        gone = [block for block in ids(dead) + ids(blocks(12, seed=9)) if rig.index.locate(block)]
        await rig.store.release(gone)
        await compact(rig)
        await rig.store.repairs.repair_all()
        await compact(rig)
        await rig.check(needed)
        assert stored(rig) <= 1.1 * (await rig.store.status()).stored_bytes
        assert len(rig.packs()) <= 2
        assert not any(rig.index.locate(block) for block in gone)
    async with reopened(tmp_path) as other:
        await other.store.reconcile()
        await other.check(needed)


def make_debris(rig: Rig, fragments: list[Path]) -> None:
    """Fragments of packs that nobody knows, too few to read."""
    for number in range(6):
        name = f"{number:02x}" + "ab" * 15
        folder = fragments[number].parent.parent / name[:2]
        folder.mkdir(exist_ok=True)
        (folder / f"{name}.{number}").write_bytes(b"remains")


async def test_an_index_that_missed_a_compaction_is_mended(tmp_path: Path) -> None:
    """Machine A compacts while machine B is not there; B's index still names the old packs."""
    sealed = blocks(60)
    theirs = str(tmp_path / "b.db")
    async with running(build(tmp_path, index=theirs)) as rig:
        await rig.write(sealed, packs=2)
    async with running(build(tmp_path)) as rig:
        await rig.store.reconcile()
        await rig.store.release(ids(sealed[20:]))
        assert (await compact(rig)).rewritten == 2
    async with running(build(tmp_path, index=theirs)) as rig:
        await rig.store.reconcile()
        await rig.check(sealed[:20])
        assert await rig.store.missing(ids(sealed)) == set(ids(sealed[20:]))
        await rig.store.put_blocks(sealed[20:30])
        await rig.store.flush()
        await rig.check(sealed[:30])
        await rig.store.release(ids(sealed[30:]))
        with trio.fail_after(60):  # a pack that a repair has in hand is left to a later compaction
            while rig.index.packs.statistics(0, 99).packs != len(rig.packs()):
                await compact(rig)


async def test_a_reader_meets_a_compaction(rig: Rig) -> None:
    """The pack goes between the look-up and the read."""
    sealed = blocks(40)
    await rig.write(sealed, packs=1)
    await rig.store.release(ids(sealed[10:]))
    reached, go_on = trio.Event(), trio.Event()
    holder = rig.holders(sealed[0], 0)[0]
    original = rig.nodes[holder].get

    async def slow(key: str, offset: int = 0, length: int | None = None) -> bytes:
        rig.nodes[holder].get = original  # type: ignore[method-assign]
        reached.set()
        await go_on.wait()
        return await original(key, offset, length)

    rig.nodes[holder].get = slow  # type: ignore[method-assign]
    found: list[Buffer] = []

    async def read() -> None:
        found.append(await rig.store.get_block(sealed[0].id))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(read)
        await reached.wait()
        await compact(rig)
        go_on.set()
    assert found == [sealed[0].data]


async def test_a_fenced_process_deletes_nothing_more(rig: Rig) -> None:
    """It was stopped in the middle of a deletion and taken over: parity makes up for what it had begun."""
    sealed = blocks(30)
    await rig.write(sealed, packs=1)
    await rig.store.release(ids(sealed))
    asked = 0

    async def verify() -> None:
        nonlocal asked
        await trio.lowlevel.checkpoint()
        asked += 1
        if asked > 2:
            raise FencedError("the lease was taken over")

    rig.writer.verifying = verify
    with pytest.raises(FencedError):
        await rig.store.compact(0, FAST, debris=True)
    assert len(rig.fragments()) == 5
    async with reopened(rig.path) as other:
        await other.store.reconcile()
        await other.check(sealed)


async def test_a_node_that_is_away_is_cleaned_later(rig: Rig) -> None:
    sealed = blocks(30)
    await rig.write(sealed, packs=1)
    name = rig.holders(sealed[0], 2)[0]
    rig.nodes[name].faults = [Fault(("delete",), error=AWAY)]
    await rig.store.release(ids(sealed))
    report = await compact(rig)
    assert (report.packs, report.waiting) == (0, 1)
    assert len(rig.fragments()) == 1
    assert not rig.index.packs.to_repair(1)
    rig.nodes[name].faults = []
    assert (await compact(rig)).packs == 1
    assert rig.fragments() == []


@pytest.mark.logs_warnings
async def test_a_pack_that_wants_repair_is_left_to_the_repair(tmp_path: Path) -> None:
    rig = build(tmp_path)
    async with running(rig):
        sealed = blocks(30)
        await rig.write(sealed, packs=1)
        location = rig.index.locate(sealed[0].id)
        assert location is not None
        rig.index.packs.want_repair(location.pack.id, 1)
        await rig.store.release(ids(sealed))
        assert (await compact(rig)).packs == 0
        assert len(rig.fragments()) == 6
        await rig.store.repairs.repair_all()
        assert (await compact(rig)).packs == 1


async def test_a_pack_that_is_being_written_is_not_taken_for_debris(tmp_path: Path) -> None:
    async with running(build(tmp_path)) as rig:
        sealed = blocks(4)
        hold = trio.Event()
        for name in list(rig.nodes)[2:]:
            rig.nodes[name].faults = [Fault(("put",), until=hold)]
        await rig.store.release([])
        async with trio.open_nursery() as nursery:
            nursery.start_soon(rig.write, sealed, 1)
            while len(rig.fragments()) < 2:
                await trio.sleep(0.001)
            assert (await compact(rig)).debris == 0
            hold.set()
        await rig.check(sealed)


async def test_debris_stays_while_a_node_is_away_or_blocks_are_lost(rig: Rig) -> None:
    await rig.write(blocks(4), packs=1)
    make_debris(rig, rig.fragments())
    await rig.store.release([])
    assert (await compact(rig, debris=False)).debris == 0
    rig.nodes["node5"].faults = [Fault(("keys",), error=AWAY)]
    assert (await compact(rig)).debris == 0
    rig.nodes["node5"].faults = []
    assert (await compact(rig)).debris == 6
    await rig.check(blocks(4))


async def test_an_unreadable_pack_stops_nothing_and_is_kept(rig: Rig) -> None:
    sealed = blocks(60)
    await rig.write(sealed, packs=2)
    for name in list(rig.nodes)[:3]:
        rig.nodes[name].faults = [Fault(("get",), error=AWAY)]
    await rig.store.release(ids(sealed[20:]))
    report = await compact(rig)
    assert (report.packs, report.rewritten) == (0, 0)
    for node in rig.nodes.values():
        node.faults = []
    assert (await compact(rig)).rewritten == 2
    await rig.check(sealed[:20])


async def test_a_new_pack_below_the_quorum_deletes_nothing(rig: Rig) -> None:
    sealed = blocks(60)
    await rig.write(sealed, packs=2)
    for name in list(rig.nodes)[:3]:
        rig.nodes[name].faults = [Fault(("put",), error=AWAY)]
    await rig.store.release(ids(sealed[20:]))
    with pytest.raises(DriveError):
        await compact(rig)
    assert len(rig.packs()) >= 2
    await rig.check(sealed[:20])
    for node in rig.nodes.values():
        node.faults = []
    assert (await compact(rig)).rewritten == 2
    await rig.check(sealed[:20])


async def test_rewriting_keeps_to_its_rate(rig: Rig, autojump_clock: trio.testing.MockClock) -> None:
    """At 1000 bytes a second, 3000 needed bytes take three seconds."""
    sealed = blocks(10, 1000)
    await rig.store.put_blocks(sealed)
    await rig.store.flush()
    await rig.settle()
    await rig.store.release(ids(sealed[3:]))
    started = trio.current_time()
    await rig.store.compact(0, 1000, debris=False)
    assert trio.current_time() - started == pytest.approx(3, abs=1)

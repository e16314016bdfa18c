"""Thin packs are rewritten: what is needed stays readable, what it takes stays as it was, and the room comes
back."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import anyio
import psycopg
import pytest

from backend.errors import DriveError
from backend.hub import HubBlocks, ThinPackTable
from backend.hub.compaction import STORED, HubCompaction, Rewritten
from backend.hub.packing import DriveNumber
from backend.packs import Pack, PackEntry
from backend.system import THIS_MACHINE, Environment
from backend.upstream import BlockId, SealedBlock
from tests.contents import KINDS, content
from tests.hub_care import check, database_of, drive_of, is_waiting_for_a_lock
from tests.hub_server import RunningHub, hub_for_test
from tests.waiting import wait_until

FAST = float("inf")
SIZE = 20_000


@pytest.fixture
def running() -> Iterator[RunningHub]:
    with hub_for_test() as found:
        yield found


def sealed(count: int, seed: object = 0, size: int = SIZE) -> list[SealedBlock]:
    """Blocks of all kinds of content."""
    return [
        SealedBlock(BlockId(os.urandom(32)), content(KINDS[at % len(KINDS)], size, f"{seed} {at}"))
        for at in range(count)
    ]


def put(running: RunningHub, drive: DriveNumber, *packs: Sequence[SealedBlock]) -> None:
    """Each as a pack, all of whose fragments are stored; and commits name all."""

    async def each(blocks: HubBlocks) -> None:
        for pack in packs:
            await blocks.put(drive, pack)
        await blocks.store(drive).wait_for_writes()

    running.call(each(running.hub.blocks))
    with psycopg.connect(running.conninfo) as connection:
        connection.execute("UPDATE block SET state = 1")


def forget(running: RunningHub, blocks: Sequence[SealedBlock]) -> None:
    """As housekeeping does, when their time is over."""
    with psycopg.connect(running.conninfo) as connection:
        ids = [block.id for block in blocks]
        connection.execute("DELETE FROM block WHERE id = ANY(%s)", (ids,))


def compact(
    running: RunningHub, most: int = 1 << 30, rounds: int = 1, environment: Environment = THIS_MACHINE
) -> list[Rewritten]:
    """Rounds of one process."""

    async def run() -> list[Rewritten]:
        async with database_of(running) as database:
            work = HubCompaction(ThinPackTable(database), running.hub.blocks, FAST, most, environment)
            return [await work.round() for _ in range(rounds)]

    return running.call(run())


def collect(running: RunningHub, grace: float) -> None:
    running.call(running.hub.blocks.collect(grace))


def packs(running: RunningHub, condition: str = "true") -> set[bytes]:
    with psycopg.connect(running.conninfo) as connection:
        found = connection.execute(f"SELECT id FROM pack WHERE {condition}".encode())
        return {row[0] for row in found.fetchall()}


def require_readable(running: RunningHub, drive: DriveNumber, blocks: Sequence[SealedBlock]) -> None:
    for block in blocks:
        part = running.call(running.hub.blocks.read(drive, block.id, 0, 1 << 20))
        assert bytes(part.data) == block.data


def used(running: RunningHub, drive: DriveNumber) -> int:
    return running.call(running.hub.quotas.of_drive(drive.number)).used


def on_nodes(running: RunningHub) -> int:
    return sum(len(data) for node in running.nodes.values() for data in node.objects.values())


def test_thin_packs_become_one_and_thick_ones_stay(running: RunningHub) -> None:
    drive, other = drive_of(running), drive_of(running)
    first, second, thick, foreign = (sealed(10, seed) for seed in range(4))
    put(running, drive, first, second, thick)
    put(running, other, foreign)
    before = packs(running)
    dead = [*first[:6], *second[:7], *thick[:3], *foreign[:9]]
    kept = [*first[6:], *second[7:], *thick[3:]]
    forget(running, dead)
    took, on_disk = used(running, drive), on_nodes(running)
    (done,) = compact(running)
    assert (done.packs, done.moved) == (3, 8 * SIZE)
    assert used(running, drive) == took == len(kept) * SIZE
    require_readable(running, drive, kept)
    require_readable(running, other, foreign[9:])
    usage = running.call(running.hub.table.usage(drive.number))
    assert (usage.blocks, usage.bytes, usage.packs) == (len(kept), took, 2)
    assert before < packs(running)
    collect(running, 3600)
    assert before < packs(running), "a dump of the database may name them"
    collect(running, 0)
    assert len(packs(running)) == 3
    assert len(packs(running) & before) == 1
    assert on_nodes(running) < on_disk - 20 * SIZE
    require_readable(running, drive, kept)
    require_readable(running, other, foreign[9:])
    assert check(running, data=True) == []
    assert compact(running) == [Rewritten()]


def test_a_pack_is_looked_at_once_until_it_shrinks_again(running: RunningHub) -> None:
    drive, blocks = drive_of(running), sealed(10)
    put(running, drive, blocks)
    forget(running, blocks[:2])
    assert packs(running, "shrunk") == packs(running)
    assert compact(running) == [Rewritten()]
    assert packs(running, "shrunk") == set()
    forget(running, blocks[2:6])
    assert packs(running, "shrunk") == packs(running)
    assert compact(running)[0].packs == 1


def test_what_shrinks_while_it_is_looked_at_is_looked_at_again(running: RunningHub) -> None:
    """The deletion is not committed when the pack is looked at."""
    drive, blocks = drive_of(running), sealed(10)
    put(running, drive, blocks)
    forget(running, blocks[:1])
    with psycopg.connect(running.conninfo) as deleting:
        deleting.execute("DELETE FROM block WHERE id = ANY(%s)", ([block.id for block in blocks[1:8]],))
        assert compact(running) == [Rewritten()]
    assert compact(running)[0].packs == 1
    require_readable(running, drive, blocks[8:])


def test_a_round_is_bounded_and_the_next_one_goes_on(running: RunningHub) -> None:
    drive = drive_of(running)
    sets = [sealed(5, seed, 1 << 20) for seed in range(6)]
    put(running, drive, *sets)
    for blocks in sets:
        forget(running, blocks[:3])
    found = compact(running, most=1, rounds=3)
    assert [done.packs for done in found] == [4, 2, 0]
    require_readable(running, drive, [block for blocks in sets for block in blocks[3:]])


@pytest.mark.logs_warnings
def test_a_pack_that_cannot_be_read_stays_and_holds_up_no_other(running: RunningHub) -> None:
    drive = drive_of(running)
    lost, whole = sealed(10, 1, 600_000), sealed(10, 2, 600_000)
    put(running, drive, lost)
    (pack,) = packs(running)
    kept = {
        (name, key): node.objects.pop(key)
        for name, node in [*running.nodes.items()][:3]
        for key in [*node.objects]
        if pack.hex() in key
    }
    put(running, drive, whole)
    forget(running, [*lost[:6], *whole[:6]])
    assert sum(done.packs for done in compact(running, most=1, rounds=2)) == 1
    for (name, key), data in kept.items():
        running.nodes[name].objects[key] = data
    assert compact(running)[0].packs == 1
    require_readable(running, drive, [*lost[6:], *whole[6:]])


def test_one_full_node_is_no_hindrance_and_without_room_nothing_is_begun(running: RunningHub) -> None:
    drive, blocks = drive_of(running), sealed(10, 0, 300_000)
    put(running, drive, blocks)
    forget(running, blocks[:7])
    nodes = [*running.nodes.values()]
    for node in nodes[:2]:
        node.full = True
    before = on_nodes(running)
    assert compact(running) == [Rewritten()]
    assert on_nodes(running) == before
    nodes[0].full = False
    assert compact(running)[0].packs == 1
    require_readable(running, drive, blocks[7:])


def test_what_waits_for_its_time_takes_no_more_than_is_free(running: RunningHub) -> None:
    drive = drive_of(running)
    sets = [sealed(6, seed, 1 << 20) for seed in range(6)]
    put(running, drive, *sets)
    for blocks in sets:
        forget(running, blocks[:3])
    for node in running.nodes.values():
        node.capacity = node.used + 7 * (1 << 20)
    assert compact(running)[0].packs == 4
    collect(running, 0)
    assert compact(running)[0].packs == 2
    require_readable(running, drive, [block for blocks in sets for block in blocks[3:]])


def test_what_waits_is_counted_once_in_a_round(running: RunningHub) -> None:
    """It may be a million packs."""
    drive = drive_of(running)
    sets = [sealed(6, seed, 1 << 20) for seed in range(4)]
    put(running, drive, *sets)
    for blocks in sets:
        forget(running, blocks[:3])
    asked: list[int] = []

    class Table(ThinPackTable):
        async def waiting(self) -> int:
            asked.append(await super().waiting())
            return asked[-1]

    async def run() -> Rewritten:
        async with database_of(running) as database:
            return await HubCompaction(Table(database), running.hub.blocks, FAST).round()

    assert running.call(run()).packs == 4
    assert asked == [0]


def test_with_little_room_the_thinnest_go_first(running: RunningHub) -> None:
    drive = drive_of(running)
    thicker, thinner = sealed(6, 1, 1 << 20), sealed(6, 2, 1 << 20)
    put(running, drive, thicker, thinner)
    forget(running, [*thicker[:3], *thinner[:5]])
    for node in running.nodes.values():
        node.capacity = node.used + (1 << 19)
    assert compact(running)[0].moved == 1 << 20
    require_readable(running, drive, [*thicker[3:], thinner[5]])


@pytest.mark.logs_warnings
def test_nodes_that_refuse_what_they_have_room_for_are_left_alone_for_a_while(running: RunningHub) -> None:
    drive, blocks = drive_of(running), sealed(10, 0, 300_000)
    put(running, drive, blocks)
    forget(running, blocks[:7])
    for name in ("node0", "node1"):
        running.nodes[name].quota = running.nodes[name].used

    async def run() -> list[int]:
        async with database_of(running) as database:
            work = HubCompaction(ThinPackTable(database), running.hub.blocks, FAST)
            with pytest.raises(DriveError):
                await work.round()
            await running.hub.blocks.store(drive).wait_for_writes()
            before = on_nodes(running)
            assert await work.round() == Rewritten()
            return [before, on_nodes(running)]

    before, after = running.call(run())
    assert before == after
    for name in ("node0", "node1"):
        running.nodes[name].quota = 1 << 40
    assert compact(running)[0].packs == 1
    require_readable(running, drive, blocks[7:])


def test_a_pack_of_which_nothing_is_read_from_the_first_is_kept_as_an_emptied_one(
    running: RunningHub,
) -> None:
    """A database that was restored by mistake has the blocks elsewhere; the right one may have them there."""
    drive, blocks = drive_of(running), sealed(3)
    put(running, drive, blocks)

    async def note(pack: Pack, entries: Sequence[PackEntry]) -> None:
        await running.hub.table.add(drive.number, pack, entries)

    before = packs(running)
    running.call(running.hub.blocks.write(drive, blocks, note))
    assert packs(running, "shrunk") == packs(running) - before != set()
    collect(running, 3600)
    assert packs(running) > before
    assert compact(running) == [Rewritten()]
    collect(running, 0)
    assert packs(running) == before
    require_readable(running, drive, blocks)
    assert used(running, drive) == 3 * SIZE


def test_a_doubted_block_is_moved_and_stays_doubted(running: RunningHub) -> None:
    """A pack that one small block keeps would be room that no quota counts."""
    drive, blocks = drive_of(running), sealed(10)
    put(running, drive, blocks)
    before = packs(running)
    forget(running, blocks[:7])
    running.call(running.hub.table.doubt(drive.number, blocks[8].id))
    assert compact(running)[0].moved == 3 * SIZE
    assert packs(running, "emptied IS NOT NULL") == before
    require_readable(running, drive, blocks[7:])
    ids = [block.id for block in blocks[7:]]
    present = running.call(running.hub.table.present(drive.number, ids))
    assert present == {blocks[7].id, blocks[9].id}


def doubted_in_two_packs(
    running: RunningHub,
) -> tuple[DriveNumber, list[SealedBlock], list[SealedBlock]]:
    """A drive, and the blocks of its two packs, of which the last two are left. The last one of the first
    pack, which was doubted, has a place in the second, too."""
    drive, first, second = drive_of(running), sealed(10, 1), sealed(10, 2)
    put(running, drive, first)
    running.call(running.hub.table.doubt(drive.number, first[9].id))
    put(running, drive, [first[9], *second])
    forget(running, [*first[:8], *second[:8]])
    return drive, first, second


def test_both_places_of_a_block_that_was_doubted_are_moved(running: RunningHub) -> None:
    drive, first, second = doubted_in_two_packs(running)
    before = packs(running)
    compact(running, rounds=2)
    assert packs(running, "emptied IS NOT NULL") == before
    assert used(running, drive) == 5 * SIZE
    require_readable(running, drive, [*first[8:], *second[8:]])
    assert compact(running) == [Rewritten()]
    assert check(running, data=True) == []


def test_a_pack_whose_last_block_goes_after_a_move_is_kept_for_dumps(running: RunningHub) -> None:
    """The block has a place in each of two thin packs: neither is moved in part, or it would go at once."""
    drive, first, second = doubted_in_two_packs(running)
    before = packs(running)
    assert compact(running)[0].packs == 1
    forget(running, [first[9]])
    collect(running, 3600)
    assert before < packs(running), "a dump of the database may name them"
    compact(running)
    assert before < packs(running, "emptied IS NOT NULL")
    require_readable(running, drive, [first[8], *second[8:]])


def test_a_doubt_that_waits_for_a_move_is_of_the_new_place(running: RunningHub) -> None:
    drive, blocks = drive_of(running), sealed(10)
    put(running, drive, blocks)
    forget(running, blocks[:9])
    (old,) = packs(running)
    new, block = os.urandom(16), blocks[9].id
    with psycopg.connect(running.conninfo) as moving, ThreadPoolExecutor(1) as pool:
        moving.execute(
            "INSERT INTO pack (id, drive, size, nodes) SELECT %s, drive, size, nodes FROM pack", (new,)
        )
        moving.execute("SELECT 1 FROM block WHERE id = %s FOR KEY SHARE", (block,))
        moving.execute("UPDATE place SET pack = %s WHERE pack = %s", (new, old))
        doubting = pool.submit(lambda: running.call(running.hub.table.doubt(drive.number, block)))
        wait_until(lambda: is_waiting_for_a_lock(running))
        moving.commit()
        assert not doubting.result(30)
    assert running.call(running.hub.table.present(drive.number, [block])) == set()


def test_what_is_deleted_while_the_new_pack_is_written_is_not_moved(running: RunningHub) -> None:
    """A doubted one is moved. The new pack, which is not all needed, is looked at again."""
    drive, blocks, environment = drive_of(running), sealed(10), Environment()
    put(running, drive, blocks)
    forget(running, blocks[:7])
    before = packs(running)

    def meanwhile() -> None:
        forget(running, blocks[7:8])
        with psycopg.connect(running.conninfo) as connection:
            connection.execute("UPDATE place SET doubted = now() WHERE id = %s", (blocks[8].id,))

    environment.failpoints.arm(STORED, meanwhile)
    (done,) = compact(running, environment=environment)
    assert done.moved == 2 * SIZE
    assert packs(running, "emptied IS NOT NULL") == before
    require_readable(running, drive, blocks[8:])
    assert packs(running, "shrunk") == packs(running) > before
    collect(running, 3600)
    require_readable(running, drive, blocks[8:])
    assert used(running, drive) == 2 * SIZE


def test_two_processes_move_a_block_once(running: RunningHub) -> None:
    drive, blocks, environment = drive_of(running), sealed(10), Environment()
    put(running, drive, blocks)
    forget(running, blocks[:7])

    async def both() -> list[int]:
        async with database_of(running) as database:
            one, other = (
                HubCompaction(ThinPackTable(database), running.hub.blocks, FAST, environment=each)
                for each in (environment, Environment())
            )
            found: list[int] = []

            async def first() -> None:
                found.append((await one.round()).moved)

            async with anyio.create_task_group() as group:
                reached = anyio.Event()
                environment.failpoints.arm(STORED, reached.set)
                group.start_soon(first)
                await reached.wait()
                found.append((await other.round()).moved)
            return found

    assert sorted(running.call(both())) == [0, 3 * SIZE]
    require_readable(running, drive, blocks[7:])
    assert used(running, drive) == 3 * SIZE
    collect(running, 0)
    assert len(packs(running)) == 1


def test_who_deletes_and_who_moves_wait_for_each_other(running: RunningHub) -> None:
    drive, blocks, environment = drive_of(running), sealed(10), Environment()
    put(running, drive, blocks)
    forget(running, blocks[:7])
    with psycopg.connect(running.conninfo) as deleting, ThreadPoolExecutor(1) as pool:

        def meanwhile() -> None:
            deleting.execute("DELETE FROM block WHERE id = %s", (blocks[7].id,))

        environment.failpoints.arm(STORED, meanwhile)
        work = pool.submit(compact, running, environment=environment)
        wait_until(lambda: work.done() or is_waiting_for_a_lock(running))
        deleting.commit()
        (done,) = work.result(60)
    assert done.moved == 2 * SIZE
    assert used(running, drive) == 2 * SIZE
    require_readable(running, drive, blocks[8:])

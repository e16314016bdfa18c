"""Packs that no transaction entered go when their time is over, and one that is on its way never does."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import psycopg
import pytest

from backend.errors import DriveError, TransientError
from backend.hub import StrayPacks, StrayPackTable
from backend.hub.packing import DriveNumber
from backend.hub.stray_packs import DELETING, PAGE
from backend.packs import Pack, PackEntry, fragment_key
from backend.system import THIS_MACHINE, Environment
from backend.upstream import BlockId, SealedBlock
from tests.contents import content
from tests.hub_care import RETENTION, check, database_of, drive_of, drive_with_blocks, is_waiting_for_a_lock
from tests.hub_server import RunningHub, hub_for_test
from tests.waiting import wait_until


@pytest.fixture
def running() -> Iterator[RunningHub]:
    with hub_for_test() as found:
        yield found


def stray(running: RunningHub, drive: DriveNumber, note: Callable[[Pack], None] | None = None) -> bytes:
    """Write a pack whose transaction fails, after `note`; its id."""
    found: list[Pack] = []

    async def fail(pack: Pack, _entries: object) -> None:
        found.append(pack)
        if note is not None:
            note(pack)
        raise TransientError("the process ended")

    async def write() -> None:
        blocks = [SealedBlock(BlockId(os.urandom(32)), content("json", 5000, 1))]
        with pytest.raises(TransientError):
            await running.hub.blocks.write(drive, blocks, fail)
        await running.hub.blocks.store(drive).wait_for_writes()

    running.call(write())
    return found[0].id


def look(
    running: RunningHub, rounds: int = 1, environment: Environment = THIS_MACHINE, away: tuple[str, ...] = ()
) -> list[int]:
    """Rounds of one process, a day after the last ones."""
    with psycopg.connect(running.conninfo) as connection:
        connection.execute("UPDATE node_listing SET due = now()")
    return go_on(running, rounds, environment, away)


def go_on(
    running: RunningHub, rounds: int = 1, environment: Environment = THIS_MACHINE, away: tuple[str, ...] = ()
) -> list[int]:
    """Rounds of one process, soon after the last ones."""

    async def run() -> list[int]:
        async with database_of(running) as database:
            strays = StrayPacks(StrayPackTable(database, RETENTION), running.nodes, environment)
            return [await strays.round(away) for _ in range(rounds)]

    return running.call(run())


def later(running: RunningHub) -> None:
    """Two hours."""
    with psycopg.connect(running.conninfo) as connection:
        connection.execute("UPDATE stray_pack SET seen = seen - interval '2 hours'")


def rows(running: RunningHub, condition: str = "true") -> int:
    with psycopg.connect(running.conninfo) as connection:
        found = connection.execute(f"SELECT count(*) FROM stray_pack WHERE {condition}".encode()).fetchone()
    assert found is not None
    return int(found[0])


def fragments(running: RunningHub, pack: bytes) -> int:
    return sum(pack.hex() in key for node in running.nodes.values() for key in node.objects)


def test_a_pack_that_nobody_entered_goes_when_it_is_listed_again_after_its_time(running: RunningHub) -> None:
    drive, _ = drive_with_blocks(running)
    pack = stray(running, drive)
    assert look(running, 2) == [0, 0]
    assert rows(running, "ended IS NULL") == 1
    later(running)
    assert look(running, 2) == [6, 0]
    assert (fragments(running, pack), rows(running, "ended IS NOT NULL")) == (0, 1)
    assert check(running, data=True) == []


def test_a_pack_that_was_on_its_way_when_it_was_listed_stays(running: RunningHub) -> None:
    drive, _ = drive_with_blocks(running)

    async def put() -> SealedBlock:
        block = SealedBlock(BlockId(os.urandom(32)), content("log", 9000, 1))

        async def note(pack: Pack, entries: Sequence[PackEntry]) -> None:
            async with database_of(running) as database:
                table = StrayPackTable(database, RETENTION)
                assert await StrayPacks(table, running.nodes).round() == 0
                await running.hub.table.add(drive.number, pack, entries)
                assert await table.count() == 1

        await running.hub.blocks.write(drive, [block], note)
        return block

    block = running.call(put())
    later(running)
    assert look(running) == [0]
    assert rows(running) == 0
    part = running.call(running.hub.blocks.read(drive, block.id, 0, 1 << 20))
    assert bytes(part.data) == block.data
    assert check(running, data=True) == []


@pytest.mark.logs_warnings
def test_a_pack_that_ended_is_not_entered_any_more(running: RunningHub) -> None:
    """A process that was stopped in the middle of a write for longer than packs are kept."""
    drive, _ = drive_with_blocks(running)
    pack = stray(running, drive)
    look(running)
    later(running)
    assert look(running) == [6]
    entry = PackEntry(BlockId(os.urandom(32)), 40, 100)
    with pytest.raises(TransientError, match="too late"):
        running.call(running.hub.table.add(drive.number, Pack(pack, 512, 0, ("node0",) * 6), [entry]))
    assert running.call(running.hub.table.find(drive.number, entry.block)) is None


def test_a_pack_that_is_being_entered_does_not_end(running: RunningHub) -> None:
    """Its transaction is open: who would end it is told no at once, and sees the pack after that."""
    drive, _ = drive_with_blocks(running)
    pack = stray(running, drive)
    look(running)
    later(running)
    with psycopg.connect(running.conninfo) as entering:
        entering.execute(
            "INSERT INTO pack (id, drive, size, nodes) VALUES (%s, %s, 1, '{}')", (pack, drive.number)
        )
        assert look(running) == [0]
        entering.commit()
        assert look(running) == [0]
    assert (fragments(running, pack), rows(running)) == (6, 0)


def test_a_listing_goes_on_page_by_page_and_begins_anew_after_a_pause(running: RunningHub) -> None:
    drive_with_blocks(running)
    node, asked = running.nodes["node3"], []

    async def note(operation: str, key: str) -> None:
        if operation == "keys":
            asked.append(key)

    node.before = note
    for at in range(2 * PAGE):
        node.objects[fragment_key(at.to_bytes(16, "big"), 0)] = b"x"
    assert look(running, 4) == [0, 0, 0, 0]
    assert rows(running) == 2 * PAGE
    assert len(asked) == 3
    later(running)
    assert look(running, 3) == [PAGE, PAGE, 0]
    assert len(node.objects) == 1


def test_a_listing_goes_on_where_another_process_ended(running: RunningHub) -> None:
    drive, _ = drive_with_blocks(running)
    node = running.nodes["node3"]
    for at in range(2 * PAGE):
        node.objects[fragment_key(at.to_bytes(16, "big"), 0)] = b"x"
    seen = []
    for _ in range(3):
        assert go_on(running) == [0]
        seen.append(rows(running))
    assert seen == [PAGE, 2 * PAGE, 2 * PAGE]
    pack = stray(running, drive)
    assert go_on(running) == [0]
    assert rows(running) == 2 * PAGE, "all nodes are listed, and wait for a day"
    look(running, 3)
    assert rows(running, f"id = '\\x{pack.hex()}'") == 1


def test_what_could_not_be_deleted_is_looked_at_again_before_the_listing_goes_on(
    running: RunningHub,
) -> None:
    drive, _ = drive_with_blocks(running)
    pack, environment = stray(running, drive), Environment()
    look(running)
    later(running)
    environment.failpoints.arm(DELETING, "eio")
    with pytest.raises(OSError, match="failpoint"):
        look(running, environment=environment)
    assert go_on(running) == [6]
    assert fragments(running, pack) == 0


def test_a_node_that_is_away_is_not_asked_and_its_fragments_go_later(running: RunningHub) -> None:
    drive, _ = drive_with_blocks(running)
    pack = stray(running, drive)
    look(running)
    later(running)
    running.nodes["node1"].away = True
    assert look(running, away=("node1",)) == [5]
    assert look(running) == [0]
    running.nodes["node1"].away = False
    assert look(running) == [1]
    assert fragments(running, pack) == 0


def test_two_that_see_the_same_packs_do_not_wait_for_each_other(running: RunningHub) -> None:
    """A check beside the housekeeping: the one waits for the other, which goes on."""
    first, *others = sorted(os.urandom(16) for _ in range(200))

    async def see() -> None:
        async with database_of(running) as database:
            await StrayPackTable(database, RETENTION).see({first, *others})

    with psycopg.connect(running.conninfo) as seeing, ThreadPoolExecutor(1) as pool:
        seeing.execute("INSERT INTO stray_pack (id) VALUES (%s)", (first,))
        other = pool.submit(running.call, see())
        wait_until(lambda: is_waiting_for_a_lock(running))
        seeing.execute("INSERT INTO stray_pack (id) SELECT unnest(%s::bytea[])", (others,))
        seeing.commit()
        other.result(60)
    assert rows(running) == 200


def test_what_ended_or_was_not_listed_any_more_is_forgotten_at_last(running: RunningHub) -> None:
    drive, _ = drive_with_blocks(running)
    first, second = stray(running, drive), stray(running, drive)
    look(running)
    with psycopg.connect(running.conninfo) as connection:
        connection.execute("UPDATE stray_pack SET ended = now() - interval '89 days' WHERE id = %s", (first,))
    look(running)
    assert (fragments(running, first), fragments(running, second), rows(running)) == (0, 6, 2)
    with psycopg.connect(running.conninfo) as connection:
        connection.execute("UPDATE stray_pack SET ended = now() - interval '91 days' WHERE id = %s", (first,))
    look(running)
    assert rows(running) == 1
    for node in running.nodes.values():
        node.objects = {key: data for key, data in node.objects.items() if second.hex() not in key}
    with psycopg.connect(running.conninfo) as connection:
        connection.execute("UPDATE stray_pack SET seen = now() - interval '91 days'")
    look(running)
    assert rows(running) == 0


def test_the_check_tells_strays_and_removes_those_whose_time_is_over(running: RunningHub) -> None:
    drive, blocks = drive_with_blocks(running)
    pack = stray(running, drive)
    assert check(running)[0].startswith("note: 1 packs on the nodes are not in the database")
    assert rows(running) == 0, "a check alone changes nothing"
    assert check(running, mend=True)[0].startswith("note: 1 packs")
    later(running)
    (finding,) = check(running)
    assert finding.startswith("left: 1 packs that the database has not known for as long")
    assert fragments(running, pack) == 6
    assert check(running, mend=True)[0].startswith("mended: 1 packs that the database has not known")
    assert check(running, data=True) == []
    assert fragments(running, pack) == 0
    part = running.call(running.hub.blocks.read(drive, blocks[0].id, 0, 1 << 20))
    assert bytes(part.data) == blocks[0].data


@pytest.mark.logs_warnings
def test_a_write_that_finds_no_quorum_leaves_a_stray_that_goes(running: RunningHub) -> None:
    drive = drive_of(running)
    for name in ("node0", "node1"):
        running.nodes[name].away = True
    blocks = [SealedBlock(BlockId(os.urandom(32)), content("text", 5000, 1))]
    with pytest.raises(DriveError):
        running.call(running.hub.blocks.put(drive, blocks))
    for name in ("node0", "node1"):
        running.nodes[name].away = False
    running.call(running.hub.blocks.store(drive).wait_for_writes())
    look(running)
    later(running)
    assert look(running) == [4]
    assert not any(node.objects for node in running.nodes.values())

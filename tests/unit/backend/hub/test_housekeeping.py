"""Deletion and repair beside the requests: by one process at a time, and never of what is needed."""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import psycopg
import pytest

from backend.hub import Housekeeping, PackTable
from backend.hub.housekeeping import LOCK
from backend.hub.packing import DriveNumber
from backend.upstream import BlockId, SealedBlock
from tests.hub_care import check, database_of, drive_with_blocks, is_waiting_for_a_lock
from tests.hub_server import RunningHub, hub_for_test
from tests.waiting import wait_until


@pytest.fixture
def running() -> Iterator[RunningHub]:
    with hub_for_test() as found:
        yield found


def one_round(
    running: RunningHub, away: frozenset[str] = frozenset(), retention: float = 3600.0
) -> Housekeeping:
    """A round of a process of its own."""

    async def run() -> Housekeeping:
        async with database_of(running) as database:
            care = Housekeeping(database, PackTable(database), running.hub.blocks, lambda: away, retention)
            await care.round()
            return care

    return running.call(run())


def test_a_pack_that_lacks_fragments_is_made_whole_when_its_node_is_back(running: RunningHub) -> None:
    drive, _ = drive_with_blocks(running)
    running.nodes["node2"].away = True
    blocks = [SealedBlock(BlockId(os.urandom(32)), os.urandom(5000))]

    async def put() -> None:
        await running.hub.blocks.put(drive, blocks)
        await running.hub.blocks.store(drive).wait_for_writes()

    running.call(put())
    reads: list[str] = []
    before = running.nodes["node0"].before

    async def count(operation: str, key: str) -> None:
        if operation == "get":
            reads.append(key)
        await before(operation, key)

    running.nodes["node0"].before = count
    care = one_round(running, away=frozenset({"node2"}))
    assert (care.done.repaired, care.done.lacking, reads) == (0, 1, [])
    running.nodes["node2"].away = False
    care = one_round(running)
    assert (care.done.repaired, care.done.lacking) == (1, 0)
    assert check(running, data=True) == []


def test_what_no_commit_names_goes_after_its_time_with_its_pack(running: RunningHub) -> None:
    drive, blocks = drive_with_blocks(running)
    assert one_round(running).done.deleted == 0
    with psycopg.connect(running.conninfo) as connection:
        connection.execute("UPDATE block SET state = 1 WHERE id = %s", (blocks[0].id,))
        connection.execute("UPDATE block SET changed = now() - interval '2 hours'")
    care = one_round(running)
    assert (care.done.deleted, care.done.rewritten) == (2, 1)
    assert any(node.objects for node in running.nodes.values())
    part = running.call(running.hub.blocks.read(drive, blocks[0].id, 0, 1 << 20))
    assert bytes(part.data) == blocks[0].data
    with psycopg.connect(running.conninfo) as connection:
        connection.execute("UPDATE block SET state = 2, changed = now() - interval '2 hours'")
        connection.execute("UPDATE pack SET emptied = now() - interval '2 hours' WHERE emptied IS NOT NULL")
    assert one_round(running).done.deleted == 1
    assert not any(node.objects for node in running.nodes.values())


def test_while_one_process_is_at_it_another_does_nothing(running: RunningHub) -> None:
    drive_with_blocks(running)
    with psycopg.connect(running.conninfo) as connection:
        connection.execute("UPDATE block SET changed = now() - interval '2 hours'")

    async def run() -> tuple[int, int]:
        async with database_of(running) as first, database_of(running) as second:
            care = Housekeeping(second, PackTable(second), running.hub.blocks, frozenset, 3600.0)
            async with first.alone(LOCK) as is_ours:
                assert is_ours
                await care.round()
                during = care.done.rounds
            await care.round()
            return during, care.done.rounds

    assert running.call(run()) == (0, 1)


@pytest.mark.logs_warnings
def test_a_node_that_is_away_keeps_its_packs_and_nothing_else(running: RunningHub) -> None:
    """Packs that it has no part of are deleted all the same, and others are made whole."""
    drive, _ = drive_with_blocks(running)
    lacking, _ = drive_with_blocks(running)
    (away, *_), others = nodes_of(running, drive), nodes_of(running, lacking)
    lost = 1 if others[0] == away else 0
    with psycopg.connect(running.conninfo) as connection:
        connection.execute("UPDATE block SET state = 1 WHERE drive = %s", (lacking.number,))
        connection.execute("UPDATE pack SET missing = %s WHERE drive = %s", (1 << lost, lacking.number))
        connection.execute("UPDATE block SET changed = now() - interval '2 hours'")
    running.nodes[away].away = True
    assert one_round(running).done.repaired == 1
    assert drives_of_packs(running) == {drive.number, lacking.number}
    running.nodes[away].away = False
    one_round(running)
    assert drives_of_packs(running) == {lacking.number}


@pytest.mark.logs_warnings
def test_a_node_that_the_hub_has_no_more_ends_no_round(running: RunningHub) -> None:
    drive, _ = drive_with_blocks(running)
    with psycopg.connect(running.conninfo) as connection:
        connection.execute("UPDATE block SET changed = now() - interval '2 hours'")
        connection.execute("UPDATE pack SET nodes[1] = 'removed'")
    assert one_round(running).done.rounds == 1
    assert drives_of_packs(running) == {drive.number}


def nodes_of(running: RunningHub, drive: DriveNumber) -> list[str]:
    """The nodes that the drive's one pack lies on."""
    with psycopg.connect(running.conninfo) as connection:
        row = connection.execute("SELECT nodes FROM pack WHERE drive = %s", (drive.number,)).fetchone()
    assert row is not None
    return list(row[0])


def drives_of_packs(running: RunningHub) -> set[int]:
    with psycopg.connect(running.conninfo) as connection:
        return {row[0] for row in connection.execute("SELECT drive FROM pack").fetchall()}


def test_a_pack_that_is_added_while_its_deleted_drive_is_forgotten_ends_no_round(
    running: RunningHub,
) -> None:
    """It was refused by the database then, and that ended the process."""
    uuid, _ = running.new_drive()
    with psycopg.connect(running.conninfo) as adding, ThreadPoolExecutor(1) as pool:
        adding.execute(
            "INSERT INTO pack (id, drive, size, nodes) SELECT %s, id, 1, '{}' FROM drive WHERE uuid = %s",
            (os.urandom(16), uuid),
        )
        with psycopg.connect(running.conninfo) as connection:
            connection.execute("UPDATE drive SET deleted = now() WHERE uuid = %s", (uuid,))
        care = pool.submit(one_round, running)

        wait_until(lambda: care.done() or is_waiting_for_a_lock(running))
        adding.commit()
        assert care.result(60).done.rounds == 1
    one_round(running)
    with psycopg.connect(running.conninfo) as connection:
        assert not connection.execute("SELECT 1 FROM drive WHERE uuid = %s", (uuid,)).fetchall()

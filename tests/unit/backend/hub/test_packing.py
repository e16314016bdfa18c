"""Packs of a hub: what takes room on the nodes is what quotas count."""

from __future__ import annotations

import os
from collections.abc import Iterator

import anyio
import psycopg
import pytest

from backend.errors import NoSpaceError
from backend.hub.packing import DriveNumber
from backend.upstream import BlockId, SealedBlock
from tests.contents import KINDS, content
from tests.hub_care import check, drive_with_blocks
from tests.hub_server import RunningHub, hub_for_test

LARGE = 1 << 20


@pytest.fixture
def running() -> Iterator[RunningHub]:
    with hub_for_test() as found:
        yield found


def new_block(size: int) -> SealedBlock:
    return SealedBlock(BlockId(os.urandom(32)), os.urandom(size))


def put(running: RunningHub, drive: DriveNumber, *batches: list[SealedBlock]) -> None:
    """All of them at once; all fragments are stored then."""

    async def run() -> None:
        async with anyio.create_task_group() as group:
            for batch in batches:
                group.start_soon(running.hub.blocks.put, drive, batch)
        await running.hub.blocks.store(drive).wait_for_writes()

    running.call(run())


def bytes_on_nodes(running: RunningHub) -> int:
    return sum(len(data) for node in running.nodes.values() for data in node.objects.values())


def state_of(running: RunningHub, block: SealedBlock) -> int:
    with psycopg.connect(running.conninfo) as connection:
        row = connection.execute("SELECT state FROM block WHERE id = %s", (block.id,)).fetchone()
    assert row is not None
    return int(row[0])


@pytest.mark.parametrize("state", [0, 1, 2], ids=["stored", "named", "released"])
def test_a_block_that_is_there_takes_no_room_again_beside_a_new_one(running: RunningHub, state: int) -> None:
    """An account would fill the nodes by a byte of its quota for each pack: the new block keeps the pack."""
    drive, _ = drive_with_blocks(running)
    known = new_block(LARGE)
    put(running, drive, [known])
    with psycopg.connect(running.conninfo) as connection:
        connection.execute("UPDATE block SET state = %s", (state,))
        connection.execute("UPDATE block SET changed = now() - interval '29 days'")
    before = bytes_on_nodes(running)
    new = [new_block(1) for _ in range(3)]
    for each in new:
        put(running, drive, [known, each])
    assert bytes_on_nodes(running) < before + LARGE // 2
    assert state_of(running, known) == (1 if state == 1 else 0)
    running.call(running.hub.blocks.collect(grace=28 * 86_400))
    for each in (known, *new):
        part = running.call(running.hub.blocks.read(drive, each.id, 0, LARGE))
        assert bytes(part.data) == each.data


def test_a_block_that_is_on_its_way_is_waited_for(running: RunningHub) -> None:
    """Also when the pack that it is in takes no more."""
    drive, _ = drive_with_blocks(running)
    full = [new_block(LARGE) for _ in range(8)]
    before = bytes_on_nodes(running)
    put(running, drive, *[[*full, new_block(1)] for _ in range(4)])
    assert bytes_on_nodes(running) < before + 2 * 8 * LARGE
    for each in full:
        part = running.call(running.hub.blocks.read(drive, each.id, 0, LARGE))
        assert bytes(part.data) == each.data


def test_a_block_that_is_doubted_is_stored_anew(running: RunningHub) -> None:
    drive, blocks = drive_with_blocks(running)
    assert not running.call(running.hub.table.doubt(drive.number, blocks[0].id))
    put(running, drive, [blocks[0]])
    assert running.call(running.hub.table.present(drive.number, [blocks[0].id])) == {blocks[0].id}


def refuse(running: RunningHub, is_full: bool) -> None:
    """Two of the six nodes take no more, whatever room they say they have."""
    for name in ("node1", "node4"):
        running.nodes[name].quota = running.nodes[name].used if is_full else 1 << 40


@pytest.mark.logs_warnings
def test_a_pack_that_finds_no_room_leaves_nothing_however_often_it_is_tried(running: RunningHub) -> None:
    drive, known = drive_with_blocks(running)
    before = bytes_on_nodes(running)
    blocks = [SealedBlock(BlockId(os.urandom(32)), content(kind, LARGE, 1)) for kind in KINDS]
    refuse(running, is_full=True)
    for _ in range(3):
        with pytest.raises(NoSpaceError):
            running.call(running.hub.blocks.put(drive, blocks))
        assert bytes_on_nodes(running) == before
    refuse(running, is_full=False)
    put(running, drive, blocks)
    for each in (*known, *blocks):
        part = running.call(running.hub.blocks.read(drive, each.id, 0, LARGE))
        assert bytes(part.data) == each.data
    assert check(running, data=True) == []


@pytest.mark.logs_warnings
def test_a_node_that_ends_before_its_fragment_is_deleted_keeps_a_stray(running: RunningHub) -> None:
    drive, _ = drive_with_blocks(running)
    node, count = running.nodes["node2"], {each.name: len(each.objects) for each in running.nodes.values()}

    async def end(operation: str, _key: str) -> None:
        node.away = operation == "delete"

    node.before = end
    refuse(running, is_full=True)
    with pytest.raises(NoSpaceError):
        running.call(running.hub.blocks.put(drive, [new_block(LARGE)]))
    count["node2"] += 1
    assert {each.name: len(each.objects) for each in running.nodes.values()} == count
    assert check(running)[0].startswith("note: 1 packs on the nodes are not in the database")

"""The check of a hub: each fault is found and told once, what can be is mended, and nothing else changes."""

from __future__ import annotations

import os
from collections.abc import Iterator

import psycopg
import pytest

from backend.packs import fragment_key
from tests.hub_care import check, drive_with_blocks
from tests.hub_server import RunningHub, hub_for_test


@pytest.fixture
def running() -> Iterator[RunningHub]:
    with hub_for_test() as found:
        yield found


def fragments(running: RunningHub) -> list[tuple[str, str]]:
    """Node and key of each."""
    return [(name, key) for name, node in running.nodes.items() for key in node.objects]


def test_a_hub_that_is_whole_is_clean_with_and_without_reading(running: RunningHub) -> None:
    assert check(running) == []
    drive_with_blocks(running)
    assert check(running) == check(running, data=True) == check(running, mend=True) == []


@pytest.mark.logs_warnings
def test_fragments_that_are_gone_are_found_and_rebuilt(running: RunningHub) -> None:
    drive, blocks = drive_with_blocks(running)
    lost = fragments(running)[:2]
    kept = {place: running.nodes[place[0]].objects.pop(place[1]) for place in lost}
    for _ in range(2):
        (finding,) = check(running)
        assert finding.startswith("left: pack ")
        assert all(name in finding for name, _ in lost)
    (finding,) = check(running, mend=True)
    assert finding.startswith("mended: pack ")
    assert {place: running.nodes[place[0]].objects[place[1]] for place in lost} == kept
    assert check(running, data=True) == []
    part = running.call(running.hub.blocks.read(drive, blocks[0].id, 0, 1 << 20))
    assert bytes(part.data) == blocks[0].data


@pytest.mark.logs_warnings
def test_damage_is_seen_by_whoever_reads_and_mended(running: RunningHub) -> None:
    drive_with_blocks(running)
    name, key = fragments(running)[3]
    good = running.nodes[name].objects[key]
    running.nodes[name].objects[key] = bytes([good[0] ^ 1]) + good[1:]
    assert check(running) == []
    assert check(running, data=True)[0].startswith("left: pack ")
    assert check(running, data=True, mend=True)[0].startswith("mended: pack ")
    assert running.nodes[name].objects[key] == good


@pytest.mark.logs_warnings
def test_too_few_fragments_are_a_loss_but_not_while_a_node_is_away(running: RunningHub) -> None:
    drive_with_blocks(running)
    gone = fragments(running)[:3]
    for name, key in gone:
        del running.nodes[name].objects[key]
    assert check(running, mend=True)[0].startswith("lost: pack ")
    away = next(node for name, node in running.nodes.items() if name not in dict(gone))
    away.away = True
    found = check(running, mend=True)
    assert len(found) == 2
    assert all(each.startswith("left: ") for each in found)


def test_packs_that_nobody_knows_are_told_and_kept(running: RunningHub) -> None:
    drive_with_blocks(running)
    node = running.nodes["node0"]
    key = fragment_key(os.urandom(16), 0)
    node.objects[key] = b"x"
    (finding,) = check(running, mend=True)
    assert finding.startswith("note: 1 packs on the nodes are not in the database")
    assert key in node.objects


def test_a_second_copy_of_a_fragment_goes_once_the_right_one_is_seen(running: RunningHub) -> None:
    drive_with_blocks(running)
    name, key = fragments(running)[0]
    other = next(each for each in running.nodes if each != name)
    running.nodes[other].objects[key] = running.nodes[name].objects[key]
    assert check(running)[0].startswith(f"left: {other} has fragment ")
    assert check(running, mend=True)[0].startswith(f"mended: {other} has fragment ")
    assert key in running.nodes[name].objects
    assert key not in running.nodes[other].objects


def test_rows_that_are_not_as_the_pack_says_are_told(running: RunningHub) -> None:
    _, blocks = drive_with_blocks(running)
    with psycopg.connect(running.conninfo) as connection:
        connection.execute("UPDATE place SET position = position + 1 WHERE id = %s", (blocks[0].id,))
    assert check(running) == []
    (finding,) = check(running, data=True)
    assert finding.startswith(f"lost: block {blocks[0].id.hex()[:16]} is not where the database says")


def test_blocks_that_commits_name_and_nobody_has_are_a_loss(running: RunningHub) -> None:
    drive, blocks = drive_with_blocks(running)
    with psycopg.connect(running.conninfo) as connection:
        connection.execute("UPDATE block SET state = 1")
        connection.execute("DELETE FROM place WHERE id = %s", (blocks[0].id,))
    running.call(running.hub.table.doubt(drive.number, blocks[1].id))
    found = check(running)
    assert found[0].endswith("1 blocks that commits name are nowhere")
    assert found[0].startswith(f"lost: drive {drive.uuid.hex()}")
    assert found[1].startswith(f"left: drive {drive.uuid.hex()}: 1 blocks")

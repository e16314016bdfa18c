"""A database that was restored gets back what the nodes know, however often it is tried, and nothing else."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest

from backend.commits import encode_commit
from backend.errors import UsageError
from backend.findings import Findings
from backend.hub import AfterRestore
from backend.hub.after_restore import BROUGHT
from backend.hub.housekeeping import LOCK
from backend.hub.log_segments import commits_after
from backend.hub.packing import DriveNumber
from backend.packs import fragment_key
from backend.system import THIS_MACHINE, Environment, plain_hash
from backend.upstream import BlockId, Commit, SealedBlock
from tests.contents import KINDS, content
from tests.hub_care import check, database_of, drive_of, drive_with_blocks
from tests.hub_server import RunningHub, hub, hub_for_test
from tests.postgres import dump, restored
from tests.unit.backend.hub.test_compaction import compact, forget, packs, put, sealed
from tests.unit.backend.hub.test_log_segments import DUE, Log


@pytest.fixture
def running() -> Iterator[RunningHub]:
    with hub_for_test() as found:
        yield found


@contextmanager
def put_back(running: RunningHub, path: Path) -> Iterator[RunningHub]:
    """The same nodes, with a database made of that dump."""
    with hub(restored(path), nodes=running.nodes) as found:
        yield found


def bring_back(running: RunningHub, environment: Environment = THIS_MACHINE) -> tuple[bool, list[str]]:
    """Whether it is all, and the findings."""

    async def run() -> tuple[bool, list[str]]:
        findings = Findings()
        async with database_of(running) as database:
            restore = AfterRestore(database, running.hub.blocks, running.nodes, findings, environment)
            is_all = await restore.run()
        return is_all, [str(each) for each in findings.all]

    return running.call(run())


def new_blocks(running: RunningHub, drive: DriveNumber, *sizes: int) -> list[SealedBlock]:
    """Blocks that are stored, each in a pack of its own."""
    blocks = [SealedBlock(BlockId(os.urandom(32)), os.urandom(size)) for size in sizes]

    async def put() -> None:
        for block in blocks:
            await running.hub.blocks.put(drive, [block])
        await running.hub.blocks.store(drive).wait_for_writes()

    running.call(put())
    return blocks


def read(running: RunningHub, drive: DriveNumber, block: SealedBlock) -> bytes:
    return bytes(running.call(running.hub.blocks.read(drive, block.id, 0, 1 << 22)).data)


def test_blocks_that_only_the_nodes_know_are_read_again(running: RunningHub, tmp_path: Path) -> None:
    drive, old = drive_with_blocks(running)
    path = dump(running.conninfo, tmp_path / "dump")
    new = new_blocks(running, drive, 1, 5000, 300_000)
    taken = running.call(running.hub.quotas.of_drive(drive.number)).used
    with put_back(running, path) as again:
        before = {name: dict(node.objects) for name, node in running.nodes.items()}
        is_all, (finding,) = bring_back(again)
        assert is_all
        assert finding.startswith(f"mended: drive {drive.uuid.hex()}: 3 blocks are in the database again")
        assert [read(again, drive, each) for each in (*old, *new)] == [each.data for each in (*old, *new)]
        assert again.call(again.hub.quotas.of_drive(drive.number)).used == taken
        assert bring_back(again) == (True, [])
        assert check(again, data=True) == []
        assert {name: dict(node.objects) for name, node in running.nodes.items()} == before


@pytest.mark.logs_warnings
def test_a_run_that_was_cut_off_is_run_again(running: RunningHub, tmp_path: Path) -> None:
    drive, _ = drive_with_blocks(running)
    path = dump(running.conninfo, tmp_path / "dump")
    new = new_blocks(running, drive, 5000, 5000, 5000)

    with put_back(running, path) as again:
        for left in (2, 1, 0):
            environment = Environment()
            environment.failpoints.arm(BROUGHT, "eio")
            with pytest.raises(OSError, match=BROUGHT):
                bring_back(again, environment)
            assert len([each for each in new if not _is_there(again, drive, each)]) == left
        assert bring_back(again) == (True, [])
        assert check(again, data=True) == []


def _is_there(running: RunningHub, drive: DriveNumber, block: SealedBlock) -> bool:
    return running.call(running.hub.table.find(drive.number, block.id)) is not None


def test_commits_of_log_segments_are_in_the_log_again(running: RunningHub, tmp_path: Path) -> None:
    log = Log(running, 10)
    path = dump(running.conninfo, tmp_path / "dump")
    for at in range(2 * DUE):
        log.append(b"%d" % at)
        if at % DUE == DUE - 1:
            assert log.move() > 0
    moved = len(log.commits) - len(log.in_database())
    with put_back(running, path) as again:
        is_all, (finding,) = bring_back(again)
        assert is_all
        assert finding.endswith(f"commits 11 to {moved} are in the log again")
        log.running = again
        assert log.in_database() == []
        assert bring_back(again) == (True, [])
        assert check(again, data=True) == []
        head = again.call(again.hub.commits.head(log.drive.number))
        assert head.hash == plain_hash(log.commits[moved - 1])
        for encoded in log.commits[moved:]:
            head = again.call(again.hub.commits.append(log.drive.number, encoded, head))
        assert all_commits(again, log) == log.commits


def test_a_drive_that_was_being_moved_at_the_backup_holds_up_no_other(
    running: RunningHub, tmp_path: Path
) -> None:
    """Its move ended after the backup, and devices went on there. Or a device named a block like a commit."""
    logs = [Log(running, 1), Log(running, 1)]
    change = "UPDATE drive SET importing = %s, ticket = 'sixteen bytes ok' WHERE id = %s"
    with psycopg.connect(running.conninfo, autocommit=True) as connection:
        connection.execute(change, (True, logs[0].drive.number))
        path = dump(running.conninfo, tmp_path / "dump")
        connection.execute(change, (False, logs[0].drive.number))
    for log in logs:
        for at in range(DUE):
            log.append(b"%d" % at)
        assert log.move() > 0
    with put_back(running, path) as again:
        for _ in range(2):
            is_all, findings = bring_back(again)
            assert is_all
            assert f"left: drive {logs[0].drive.uuid.hex()}: is or was being moved" in "".join(findings)
        assert again.call(again.hub.commits.head(logs[1].drive.number)).number > 1


def all_commits(running: RunningHub, log: Log) -> list[bytes]:
    """The whole log, as that hub reads it."""
    hub_ = running.hub
    found: list[bytes] = []
    while page := running.call(
        commits_after(hub_.commits, hub_.blocks, log.drive, len(found), 256, 16 << 20)
    ):
        found += page
    return found


def test_a_block_with_the_name_of_its_hash_is_no_commit(running: RunningHub, tmp_path: Path) -> None:
    """A device may name a block of its drive as it likes."""
    drive, _ = drive_with_blocks(running)
    path = dump(running.conninfo, tmp_path / "dump")
    data = os.urandom(500)
    block = SealedBlock(BlockId(plain_hash(data)), data)

    async def put() -> None:
        await running.hub.blocks.put(drive, [block])
        await running.hub.blocks.store(drive).wait_for_writes()

    running.call(put())
    with put_back(running, path) as again:
        assert bring_back(again)[1][0].startswith("mended: ")
        assert read(again, drive, block) == data


def test_a_device_cannot_have_a_commit_put_into_the_log_by_a_restore(
    running: RunningHub, tmp_path: Path
) -> None:
    """One that was revoked since left blocks that look like segments, one for each end that the log may have:
    all who have seen the commits that the hub lost would refuse it for ever."""
    log = Log(running, 3)
    path = dump(running.conninfo, tmp_path / "dump")
    previous = plain_hash(log.commits[-1])
    forged = [encode_commit(Commit(4, previous, 1, 0, 4, (), (), content(kind, 9000, 1))) for kind in KINDS]
    honest = SealedBlock(BlockId(os.urandom(32)), forged[0])

    async def put(block: SealedBlock) -> None:
        await running.hub.blocks.put(log.drive, [block])
        await running.hub.blocks.store(log.drive).wait_for_writes()

    for each in forged:
        with pytest.raises(ValueError, match="which only the hub makes"):
            running.call(put(SealedBlock(BlockId(plain_hash(each)), each)))
    running.call(put(honest))
    with put_back(running, path) as again:
        bring_back(again)
        assert again.call(again.hub.commits.head(log.drive.number)).number == 3
        assert read(again, log.drive, honest) == honest.data


def test_what_the_lost_log_had_revived_is_kept(running: RunningHub, tmp_path: Path) -> None:
    """The backup has it released long ago; a device hands over the commit that names it tomorrow."""
    drive, blocks = drive_with_blocks(running)
    with psycopg.connect(running.conninfo) as connection:
        connection.execute("UPDATE block SET state = 2, changed = now() - interval '40 days'")
    with put_back(running, dump(running.conninfo, tmp_path / "dump")) as again:
        bring_back(again)
        assert again.call(again.hub.blocks.collect()) == 0
        assert read(again, drive, blocks[0]) == blocks[0].data


def test_a_block_whose_pack_is_gone_is_missing_until_it_is_given_anew(
    running: RunningHub, tmp_path: Path
) -> None:
    """The pack was deleted after the backup."""
    drive, blocks = drive_with_blocks(running)
    with psycopg.connect(running.conninfo) as connection:
        connection.execute("UPDATE block SET state = 1 WHERE id = %s", (blocks[0].id,))
    path = dump(running.conninfo, tmp_path / "dump")
    for node in running.nodes.values():
        node.objects.clear()
    with put_back(running, path) as again:
        assert bring_back(again)[1] == [
            "note: 1 packs of the database cannot be read from the nodes any more: their blocks are missing"
        ]
        ids = [each.id for each in blocks]
        assert again.call(again.hub.table.present(drive.number, ids)) == set()
        again.call(again.hub.blocks.put(drive, blocks))
        assert again.call(again.hub.table.present(drive.number, ids)) == {*ids}
        assert [read(again, drive, each) for each in blocks] == [each.data for each in blocks]


def rewritten_since(
    running: RunningHub, path: Path, *, left: int
) -> tuple[DriveNumber, list[SealedBlock], list[str]]:
    """A drive whose pack was rewritten after the dump, and then deleted but for `left` fragments, as by a
    process that ended there; the blocks that are needed, and the nodes that had the pack, those with what is
    left of it last."""
    drive, blocks = drive_of(running), sealed(10)
    put(running, drive, blocks)
    dump(running.conninfo, path)
    (old,) = packs(running)
    forget(running, blocks[:7])
    assert compact(running)[0].packs == 1
    with psycopg.connect(running.conninfo) as connection:
        row = connection.execute("SELECT nodes FROM pack WHERE id = %s", (old,)).fetchone()
    assert row is not None
    for index, name in enumerate(row[0][: 6 - left]):
        del running.nodes[name].objects[fragment_key(old, index)]
    return drive, blocks[7:], row[0]


@pytest.mark.parametrize("left", [0, 1, 3])
def test_what_was_rewritten_is_read_from_the_new_pack_where_too_little_of_the_old_one_is_left(
    running: RunningHub, tmp_path: Path, left: int
) -> None:
    path = tmp_path / "dump"
    drive, needed, _ = rewritten_since(running, path, left=left)
    with put_back(running, path) as again:
        assert bring_back(again)[0]
        assert [read(again, drive, each) for each in needed] == [each.data for each in needed]


def test_what_was_rewritten_is_read_from_the_new_pack_when_a_node_is_away(
    running: RunningHub, tmp_path: Path
) -> None:
    path = tmp_path / "dump"
    drive, needed, nodes = rewritten_since(running, path, left=1)
    with put_back(running, path) as again:
        running.nodes[nodes[0]].away = True
        assert bring_back(again)[0]
        assert [read(again, drive, each) for each in needed] == [each.data for each in needed]


def test_whether_a_pack_can_be_read_is_known_before_others_are_taken_for_it(
    running: RunningHub, tmp_path: Path
) -> None:
    """The node that is away may have the fragment that decides."""
    path = tmp_path / "dump"
    drive, needed, nodes = rewritten_since(running, path, left=3)
    with put_back(running, path) as again:
        running.nodes[nodes[0]].away = True
        assert not bring_back(again)[0]
        running.nodes[nodes[0]].away = False
        assert bring_back(again)[0]
        assert [read(again, drive, each) for each in needed] == [each.data for each in needed]


def test_a_pack_that_was_entered_after_the_backup_is_no_stray_of_old(
    running: RunningHub, tmp_path: Path
) -> None:
    """The backup was made while the pack was on its way. It is brought back with the nodes that are away."""
    drive, _ = drive_with_blocks(running)
    before = packs(running)
    (block,) = new_blocks(running, drive, 5000)
    (late,) = packs(running) - before
    with psycopg.connect(running.conninfo) as connection:
        connection.execute("DELETE FROM block WHERE id = %s", (block.id,))
        connection.execute("DELETE FROM pack WHERE id = %s", (late,))
        connection.execute("INSERT INTO stray_pack VALUES (%s, now() - interval '2 hours')", (late,))
    with put_back(running, dump(running.conninfo, tmp_path / "dump")) as again:
        nodes = [running.nodes[name] for name in ("node0", "node1", "node2")]
        for node in nodes:
            node.away = True
        assert not bring_back(again)[0]
        for node in nodes:
            node.away = False
        check(again, mend=True)
        assert bring_back(again)[0]
        assert read(again, drive, block) == block.data


def test_drives_that_are_newer_than_the_backup_are_named(running: RunningHub, tmp_path: Path) -> None:
    path = dump(running.conninfo, tmp_path / "dump")
    drive, _ = drive_with_blocks(running)
    with put_back(running, path) as again:
        for _ in range(2):
            is_all, (finding,) = bring_back(again)
            assert is_all
            assert finding.startswith(f"left: drive {drive.uuid.hex()} is not in the database: 1 packs of it")


@pytest.mark.logs_warnings
def test_while_nodes_are_away_that_may_have_more_it_is_not_done(running: RunningHub, tmp_path: Path) -> None:
    drive, _ = drive_with_blocks(running)
    path = dump(running.conninfo, tmp_path / "dump")
    (block,) = new_blocks(running, drive, 5000)
    with put_back(running, path) as again:
        away = [running.nodes[name] for name in ("node0", "node1", "node2")]
        for node in away:
            node.away = True
        assert bring_back(again)[0] is False
        away[0].away = False
        is_all, findings = bring_back(again)
        assert (is_all, findings[-1][:7]) == (True, "mended:")
        assert read(again, drive, block) == block.data
        for node in away:
            node.away = False
        bring_back(again)
        assert check(again, mend=True, data=True)[0].startswith("mended: pack ")
        assert check(again, data=True) == []


def test_what_is_no_pack_is_left_alone(running: RunningHub) -> None:
    drive_with_blocks(running)
    running.nodes["node0"].objects[fragment_key(os.urandom(16), 0)] = b"x"
    running.nodes["node1"].objects[fragment_key(os.urandom(16), 1)] = os.urandom(500)
    assert bring_back(running) == (True, [])


def test_not_beside_a_process_that_looks_after_the_packs(running: RunningHub) -> None:
    with psycopg.connect(running.conninfo) as connection:
        connection.execute("SELECT pg_advisory_xact_lock(%s)", (LOCK,))
        with pytest.raises(UsageError, match="end all of them first"):
            bring_back(running)

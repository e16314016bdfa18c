"""Opening: every meeting of a cache directory and a commit log."""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from stat import S_IFDIR

import pytest
import trio

from backend.errors import FormatError, LeaseHeldError, RollbackError, TransientError
from backend.system import THIS_MACHINE, at_rest
from cache.client import client_of
from cache.errors import InputOutputError
from cache.journal.format import RecordType, encode_times
from cache.journal.journal import Journal
from cache.journal.scan import PendingCommit
from cache.local.device_file import FILE
from cache.local.local_state import JOURNAL, NAMESPACE_FILE, LocalState
from cache.namespace.operations import ROOT_INODE
from cache.publish.snapshot import export
from cache.recovery import StaleCacheError
from tests.contents import KINDS, content
from tests.drives import DRIVE_ID, KEYS, content_of, make_file, opened, tree
from tests.memory_upstream import MemoryUpstream


@pytest.fixture
def upstream() -> MemoryUpstream:
    return MemoryUpstream()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "cache"


def lose_database(folder: Path) -> None:
    for path in folder.glob("namespace.db*"):
        path.unlink()


async def test_a_killed_process_loses_nothing(folder: Path, upstream: MemoryUpstream) -> None:
    async with opened(folder, upstream, crash=True) as drive:
        await make_file(drive, b"one", b"1")
        await drive.publisher.publish(everything=False)
        await make_file(drive, b"two", b"2")
        drive.ledger.save()
        await make_file(drive, b"three", b"3")
    upstream.lose_unflushed()
    async with opened(folder, upstream) as drive:
        assert [await content_of(drive, name) for name in (b"one", b"two", b"three")] == [b"1", b"2", b"3"]
        await drive.sync()
    assert len(upstream.commits) == 3


@pytest.mark.logs_warnings
async def test_a_change_that_could_not_be_applied_is_applied_at_the_next_open(
    folder: Path, upstream: MemoryUpstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Journal and namespace differ: nothing is written down or accepted any more."""
    async with opened(folder, upstream, crash=True) as drive:
        await make_file(drive, b"before")

        def fail(*_: object) -> None:
            raise MemoryError

        with monkeypatch.context() as patch:
            patch.setattr(drive.ledger.namespace, "apply", fail)
            with pytest.raises(MemoryError):
                await make_file(drive, b"journaled")
        with pytest.raises(InputOutputError, match="mount again"):
            drive.ledger.save()
        with pytest.raises(InputOutputError):
            await make_file(drive, b"refused")
    async with opened(folder, upstream) as drive:
        assert {entry.name for entry in drive.entries(ROOT_INODE, 0, 10)} == {b"before", b"journaled"}


@pytest.mark.logs_warnings
@pytest.mark.parametrize("forget", [lambda folder: None, lose_database])
async def test_a_commit_that_was_appended_and_not_noted_is_known_again(
    folder: Path, upstream: MemoryUpstream, forget: Callable[[Path], None]
) -> None:
    async with opened(folder, upstream, crash=True) as drive:
        await make_file(drive, b"one", b"1")
        upstream.fail_after_append = True
        with pytest.raises(TransientError):
            await drive.sync()
        await make_file(drive, b"two", b"2")
    forget(folder)
    async with opened(folder, upstream) as drive:
        assert drive.ledger.head == await upstream.head()
        assert await content_of(drive, b"one") == b"1"
        await drive.sync()
        assert await content_of(drive, b"two") == b"2"
    assert len(upstream.commits) == 3


@pytest.mark.logs_warnings
async def test_another_machine_went_on_from_our_unnoted_commit(
    folder: Path, tmp_path: Path, upstream: MemoryUpstream
) -> None:
    """Regression: nothing is unpublished here, so it is no stale cache."""
    async with opened(folder, upstream, crash=True) as drive:
        await make_file(drive, b"one", b"1")
        upstream.fail_after_append = True
        with pytest.raises(TransientError):
            await drive.sync()
    async with opened(tmp_path / "other", upstream) as drive:
        await make_file(drive, b"theirs", b"2")
        await drive.sync()
    async with opened(folder, upstream) as drive:
        assert await content_of(drive, b"one") == b"1"
        assert await content_of(drive, b"theirs") == b"2"


async def test_an_empty_cache_is_filled_from_commits(folder: Path, upstream: MemoryUpstream) -> None:
    async with opened(folder, upstream) as drive:
        for number in range(5):
            await make_file(drive, b"%d" % number, b"x" * number)
            await drive.sync()
        before = await tree(drive)
    shutil.rmtree(folder)
    async with opened(folder, upstream) as drive:
        assert await tree(drive) == before


@pytest.mark.parametrize("damage", ["none", "root", "no root", "block", "lost block"])
@pytest.mark.logs_warnings
async def test_an_empty_cache_and_a_snapshot(folder: Path, upstream: MemoryUpstream, damage: str) -> None:
    async with opened(folder, upstream) as drive:
        await make_file(drive, b"before", b"1")
        await drive.sync()
        known = set(upstream.stored)
        await drive.snapshots.make()
        (block, *_) = set(upstream.stored) - known
        await make_file(drive, b"after", b"2")
        await drive.sync()
        before = await tree(drive)
    shutil.rmtree(folder)
    if damage == "root":
        upstream.kept_roots["snapshot"] = upstream.kept_roots["snapshot"][:-1] + b"?"
    elif damage == "no root":
        upstream.kept_roots.clear()
    elif damage == "block":
        upstream.stored[block] = bytes(len(upstream.stored[block]))
    elif damage == "lost block":
        del upstream.stored[block]
    async with opened(folder, upstream) as drive:
        assert await tree(drive) == before
        await make_file(drive, b"on and on", b"3")
        await drive.sync()
    assert not (folder / "snapshot.db").exists()


@pytest.mark.logs_warnings
async def test_a_snapshot_of_another_commit_than_its_root_says_is_never_believed(
    folder: Path, tmp_path: Path, upstream: MemoryUpstream
) -> None:
    """Regression: it lay in the namespace's place when it was refused, and the next open went on from it."""
    forged = tmp_path / "forged.db"
    async with opened(folder, upstream) as drive:
        for name in (b"one", b"two"):
            await make_file(drive, name, name)
            await drive.sync()
        before, head = await tree(drive), drive.ledger.head
        drive.ledger.save()
        export(drive.ledger.namespace.path, str(forged), 1)
        with closing(sqlite3.connect(forged)) as database, database:
            database.execute("UPDATE dentry SET name = x'6f6f'")
        client = client_of(upstream, DRIVE_ID, KEYS, 0, trio.CapacityLimiter(1))
        client.ring.learn_all(drive.ledger.namespace.epochs.until(head.number))
        await client.snapshots.put(forged, head)
    shutil.rmtree(folder)
    for _ in range(2):
        async with opened(folder, upstream) as drive:
            assert await tree(drive) == before
        assert not [*folder.glob("snapshot*")]


async def test_a_snapshot_that_a_kill_ended_does_not_cost_the_next(
    folder: Path, upstream: MemoryUpstream
) -> None:
    async with opened(folder, upstream) as drive:
        await make_file(drive, b"one", b"1")
        await drive.sync()
        for name in ("snapshot-new.db", "snapshot-new.db-journal"):
            (folder / name).write_bytes(b"half")
        await drive.snapshots.make()
    assert "snapshot" in upstream.kept_roots
    assert not [*folder.glob("snapshot-new*")]


@pytest.mark.parametrize("mode", ["WAL", "DELETE"])
async def test_an_interrupted_restoring_leaves_nothing_that_the_next_one_takes_for_its_own(
    folder: Path, upstream: MemoryUpstream, mode: str
) -> None:
    """Regression: a power cut left a log of SQLite beside the snapshot, and no mount began any more."""
    async with opened(folder, upstream) as drive:
        await make_file(drive, b"one", b"1")
        await drive.sync()
        await drive.snapshots.make()
        before = await tree(drive)
        left = Path(drive.ledger.namespace.path).with_name("left.db")
        drive.ledger.save()
        export(drive.ledger.namespace.path, str(left), 1)
    with closing(sqlite3.connect(left, isolation_level=None)) as database:
        database.execute(f"PRAGMA journal_mode = {mode}")
        database.execute("PRAGMA cache_size = 1")
        database.execute("BEGIN")
        database.execute("UPDATE dentry SET name = x'6f6f'")
        database.execute("CREATE TABLE much AS SELECT randomblob(1 << 20)")
        if mode == "WAL":
            database.execute("COMMIT")
        files = {path.name.removeprefix("left.db"): path.read_bytes() for path in folder.glob("left.db*")}
    shutil.rmtree(folder)
    folder.mkdir()
    assert len(files) > 1
    for suffix, data in files.items():
        (folder / f"snapshot.db{suffix}").write_bytes(data)
    async with opened(folder, upstream) as drive:
        assert await tree(drive) == before
    assert not [*folder.glob("snapshot*")]


@pytest.mark.parametrize("forget", [lambda folder: None, lose_database])
async def test_a_stale_cache_is_refused_and_nothing_of_it_is_lost(
    folder: Path, tmp_path: Path, upstream: MemoryUpstream, forget: Callable[[Path], None]
) -> None:
    async with opened(folder, upstream, crash=True) as drive:
        await make_file(drive, b"base", b"0")
        await drive.sync()
        await make_file(drive, b"mine", b"unpublished")
    forget(folder)
    shutil.copytree(folder, tmp_path / "copy")
    async with opened(tmp_path / "other", upstream) as drive:
        await make_file(drive, b"theirs", b"2")
        await drive.sync()
    for _ in range(2):
        with pytest.raises(StaleCacheError):
            async with opened(folder, upstream):
                raise AssertionError
    unpublished = MemoryUpstream()
    unpublished.commits, unpublished.stored = upstream.commits[:2], upstream.stored
    async with opened(tmp_path / "copy", unpublished) as drive:
        assert await content_of(drive, b"mine") == b"unpublished"


async def test_stale_state_is_moved_out_of_the_way(folder: Path, upstream: MemoryUpstream) -> None:
    """Twice within a second: neither is merged with the other, and what is new is locked all the time."""
    for data in (b"first", b"second"):
        async with opened(folder, upstream) as drive:
            await make_file(drive, b"mine", data)
        local = LocalState(folder)
        kept = local.set_aside()
        with pytest.raises(LeaseHeldError):
            LocalState(folder)
        local.close()
        assert data in b"".join(path.read_bytes() for path in (kept / "journal").iterdir())
    assert len(list((folder / "stale").iterdir())) == 2
    assert {path.name for path in folder.iterdir()} == {FILE, "lock", "stale"}
    async with opened(folder, upstream) as drive:
        assert drive.entries(ROOT_INODE, 0, 10) == []


async def test_a_log_that_forgets_is_refused(folder: Path, upstream: MemoryUpstream) -> None:
    async with opened(folder, upstream) as drive:
        for name in (b"one", b"two"):
            await make_file(drive, name, name)
            await drive.sync()
    whole, upstream.commits = upstream.commits, upstream.commits[:2]
    with pytest.raises(RollbackError):
        async with opened(folder, upstream):
            raise AssertionError
    upstream.commits = whole
    async with opened(folder, upstream) as drive:
        assert await content_of(drive, b"two") == b"two"


async def test_a_log_of_another_history_is_refused(
    folder: Path, tmp_path: Path, upstream: MemoryUpstream
) -> None:
    other = MemoryUpstream()
    async with opened(folder, upstream) as drive:
        await make_file(drive, b"one", b"1")
        await drive.sync()
    async with opened(tmp_path / "other", other) as drive:
        for number in range(3):
            await make_file(drive, b"%d" % number, b"x")
            await drive.sync()
    for commits in (other.commits[:1], other.commits):
        upstream.commits = commits
        with pytest.raises(RollbackError):
            async with opened(folder, upstream):
                raise AssertionError


async def test_a_lost_database_comes_back_from_log_and_journal(
    folder: Path, upstream: MemoryUpstream
) -> None:
    async with opened(folder, upstream, crash=True) as drive:
        await make_file(drive, b"one", b"1")
        await drive.sync()
        await make_file(drive, b"two", b"2")
        await drive.unlink(ROOT_INODE, b"one")
        before = await tree(drive)
    lose_database(folder)
    async with opened(folder, upstream) as drive:
        assert await tree(drive) == before
        await drive.sync()
    shutil.rmtree(folder)
    async with opened(folder, upstream) as drive:
        assert {path: item[1:] for path, item in (await tree(drive)).items()} == {
            path: item[1:] for path, item in before.items()
        }


async def test_a_journal_that_vanished_takes_back_what_was_not_published(
    folder: Path, upstream: MemoryUpstream, logged_warnings: list[str], request: pytest.FixtureRequest
) -> None:
    """Regression: the database kept changes that no commit would ever say."""
    request.node.add_marker(pytest.mark.logs_warnings)
    async with opened(folder, upstream) as drive:
        await make_file(drive, b"one", b"1")
        await drive.sync()
        await make_file(drive, b"two", b"2")
    shutil.rmtree(folder / "journal")
    async with opened(folder, upstream) as drive:
        assert [entry.name for entry in drive.entries(ROOT_INODE, 0, 9)] == [b"one"]
        await make_file(drive, b"three", b"3")
        await drive.sync()
        before = await tree(drive)
    assert len(logged_warnings) == 1
    shutil.rmtree(folder)
    async with opened(folder, upstream) as drive:
        assert await tree(drive) == before


async def test_orphans_are_deleted_at_the_next_open(folder: Path, upstream: MemoryUpstream) -> None:
    async with opened(folder, upstream, crash=True) as drive:
        made = await make_file(drive, b"file", b"content")
        drive.hold(made.inode)
        await drive.unlink(ROOT_INODE, b"file")
        assert drive.ledger.namespace.orphans() == [made.inode]
    async with opened(folder, upstream) as drive:
        assert drive.ledger.namespace.orphans() == []
        assert len(drive.ledger.dirty) == 0
        await drive.sync()


async def test_one_process_at_a_time(folder: Path, upstream: MemoryUpstream) -> None:
    async with opened(folder, upstream):
        with pytest.raises(LeaseHeldError):
            LocalState(folder)
    LocalState(folder).close()


@pytest.mark.parametrize("killed", [True, False])
async def test_what_is_accepted_after_catching_up_with_another_machine(
    folder: Path, upstream: MemoryUpstream, killed: bool
) -> None:
    """Regression: the journal took it for a part of the commit that was open before, which is published."""
    async with opened(folder, upstream) as drive:
        await make_file(drive, b"ours")
        await drive.sync()
    async with opened(folder.with_name("another machine's"), upstream) as drive:
        for number in range(2):
            await make_file(drive, b"theirs %d" % number)
            await drive.sync()
    async with opened(folder, upstream, crash=killed) as drive:
        made = await drive.make_node(ROOT_INODE, b"folder", S_IFDIR | 0o755, 0, 0, 0)
        await drive.fsync(made.inode)
    async with opened(folder, upstream) as drive:
        await make_file(drive, b"in it", b"content", drive.lookup(ROOT_INODE, b"folder").inode)
        await drive.sync()
        before = await tree(drive)
    async with opened(folder.with_name("a third machine's"), upstream) as drive:
        assert await tree(drive) == before


def test_the_end_of_a_published_commit_is_recognised(folder: Path) -> None:
    """The segments that its first operations were in may have been dropped."""
    ours = PendingCommit(1, 0, 0, [b"second", b"third"], [])
    local = left_with(folder, open_commit=2)
    assert local.recovery.may_be(ours, [b"first", b"second", b"third"])
    assert local.recovery.may_be(ours, [b"second", b"third"])
    assert not local.recovery.may_be(ours, [b"second", b"third", b"fourth"])
    assert not local.recovery.may_be(ours, [b"third"])
    local.close()
    local = left_with(folder.with_name("not cut"), open_commit=1)
    assert not local.recovery.may_be(ours, [b"first", b"second", b"third"]), "it was not cut here"
    local.close()


def left_with(folder: Path, open_commit: int) -> LocalState:
    """A state whose journal says that this commit is open, and nothing else that matters."""
    journal = Journal(folder / JOURNAL)
    assert list(journal.replay()) == []
    journal.start(open_commit)
    journal.append(RecordType.TIMES, (encode_times(7, 1, 1),), open_commit)
    journal.close()
    return LocalState(folder)


async def test_a_file_that_was_closed_before_is_published_with_its_content(tmp_path: Path) -> None:
    """Not first as an empty one: nobody knows after a restart which files were closed, and none is open."""
    upstream = MemoryUpstream()
    contents = {kind: content(kind, 5000) for kind in KINDS}
    async with opened(tmp_path / "state", upstream, crash=True) as drive:
        for kind, data in contents.items():
            await make_file(drive, kind.encode(), data)
    async with opened(tmp_path / "state", upstream) as drive:
        await drive.publisher.publish(everything=False)
        assert not drive.ledger.unpublished
    async with opened(tmp_path / "other", upstream) as drive:
        for kind, data in contents.items():
            assert await content_of(drive, kind.encode()) == data


async def test_a_drive_that_was_made_before_there_were_key_epochs_is_refused(
    folder: Path, upstream: MemoryUpstream
) -> None:
    """Its namespace has all of the log, so that no commit of an earlier version is read."""
    async with opened(folder, upstream) as drive:
        await make_file(drive, b"one", b"1")
        await drive.sync()
        drive.ledger.save()
    at_rest.unseal(str(folder / NAMESPACE_FILE), THIS_MACHINE.disk)
    with closing(sqlite3.connect(folder / NAMESPACE_FILE)) as database, database:
        database.execute("DROP TABLE key_epoch")
        database.execute("PRAGMA user_version = 7")
    for read_only in (True, False):
        with pytest.raises(FormatError, match="before there were key epochs"):
            async with opened(folder, upstream, read_only=read_only):
                pass

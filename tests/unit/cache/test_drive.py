"""POSIX semantics of `Drive`, call by call."""

from __future__ import annotations

import errno
import os
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from stat import S_IFBLK, S_IFCHR, S_IFDIR, S_IFIFO, S_IFREG, S_ISGID

import apsw
import pytest
import trio

from backend.errors import NoSpaceError, TransientError
from backend.system import Environment
from backend.system.durable import Durable
from cache import drive as drive_module
from cache.attributes import AttributeChange, Attributes
from cache.drive import Drive
from cache.errors import (
    AttributeTooBigError,
    DirectoryError,
    ExistsError,
    FileTooBigError,
    InputOutputError,
    InvalidArgumentError,
    NameTooLongError,
    NoAttributeError,
    NoEntryError,
    NoSpaceLeftError,
    NotDirectoryError,
    NotEmptyError,
    NotPermittedError,
    NotSupportedError,
    ReadOnlyFileSystemError,
    StaleError,
)
from cache.journal import Need, Trimming
from cache.namespace.operations import MAX_SIZE, ROOT_INODE
from cache.tree.put_off import AT_ONCE
from tests.drives import content, make_file, opened
from tests.memory_upstream import MemoryUpstream


@pytest.fixture
async def drive(tmp_path: Path) -> AsyncIterator[Drive]:
    async with opened(tmp_path / "cache", MemoryUpstream()) as drive:
        yield drive


async def make_directory(
    drive: Drive, name: bytes, parent: int = ROOT_INODE, mode: int = 0o755
) -> Attributes:
    return await drive.make_node(parent, name, S_IFDIR | mode, 0, 0, 0)


async def test_names(drive: Drive) -> None:
    strange = bytes(set(range(1, 256)) - {ord("/")})[:255]
    made = await make_file(drive, strange)
    assert drive.lookup(ROOT_INODE, strange).inode == made.inode
    assert drive.lookup(ROOT_INODE, b".").inode == drive.lookup(ROOT_INODE, b"..").inode == ROOT_INODE
    for name, error in [
        (b"x" * 256, NameTooLongError),
        (b"", InvalidArgumentError),
        (b"a/b", InvalidArgumentError),
        (b"a\0b", InvalidArgumentError),
        (b".", ExistsError),
        (strange, ExistsError),
    ]:
        with pytest.raises(error):
            await make_file(drive, name)
    with pytest.raises(NameTooLongError):
        drive.lookup(ROOT_INODE, b"x" * 256)
    with pytest.raises(NoEntryError):
        drive.lookup(ROOT_INODE, b"missing")
    with pytest.raises(NotDirectoryError):
        drive.lookup(made.inode, b"x")
    with pytest.raises(NotDirectoryError):
        await make_file(drive, b"x", parent=made.inode)
    with pytest.raises(StaleError):
        drive.attributes(99)


async def test_links_are_counted(drive: Drive) -> None:
    assert drive.attributes(ROOT_INODE).nlink == 2
    directory = await make_directory(drive, b"d")
    assert (directory.nlink, drive.attributes(ROOT_INODE).nlink) == (2, 3)
    made = await make_file(drive, b"file")
    assert (await drive.link(made.inode, directory.inode, b"other")).nlink == 2
    with pytest.raises(NotPermittedError):
        await drive.link(directory.inode, ROOT_INODE, b"second")
    with pytest.raises(ExistsError):
        await drive.link(made.inode, ROOT_INODE, b"file")
    drive.hold(made.inode)
    await drive.unlink(directory.inode, b"other")
    await drive.unlink(ROOT_INODE, b"file")
    with pytest.raises(NoEntryError):
        await drive.link(made.inode, ROOT_INODE, b"again")
    await drive.remove_directory(ROOT_INODE, b"d")
    assert drive.attributes(ROOT_INODE).nlink == 2


async def test_removing(drive: Drive) -> None:
    directory = await make_directory(drive, b"d")
    await make_file(drive, b"file", parent=directory.inode)
    for call, error in [
        (drive.unlink(ROOT_INODE, b"d"), DirectoryError),
        (drive.unlink(ROOT_INODE, b"missing"), NoEntryError),
        (drive.remove_directory(ROOT_INODE, b"d"), NotEmptyError),
        (drive.remove_directory(ROOT_INODE, b"missing"), NoEntryError),
        (drive.remove_directory(directory.inode, b"file"), NotDirectoryError),
        (drive.remove_directory(ROOT_INODE, b"."), InvalidArgumentError),
        (drive.remove_directory(ROOT_INODE, b".."), NotEmptyError),
    ]:
        with pytest.raises(error):
            await call
    await drive.unlink(directory.inode, b"file")
    drive.hold(directory.inode)
    await drive.remove_directory(ROOT_INODE, b"d")
    with pytest.raises(NoEntryError):
        await make_file(drive, b"late", parent=directory.inode)
    drive.release(directory.inode)
    drive.delete_unused()
    with pytest.raises(StaleError):
        drive.attributes(directory.inode)


async def test_symbolic_links_and_special_files(drive: Drive) -> None:
    link = await drive.symlink(ROOT_INODE, b"link", b"t" * 4095, 1, 2)
    assert drive.read_link(link.inode) == b"t" * 4095
    assert (link.size, link.mode, link.uid, link.gid) == (4095, 0o120777, 1, 2)
    with pytest.raises(NameTooLongError):
        await drive.symlink(ROOT_INODE, b"long", b"t" * 4096, 0, 0)
    with pytest.raises(NoEntryError):
        await drive.symlink(ROOT_INODE, b"empty", b"", 0, 0)
    device = await drive.make_node(ROOT_INODE, b"device", S_IFBLK | 0o600, 0x801, 0, 0)
    assert device.rdev == 0x801
    pipe = await drive.make_node(ROOT_INODE, b"pipe", S_IFIFO | 0o600, 0, 0, 0)
    with pytest.raises(InvalidArgumentError):
        drive.read_link(pipe.inode)
    with pytest.raises(InvalidArgumentError):
        await drive.write(pipe.inode, 0, b"x")
    with pytest.raises(InvalidArgumentError):
        await drive.set_attributes(pipe.inode, AttributeChange(size=1))


async def test_a_set_group_id_directory_hands_its_group_down(drive: Drive) -> None:
    directory = await drive.make_node(ROOT_INODE, b"d", S_IFDIR | S_ISGID | 0o775, 0, 7, 50)
    made = await drive.make_node(directory.inode, b"file", S_IFREG | 0o644, 0, 8, 60)
    below = await drive.make_node(directory.inode, b"below", S_IFDIR | 0o755, 0, 8, 60)
    assert (made.gid, made.mode & S_ISGID) == (50, 0)
    assert (below.gid, below.mode & S_ISGID) == (50, S_ISGID)


KINDS = ["missing", "file", "directory", "full directory"]
RENAME = {
    ("file", "file"): None,
    ("file", "directory"): DirectoryError,
    ("file", "full directory"): DirectoryError,
    ("directory", "file"): NotDirectoryError,
    ("directory", "directory"): None,
    ("directory", "full directory"): NotEmptyError,
}


async def make_kind(drive: Drive, name: bytes, kind: str) -> int:
    if kind == "missing":
        return 0
    if kind == "file":
        return (await make_file(drive, name)).inode
    made = await make_directory(drive, name)
    if kind == "full directory":
        await make_file(drive, b"inside", parent=made.inode)
    return made.inode


@pytest.mark.parametrize("flag", ["", "no_replace", "exchange"])
@pytest.mark.parametrize("target", KINDS)
@pytest.mark.parametrize("source", KINDS)
async def test_rename(drive: Drive, source: str, target: str, flag: str) -> None:
    one, two = await make_kind(drive, b"one", source), await make_kind(drive, b"two", target)
    error: type[Exception] | None = RENAME.get((source.removeprefix("full "), target))
    if source == "missing" or (flag == "exchange" and target == "missing"):
        error = NoEntryError
    elif flag == "exchange" or target == "missing":
        error = None
    elif flag == "no_replace":
        error = ExistsError
    call = drive.rename(
        ROOT_INODE, b"one", ROOT_INODE, b"two", no_replace=flag == "no_replace", exchange=flag == "exchange"
    )
    if error is not None:
        with pytest.raises(error):
            await call
        assert {entry.attributes.inode for entry in drive.entries(ROOT_INODE, 0, 9)} == {one, two} - {0}
        return
    await call
    assert drive.lookup(ROOT_INODE, b"two").inode == one
    if flag == "exchange":
        assert drive.lookup(ROOT_INODE, b"one").inode == two
    else:
        with pytest.raises(NoEntryError):
            drive.lookup(ROOT_INODE, b"one")


async def test_a_rename_leaves_a_whiteout(drive: Drive) -> None:
    one, two = await make_file(drive, b"one"), await make_file(drive, b"two")
    await drive.rename(ROOT_INODE, b"one", ROOT_INODE, b"two", whiteout=(5, 6))
    left = drive.lookup(ROOT_INODE, b"one")
    assert (left.mode, left.rdev, left.uid, left.gid) == (S_IFCHR, 0, 5, 6)
    assert drive.lookup(ROOT_INODE, b"two").inode == one.inode
    drive.delete_unused()
    with pytest.raises(StaleError):
        drive.attributes(two.inode)
    with pytest.raises(ExistsError):
        await drive.rename(ROOT_INODE, b"two", ROOT_INODE, b"one", no_replace=True, whiteout=(5, 6))
    with pytest.raises(InvalidArgumentError):
        await drive.rename(ROOT_INODE, b"two", ROOT_INODE, b"one", exchange=True, whiteout=(5, 6))
    folder = await make_directory(drive, b"group")
    await drive.set_attributes(folder.inode, AttributeChange(mode=0o2755, gid=77))
    await drive.rename(ROOT_INODE, b"two", folder.inode, b"inside", whiteout=(5, 6))
    await drive.rename(folder.inode, b"inside", ROOT_INODE, b"again", whiteout=(5, 6))
    assert drive.lookup(folder.inode, b"inside").gid == 77


async def test_a_directory_cannot_move_into_itself(drive: Drive) -> None:
    one = await make_directory(drive, b"one")
    two = await make_directory(drive, b"two", one.inode)
    three = await make_directory(drive, b"three", two.inode)
    for parent in (one, two, three):
        with pytest.raises(InvalidArgumentError):
            await drive.rename(ROOT_INODE, b"one", parent.inode, b"new")
    for arguments in [(ROOT_INODE, b"one", two.inode, b"three"), (two.inode, b"three", ROOT_INODE, b"one")]:
        with pytest.raises(InvalidArgumentError):
            await drive.rename(*arguments, exchange=True)
    with pytest.raises(InvalidArgumentError):
        await drive.rename(ROOT_INODE, b"one", ROOT_INODE, b"x", no_replace=True, exchange=True)
    await drive.rename(two.inode, b"three", ROOT_INODE, b"up")
    assert drive.parent(three.inode).inode == ROOT_INODE


async def test_renaming_one_link_onto_another_of_the_same_file_does_nothing(drive: Drive) -> None:
    made = await make_file(drive, b"one")
    await drive.link(made.inode, ROOT_INODE, b"two")
    await drive.rename(ROOT_INODE, b"one", ROOT_INODE, b"two")
    assert drive.attributes(made.inode).nlink == 2


async def test_times(drive: Drive) -> None:
    made = await make_file(drive, b"file")
    await drive.set_attributes(made.inode, AttributeChange(atime_ns=1, mtime_ns=2))
    changed = drive.attributes(made.inode)
    assert (changed.atime_ns, changed.mtime_ns) == (1, 2)
    assert changed.ctime_ns > made.ctime_ns
    await drive.set_attributes(made.inode, AttributeChange(mode=0o600))
    assert drive.attributes(made.inode).mtime_ns == 2
    await drive.write(made.inode, 0, b"x")
    written = drive.attributes(made.inode)
    assert written.mtime_ns == written.ctime_ns > changed.ctime_ns
    await drive.set_attributes(made.inode, AttributeChange(mtime_ns=-5))
    assert drive.attributes(made.inode).mtime_ns == -5
    await drive.sync()
    assert drive.attributes(made.inode).mtime_ns == -5
    drive.touch(made.inode)
    assert drive.attributes(made.inode).atime_ns > written.atime_ns
    before = drive.attributes(ROOT_INODE)
    await drive.unlink(ROOT_INODE, b"file")
    after = drive.attributes(ROOT_INODE)
    assert after.mtime_ns == after.ctime_ns > before.mtime_ns


async def test_extended_attributes(drive: Drive) -> None:
    made = await make_file(drive, b"file")
    largest = b"v" * (64 << 10)
    for name in (b"user.a", b"trusted.b", b"security.c", b"user." + b"n" * 250):
        await drive.set_xattr(made.inode, name, largest)
        assert drive.get_xattr(made.inode, name) == largest
    assert len(drive.xattr_names(made.inode)) == 4
    await drive.set_xattr(made.inode, b"user.a", b"")
    assert drive.get_xattr(made.inode, b"user.a") == b""
    await drive.remove_xattr(made.inode, b"user.a")
    for call, error in [
        (drive.set_xattr(made.inode, b"user.a", largest + b"x"), AttributeTooBigError),
        (drive.set_xattr(made.inode, b"user." + b"n" * 251, b""), InvalidArgumentError),
        (drive.set_xattr(made.inode, b"system.other", b""), NotSupportedError),
        (drive.remove_xattr(made.inode, b"user.a"), NoAttributeError),
    ]:
        with pytest.raises(error):
            await call
    with pytest.raises(NoAttributeError):
        drive.get_xattr(made.inode, b"user.a")


@pytest.mark.parametrize("when", ["never", "between", "after"])
async def test_shrink_then_write_past_the_end_reads_zeros_between(tmp_path: Path, when: str) -> None:
    upstream, folder = MemoryUpstream(), tmp_path / "cache"
    async with opened(folder, upstream) as drive:
        made = await make_file(drive, b"file", b"x" * 10_000)
        if when != "never":
            await drive.sync()
        await drive.set_attributes(made.inode, AttributeChange(size=100))
        if when == "between":
            await drive.sync()
        await drive.write(made.inode, 5_000, b"y")
        expected = b"x" * 100 + bytes(4_900) + b"y"
        assert await content(drive, made.inode) == expected
        await drive.set_attributes(made.inode, AttributeChange(size=6_000))
        expected += bytes(999)
        await drive.sync()
        assert await content(drive, made.inode) == expected
    async with opened(folder, upstream) as drive:
        assert await content(drive, made.inode) == expected


async def test_huge_sparse_files_cost_nothing(tmp_path: Path) -> None:
    upstream, folder = MemoryUpstream(), tmp_path / "cache"
    async with opened(folder, upstream) as drive:
        made = await make_file(drive, b"file")
        await drive.set_attributes(made.inode, AttributeChange(size=MAX_SIZE))
        assert (drive.attributes(made.inode).size, drive.attributes(made.inode).blocks) == (MAX_SIZE, 0)
        await drive.sync()
        await drive.write(made.inode, MAX_SIZE - 3, b"end")
        await drive.sync()
        assert bytes(await drive.read(made.inode, MAX_SIZE - 5, 100)) == b"\0\0end"
        assert bytes(await drive.read(made.inode, 1 << 62, 3)) == bytes(3)
        for call in (
            drive.write(made.inode, MAX_SIZE - 3, b"more"),
            drive.set_attributes(made.inode, AttributeChange(size=MAX_SIZE + 1)),
        ):
            with pytest.raises(FileTooBigError):
                await call
        assert 0 < drive.attributes(made.inode).blocks <= 8
    async with opened(folder, upstream) as drive:
        assert bytes(await drive.read(made.inode, MAX_SIZE - 5, 100)) == b"\0\0end"
        await drive.unlink(ROOT_INODE, b"file")
        await drive.sync()
        assert drive.ledger.namespace.statistics().bytes == 0


async def test_readdir_goes_on_while_entries_come_and_go(drive: Drive) -> None:
    for number in range(100):
        await make_file(drive, b"%d" % number)
    met, cookie, round_number = [], 0, 0
    while batch := drive.entries(ROOT_INODE, cookie, 7):
        met += [entry.name for entry in batch]
        cookie = batch[-1].cookie
        if round_number < 10:
            await drive.unlink(ROOT_INODE, b"%d" % (round_number * 2))
            await make_file(drive, b"new%d" % round_number)
        round_number += 1
    assert len(met) == len(set(met))
    assert {b"%d" % number for number in range(20, 100)} <= set(met)
    assert {b"%d" % number for number in range(1, 20, 2)} <= set(met)


async def test_an_unlinked_open_file_lives_until_it_is_released(drive: Drive) -> None:
    made = await make_file(drive, b"file", b"content")
    await drive.sync()
    drive.hold(made.inode, 2)
    await drive.unlink(ROOT_INODE, b"file")
    await drive.write(made.inode, 7, b" and more")
    drive.release(made.inode)
    assert await content(drive, made.inode) == b"content and more"
    assert drive.attributes(made.inode).nlink == 0
    drive.release(made.inode)
    drive.delete_unused()
    with pytest.raises(StaleError):
        await drive.read(made.inode, 0, 1)


async def test_what_nobody_holds_is_deleted_together_unless_it_is_found_again(drive: Drive) -> None:
    made = [await make_file(drive, b"%d" % number, b"never sealed") for number in range(AT_ONCE + 2)]
    for number, file in enumerate(made):
        drive.hold(file.inode)
        await drive.unlink(ROOT_INODE, b"%d" % number)
    before = drive.ledger.open_operations
    drive.release(made[0].inode)
    drive.hold(made[0].inode)
    for file in made[1 : AT_ONCE - 1]:
        drive.release(file.inode)
    assert drive.ledger.open_operations == before
    drive.release(made[AT_ONCE - 1].inode)
    assert drive.ledger.open_operations == before + AT_ONCE - 1, "all but the first"
    for file in made[AT_ONCE:]:
        drive.release(file.inode)
    await drive.sync()
    for file in made[1:]:
        with pytest.raises(StaleError):
            drive.attributes(file.inode)
    assert drive.attributes(made[0].inode).nlink == 0
    assert (await drive.status()).sealed_bytes <= len(b"never sealed")


async def test_deletes_that_are_refused_are_tried_again(
    drive: Drive, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = await make_file(drive, b"file")
    drive.hold(made.inode)
    await drive.unlink(ROOT_INODE, b"file")
    drive.release(made.inode)
    with monkeypatch.context() as patch:
        patch.setattr(drive.ledger, "accept_all", _full)
        drive.delete_unused()
    assert drive.attributes(made.inode).nlink == 0
    drive.tick(-1)
    with pytest.raises(StaleError):
        drive.attributes(made.inode)


async def test_deletes_of_what_was_found_again_make_no_record(drive: Drive) -> None:
    made = await make_file(drive, b"file")
    drive.hold(made.inode)
    await drive.unlink(ROOT_INODE, b"file")
    drive.release(made.inode)
    drive.hold(made.inode)
    before = drive.ledger.journal.end
    drive.delete_unused()
    assert drive.ledger.journal.end == before


def _full(_operations: object) -> None:
    raise NoSpaceLeftError("full")


class FullDisk(Durable):
    """While `full`, no file grows: a journal goes on as far as its segment has room."""

    full = False

    def preallocate(self, descriptor: int, size: int) -> None:
        if self.full:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        super().preallocate(descriptor, size)


@pytest.mark.parametrize("change", [AttributeChange(mode=0o600), AttributeChange(mtime_ns=5, atime_ns=6)])
async def test_a_truncation_that_is_refused_changes_no_attribute(
    tmp_path: Path, change: AttributeChange
) -> None:
    """Wherever in the call the disk is found full."""
    disk = FullDisk()
    async with opened(tmp_path / "cache", MemoryUpstream(), environment=Environment(disk)) as drive:
        await truncations_are_refused_whole(drive, disk, change)


async def truncations_are_refused_whole(drive: Drive, disk: FullDisk, change: AttributeChange) -> None:
    inode = (await make_file(drive, b"file", b"content")).inode
    drive.ledger.journal.segment_size = 4096
    for shift in range(0, 200, 8):
        drive.ledger.begin_open_commit()
        await drive.set_xattr(inode, b"user.a", bytes(shift))
        disk.full = True
        shown, refused = drive.attributes(inode), False
        while not refused:
            try:
                shown = await drive.set_attributes(inode, replace(change, size=shown.size + 1))
            except NoSpaceLeftError:
                refused = True
        assert drive.attributes(inode) == shown
        disk.full = False


@pytest.mark.logs_warnings
@pytest.mark.parametrize("error", [TransientError("no"), apsw.IOError("no")])
async def test_deletes_that_fail_are_said_and_do_not_end_the_drive(
    drive: Drive, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, error: Exception
) -> None:
    def fail() -> None:
        raise error

    monkeypatch.setattr(drive.put_off, "delete_unused", fail)
    assert drive.tick(7) == 7
    assert "cannot be written now" in caplog.text


@pytest.mark.logs_warnings
@pytest.mark.parametrize("error", [NoSpaceError("no"), TransientError("no"), apsw.IOError("no")])
async def test_deletes_that_fail_on_a_tight_disk_do_not_end_the_drive(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, error: Exception
) -> None:
    """They are tried again, by a tick and slowly behind it."""
    monkeypatch.setattr(drive_module, "TICK", 0.01)
    monkeypatch.setattr(Trimming, "is_tight", True)
    failed = 0

    def fail(_inode: int) -> None:
        nonlocal failed
        failed += 1
        raise error

    async with opened(tmp_path / "cache", MemoryUpstream()) as drive:
        made = await make_file(drive, b"file")
        drive.hold(made.inode)
        await drive.unlink(ROOT_INODE, b"file")
        drive.release(made.inode)
        with monkeypatch.context() as patch, trio.fail_after(10):
            patch.setattr(drive.ledger.namespace, "inode", fail)
            while failed < 4:
                await trio.sleep(0.01)
        assert "cannot be written now" in caplog.text
        with trio.fail_after(10):
            while drive.put_off.any_unused:
                await trio.sleep(0.01)
        with pytest.raises(StaleError):
            drive.attributes(made.inode)


async def test_a_file_with_data_has_blocks(drive: Drive) -> None:
    made = await make_file(drive, b"file", b"x")
    assert drive.attributes(made.inode).blocks == 1
    await drive.sync()
    assert drive.attributes(made.inode).blocks == 1


async def test_reading_and_writing_at_the_borders(drive: Drive) -> None:
    made = await make_file(drive, b"file", b"0123456789")
    assert bytes(await drive.read(made.inode, 8, 100)) == b"89"
    assert bytes(await drive.read(made.inode, 10, 1)) == b""
    assert bytes(await drive.read(made.inode, 99, 1)) == b""
    await drive.write(made.inode, 5, b"")
    assert drive.size(made.inode) == 10
    with pytest.raises(DirectoryError):
        await drive.read(ROOT_INODE, 0, 1)
    with pytest.raises(DirectoryError):
        await drive.set_attributes(ROOT_INODE, AttributeChange(size=0))
    with pytest.raises(InvalidArgumentError):
        await drive.set_attributes(made.inode, AttributeChange(size=-1))


async def test_a_write_larger_than_a_journal_record(tmp_path: Path) -> None:
    """Regression: replay took it for the journal's end."""
    data = bytes(range(256)) * (100 << 10)
    upstream = MemoryUpstream()
    async with opened(tmp_path, upstream, crash=True) as drive:
        made = await make_file(drive, b"file", data)
        await make_file(drive, b"after")
    async with opened(tmp_path, upstream) as drive:
        assert await content(drive, made.inode) == data
        assert drive.lookup(ROOT_INODE, b"after")


async def test_a_read_only_drive_refuses_each_change(tmp_path: Path) -> None:
    upstream = MemoryUpstream()
    async with opened(tmp_path, upstream) as drive:
        made = await make_file(drive, b"file", b"content")
        await drive.sync()
    async with opened(tmp_path, upstream, read_only=True) as drive:
        for call in (
            make_file(drive, b"new"),
            drive.symlink(ROOT_INODE, b"l", b"t", 0, 0),
            drive.link(made.inode, ROOT_INODE, b"l"),
            drive.unlink(ROOT_INODE, b"file"),
            drive.remove_directory(ROOT_INODE, b"d"),
            drive.rename(ROOT_INODE, b"file", ROOT_INODE, b"other"),
            drive.write(made.inode, 0, b"x"),
            drive.set_attributes(made.inode, AttributeChange(mode=0)),
            drive.set_xattr(made.inode, b"user.x", b""),
            drive.remove_xattr(made.inode, b"user.x"),
        ):
            with pytest.raises(ReadOnlyFileSystemError):
                await call
        assert await content(drive, made.inode) == b"content"
        drive.touch(made.inode)


async def test_the_status_counts(drive: Drive) -> None:
    await make_file(drive, b"file", b"content")
    before = await drive.status()
    assert (before.dirty_files, before.dirty_bytes, before.published) == (1, 7, False)
    await drive.sync()
    after = await drive.status()
    assert (after.dirty_files, after.sealed_bytes, after.published, after.commit) == (
        0,
        7,
        True,
        2,
    )
    assert drive.statistics().name_max == 255


@pytest.mark.parametrize("need", Need)
async def test_a_drive_that_is_closed_while_room_is_made_accepts_nothing(
    drive: Drive, monkeypatch: pytest.MonkeyPatch, need: Need
) -> None:
    """Regression: what closing wrote down last was not all that was accepted."""
    monkeypatch.setattr(Trimming, "is_crowded", True)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(drive.intake.close)
        with pytest.raises(InputOutputError, match="being closed"):
            await drive.intake.room(need)

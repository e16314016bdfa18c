"""What another device publishes, on a real mount with warm caches of the kernel."""

from __future__ import annotations

import mmap
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.contents import KINDS, Kind, content
from tests.mount.shared_drive import SOON, SharedDrive, shared_drive

pytestmark = pytest.mark.mount


@pytest.fixture(scope="module")
def drive(fuse: None) -> Iterator[SharedDrive]:
    with shared_drive() as drive:
        yield drive


@pytest.fixture
def name(drive: SharedDrive, request: pytest.FixtureRequest) -> str:
    """A new folder, which both devices have, relative to the mount."""
    name = "".join(letter if letter.isalnum() else "_" for letter in request.node.name)
    drive.peer(("mkdir", name))
    drive.soon((drive.mountpoint / name).is_dir)
    return name


@contextmanager
def opened(path: Path, flags: int) -> Iterator[int]:
    descriptor = os.open(path, flags)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def is_content(path: Path, data: bytes) -> bool:
    """As stat(2) and read(2) show it."""
    return path.stat().st_size == len(data) and path.read_bytes() == data


def put(drive: SharedDrive, path: str, data: bytes) -> Path:
    """A file that the other device made, and that is in the kernel's caches."""
    drive.peer(("write", path, data))
    there = drive.mountpoint / path
    drive.soon(lambda: there.exists() and is_content(there, data))
    return there


def copies(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if "(conflict 20" in path.name)


@pytest.mark.parametrize("call", ["write", "save"])
@pytest.mark.parametrize("kind", KINDS)
def test_the_content_of_a_closed_file(drive: SharedDrive, name: str, kind: Kind, call: str) -> None:
    path = put(drive, f"{name}/f", content(kind, 20_000, 1))
    for seed, size in ((2, 30_000), (3, 5_000), (4, 5_000), (5, 0), (6, 100)):
        data = content(kind, size, seed)
        drive.peer((call, f"{name}/f", data))
        drive.soon(lambda data=data: is_content(path, data))  # type: ignore[misc]


def test_names_that_come_and_go(drive: SharedDrive, name: str) -> None:
    folder = drive.mountpoint / name
    put(drive, f"{name}/old", b"old")
    assert not (folder / "new").exists()
    drive.peer(
        ("rename", f"{name}/old", f"{name}/new"), ("mkdir", f"{name}/d"), ("write", f"{name}/d/x", b"x")
    )
    drive.soon(lambda: (folder / "new").exists())
    drive.soon(lambda: sorted(os.listdir(folder)) == ["d", "new"])
    assert not (folder / "old").exists()
    assert (folder / "d/x").read_bytes() == b"x"
    links = folder.stat().st_nlink
    drive.peer(("unlink", f"{name}/d/x"), ("rmdir", f"{name}/d"), ("link", f"{name}/new", f"{name}/second"))
    drive.soon(lambda: sorted(os.listdir(folder)) == ["new", "second"])
    drive.soon(lambda: folder.stat().st_nlink == links - 1)
    drive.soon(lambda: (folder / "new").stat().st_nlink == 2)


def test_attributes(drive: SharedDrive, name: str) -> None:
    path = put(drive, f"{name}/f", b"content")
    drive.peer(("chmod", f"{name}/f", 0o600), ("utime", f"{name}/f", 10**18))
    drive.soon(lambda: path.stat().st_mode & 0o777 == 0o600)
    drive.soon(lambda: path.stat().st_mtime_ns == 10**18)
    assert path.read_bytes() == b"content"


@pytest.mark.parametrize("flags", [os.O_RDONLY, os.O_RDWR])
def test_times_that_were_set_while_the_file_was_open(drive: SharedDrive, name: str, flags: int) -> None:
    path = put(drive, f"{name}/f", b"content")
    with opened(path, flags):
        drive.peer(("utime", f"{name}/f", 10**18), ("chmod", f"{name}/f", 0o640))
        drive.soon(lambda: path.stat().st_mode & 0o777 == 0o640)
    drive.soon(lambda: path.stat().st_mtime_ns == 10**18)


@pytest.mark.parametrize("call", ["write", "save", "unlink"])
@pytest.mark.parametrize("flags", [os.O_RDONLY, os.O_RDWR])
def test_a_descriptor_keeps_what_it_was_opened_on(
    drive: SharedDrive, name: str, flags: int, call: str
) -> None:
    """Its pages that were read before, and those that were not."""
    was, new = content("random", 3_000_000, 1), content("text", 50_000, 2)
    path = put(drive, f"{name}/f", was)
    with opened(path, flags) as descriptor, mmap.mmap(descriptor, len(was), prot=mmap.PROT_READ) as mapped:
        assert os.pread(descriptor, 4096, 0) == mapped[:4096] == was[:4096]
        drive.peer((call, f"{name}/f", *([] if call == "unlink" else [new])))
        if call == "unlink":
            drive.soon(lambda: not path.exists())
            drive.peer(("mkdir", f"{name}/later"))  # the other device deletes the inode with its next commit
        else:
            drive.soon(lambda: is_content(path, new))
        assert os.fstat(descriptor).st_size == len(was)
        assert os.pread(descriptor, len(was), 0) == was
        assert mapped[:] == was
        if call != "unlink":
            with opened(path, os.O_RDONLY) as second, mmap.mmap(second, 0, prot=mmap.PROT_READ) as of_new:
                assert of_new[:] == new
    assert copies(path.parent) == []
    assert call == "unlink" or is_content(path, new)


@pytest.mark.parametrize("change", ["write", "truncate", "append", "mmap"])
@pytest.mark.parametrize("kind", KINDS)
def test_the_first_write_to_what_was_replaced_makes_the_copy(
    drive: SharedDrive, name: str, kind: Kind, change: str
) -> None:
    was, new = content(kind, 100_000, 1), content(kind, 40_000, 2)
    path = put(drive, f"{name}/f", was)
    expected = bytearray(was)
    with opened(path, os.O_RDWR | (os.O_APPEND if change == "append" else 0)) as descriptor:
        drive.peer(("write", f"{name}/f", new))
        drive.soon(lambda: is_content(path, new))
        assert copies(path.parent) == []
        if change == "write":
            os.pwrite(descriptor, b"ours", 5000)
            expected[5000:5004] = b"ours"
        elif change == "truncate":
            os.ftruncate(descriptor, 777)
            del expected[777:]
        elif change == "append":
            os.write(descriptor, b"ours")
            expected += b"ours"
        else:
            with mmap.mmap(descriptor, len(was)) as mapped:
                mapped[70_000:70_004] = b"ours"
                mapped.flush()
            expected[70_000:70_004] = b"ours"
        os.fsync(descriptor)
        (copy,) = copies(path.parent)
        assert os.pread(descriptor, len(was) + 10, 0) == copy.read_bytes() == expected
        assert is_content(path, new)
        if change == "append":
            os.write(descriptor, b"again")
            expected += b"again"
        else:
            os.pwrite(descriptor, b"again", 0)
            expected[:5] = b"again"
    assert copies(path.parent) == [copy]
    assert copy.read_bytes() == expected
    assert b'"of": "f"' in os.getxattr(copy, "user.drivefs.conflict")
    assert is_content(path, new)


def test_writing_on_in_a_file_that_others_removed(drive: SharedDrive, name: str) -> None:
    path = put(drive, f"{name}/f", b"0123456789")
    with opened(path, os.O_RDWR) as descriptor:
        drive.peer(("unlink", f"{name}/f"))
        drive.soon(lambda: not path.exists())
        drive.peer(("mkdir", f"{name}/later"))
        drive.soon((path.parent / "later").is_dir)
        os.pwrite(descriptor, b"ours", 3)
    (copy,) = copies(path.parent)
    assert copy.read_bytes() == b"012ours789"


def test_writing_on_in_a_file_whose_folder_others_removed(drive: SharedDrive, name: str) -> None:
    """The copy is in the root, whether or not somebody still works in the folder."""
    drive.peer(("mkdir", f"{name}/d"), *(("write", f"{name}/d/{each}", b"0123456789") for each in "fg"))
    folder = drive.mountpoint / name / "d"
    drive.soon((folder / "g").exists)
    with opened(folder / "f", os.O_RDWR) as f, opened(folder / "g", os.O_RDWR) as g:
        with opened(folder, os.O_RDONLY | os.O_DIRECTORY):
            drive.peer(*(("unlink", f"{name}/d/{each}") for each in "fg"), ("rmdir", f"{name}/d"))
            drive.soon(lambda: not folder.exists())
            os.pwrite(f, b"ours", 3)
            os.fsync(f)
        os.pwrite(g, b"ours", 3)
        os.fsync(g)
    found = copies(drive.mountpoint)
    assert [path.name[:3] for path in found] == ["f (", "g ("]
    for path in found:
        assert path.read_bytes() == b"012ours789"
        path.unlink()


@pytest.mark.parametrize("kind", KINDS)
def test_a_dirty_file_goes_on_as_the_copy(drive: SharedDrive, name: str, kind: Kind) -> None:
    was, new = content(kind, 100_000, 1), content(kind, 40_000, 2)
    path = put(drive, f"{name}/f", was)
    with opened(path, os.O_RDWR) as descriptor:
        os.pwrite(descriptor, b"dirty", 50_000)
        os.fsync(descriptor)
        drive.peer(("write", f"{name}/f", new))
        drive.soon(lambda: is_content(path, new))
        (copy,) = copies(path.parent)
        expected = bytearray(was)
        expected[50_000:50_005] = b"dirty"
        assert os.pread(descriptor, len(was), 0) == copy.read_bytes() == expected
        os.pwrite(descriptor, b"more", 10)
        expected[10:14] = b"more"
        os.fsync(descriptor)
        assert copy.read_bytes() == expected
    assert copy.read_bytes() == expected
    assert is_content(path, new)


def test_what_this_device_changed_beside_others_stays_open(drive: SharedDrive, name: str) -> None:
    path = put(drive, f"{name}/f", b"base")
    with opened(path, os.O_RDWR) as descriptor:
        os.pwrite(descriptor, b"ours", 0)
        os.fsync(descriptor)
        inode = os.fstat(descriptor).st_ino
        drive.peer(("write", f"{name}/other", b"other"))
        drive.soon(lambda: (path.parent / "other").exists())
        os.pwrite(descriptor, b"!", 4)
    assert path.read_bytes() == b"ours!"
    assert path.stat().st_ino == inode
    assert copies(path.parent) == []


def test_a_folder_that_is_being_listed(drive: SharedDrive, name: str) -> None:
    """Names that stay are met once: published ones, and those that only this device has."""
    folder = drive.mountpoint / name
    published = [f"published{number:04}" for number in range(1500)]
    drive.peer(*(("write", f"{name}/{each}", b"") for each in published))
    drive.soon(lambda: len(os.listdir(folder)) == len(published))
    ours = [f"ours{number:04}" for number in range(1500)]
    for each in ours:
        (folder / each).touch()
    with os.scandir(folder) as listing:
        met = [next(listing).name for _ in range(10)]
        gone = [each for each in published[500:] if each not in met]
        drive.peer(
            *(("unlink", f"{name}/{each}") for each in gone[::2]),
            *(("write", f"{name}/new{number}", b"") for number in range(100)),
        )
        drive.soon(lambda: (folder / "new0").exists())
        met += [entry.name for entry in listing]
    assert len(met) == len({*met})
    assert {*met} >= {*published, *ours} - {*gone[::2]}
    assert {*met} <= {*published, *ours}
    assert {*os.listdir(folder)} == {*published, *ours, *(f"new{number}" for number in range(100))} - {
        *gone[::2]
    }


def test_a_folder_that_others_remove_while_it_is_listed(drive: SharedDrive, name: str) -> None:
    """All else that they do is seen."""
    names = [f"{name}/d/{number}" for number in range(500)]
    drive.peer(("mkdir", f"{name}/d"), *(("write", each, b"") for each in names))
    folder = drive.mountpoint / name / "d"
    drive.soon(lambda: folder.exists() and len(os.listdir(folder)) == len(names))
    with os.scandir(folder) as listing:
        next(listing)
        drive.peer(*(("unlink", each) for each in names), ("rmdir", f"{name}/d"))
        drive.soon(lambda: not folder.exists())
        put(drive, f"{name}/later", b"later")
        with pytest.raises(OSError, match="Stale file handle"):
            list(listing)


def test_a_working_directory_that_others_rename(drive: SharedDrive, name: str) -> None:
    drive.peer(("mkdir", f"{name}/d"), ("write", f"{name}/d/x", b"x"))
    folder = drive.mountpoint / name
    drive.soon((folder / "d").is_dir)
    with opened(folder / "d", os.O_RDONLY | os.O_DIRECTORY) as descriptor:
        drive.peer(("rename", f"{name}/d", f"{name}/e"), ("write", f"{name}/e/y", b"y"))
        drive.soon((folder / "e/y").exists)
        with opened(folder / "e", os.O_RDONLY | os.O_DIRECTORY) as other:
            assert os.fstat(other).st_ino == os.fstat(descriptor).st_ino
        file = os.open("y", os.O_RDONLY, dir_fd=descriptor)
        assert os.read(file, 10) == b"y"
        os.close(file)


def test_truncating_by_a_name_that_means_something_else_by_now(drive: SharedDrive, name: str) -> None:
    path = put(drive, f"{name}/f", b"base")
    with opened(path, os.O_RDONLY) as descriptor:
        drive.peer(("write", f"{name}/f", b"theirs"))
        drive.peer(("wait_for_mount",))
        path.write_bytes(b"ours, at once")
        assert os.pread(descriptor, 100, 0) == b"base"
    assert path.read_bytes() == b"ours, at once"
    drive.soon(lambda: path.read_bytes() == b"ours, at once")


ROUNDS = 20
"""The quickest of them shows what it takes where nobody else uses the processors."""
QUICK = 0.06
"""Seconds from close(2) until the commit is in the log."""


@pytest.fixture
def quick(fuse: None) -> Iterator[SharedDrive]:
    """A drive that publishes by itself."""
    with shared_drive(interval=0.01) as drive:
        yield drive


def test_a_file_is_published_soon_after_it_was_closed(quick: SharedDrive) -> None:
    took = []
    for number in range(ROUNDS):
        path = quick.mountpoint / f"f{number}"
        path.write_bytes(content("text", 20_000, number))
        closed = time.monotonic()
        quick.peer(("wait_for", path.name, 20_000))
        took.append(quick.ours - closed)
    assert min(took) < QUICK, took


def test_what_others_published_is_seen_soon(quick: SharedDrive) -> None:
    """In stat(2), readdir(3), read(2) and mapped pages."""
    path, took = put(quick, "f", b"begin"), []
    for number in range(ROUNDS):
        data = content("log", 10_000 + number, number)
        quick.peer(("write", "f", data), ("write", f"new{number}", b""))
        quick.soon(lambda number=number: f"new{number}" in os.listdir(path.parent))  # type: ignore[misc]
        took.append(quick.soon(lambda data=data: is_content(path, data)))  # type: ignore[misc]
        with opened(path, os.O_RDONLY) as descriptor, mmap.mmap(descriptor, 0, prot=mmap.PROT_READ) as mapped:
            assert mapped[:] == data
    assert min(took) < SOON, took


def test_an_opening_asks_first_where_it_is_to(fuse: None) -> None:
    """With coherence=open: the mount hears of nothing by itself."""
    with shared_drive(is_asking=True) as drive:
        file = drive.mountpoint / "f"
        for number in range(5):
            data = content("log", 10_000 + number, number)
            with pytest.raises(FileNotFoundError):
                (drive.mountpoint / f"new{number}").read_bytes()
            drive.peer(("write", "f", data), ("save", f"new{number}", data))
            for path in (drive.mountpoint / f"new{number}", file):
                assert path.read_bytes() == data
                assert is_content(path, data)
            drive.peer(("mkdir", f"folder{number}"))
            assert f"folder{number}" in os.listdir(drive.mountpoint)

"""What POSIX and Linux promise of files, on a real mount: names, links, contents, times, big and odd things.

A tenth of what pjdfstest asks, written anew, and what drivers of this kind got wrong before.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import mmap
import os
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.contents import KINDS, Kind, content
from tests.mount.mounted import MountedDrive, run

pytestmark = pytest.mark.mount

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
libc = ctypes.CDLL(None, use_errno=True)
NOREPLACE, EXCHANGE, WHITEOUT = 1, 2, 4
UTIME_NOW, UTIME_OMIT = (1 << 30) - 1, (1 << 30) - 2
AT_FDCWD = -100
FIRST_TIMES = (1_000_000_001, 1_000_000_002)


def rename(old: Path, new: Path, flags: int) -> int:
    """renameat2(2); 0 or the errno."""
    ctypes.set_errno(0)
    libc.renameat2(AT_FDCWD, os.fsencode(old), AT_FDCWD, os.fsencode(new), flags)
    return ctypes.get_errno()


def code(call: Callable[..., object], *arguments: object) -> str:
    """The errno's name of a call, or "ok"."""
    try:
        call(*arguments)
    except OSError as error:
        return errno.errorcode[error.errno or 0]
    return "ok"


class TestLinks:
    def test_hard_links_share_everything(self, place: Path) -> None:
        (place / "a").write_bytes(b"one")
        os.link(place / "a", place / "b")
        (place / "b").write_bytes(b"other")
        first, second = (place / "a").stat(), (place / "b").stat()
        assert (first.st_ino, first.st_nlink) == (second.st_ino, 2)
        (place / "a").unlink()
        assert (place / "b").read_bytes() == b"other"
        assert (place / "b").stat().st_nlink == 1

    def test_no_hard_link_to_a_folder_nor_over_a_name(self, place: Path) -> None:
        (place / "folder").mkdir()
        (place / "file").touch()
        assert code(os.link, place / "folder", place / "x") == "EPERM"
        with pytest.raises(FileExistsError):
            os.link(place / "file", place / "folder")

    @pytest.mark.parametrize("length", [1, 4095])
    def test_symbolic_links(self, place: Path, length: int) -> None:
        target = "t" * length
        os.symlink(target, place / "link")
        assert os.readlink(place / "link") == target
        assert (place / "link").lstat().st_size == length

    def test_a_symbolic_link_of_4096_bytes_is_too_long(self, place: Path) -> None:
        assert code(os.symlink, "t" * 4096, place / "link") == "ENAMETOOLONG"

    def test_a_loop_of_symbolic_links(self, place: Path) -> None:
        (place / "a").symlink_to("b")
        (place / "b").symlink_to("a")
        assert code((place / "a").read_bytes) == "ELOOP"

    def test_folders_count_their_folders(self, place: Path) -> None:
        for name in ("a", "b", "c"):
            (place / name).mkdir()
        assert place.stat().st_nlink == 5
        (place / "a").rmdir()
        os.rename(place / "b", place / "c" / "b")
        assert (place.stat().st_nlink, (place / "c").stat().st_nlink) == (3, 3)

    def test_names_that_cannot_be_removed(self, place: Path) -> None:
        (place / "full" / "inside").mkdir(parents=True)
        (place / "file").touch()
        with pytest.raises(OSError, match="not empty"):
            (place / "full").rmdir()
        with pytest.raises(NotADirectoryError):
            (place / "file").rmdir()
        with pytest.raises(IsADirectoryError):
            (place / "full").unlink()
        with pytest.raises(OSError, match="Invalid"):
            os.rename(place / "full", place / "full" / "inside" / "itself")


class TestSpecialFiles:
    def test_a_fifo_carries_bytes(self, place: Path) -> None:
        os.mkfifo(place / "fifo", 0o640)
        assert stat.S_ISFIFO((place / "fifo").stat().st_mode)
        reader = os.open(place / "fifo", os.O_RDONLY | os.O_NONBLOCK)
        writer = os.open(place / "fifo", os.O_WRONLY)
        os.write(writer, b"through")
        assert os.read(reader, 100) == b"through"
        os.close(reader)
        os.close(writer)

    def test_a_socket_is_bound_in_it(self, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(place)
        with socket.socket(socket.AF_UNIX) as server, socket.socket(socket.AF_UNIX) as client:
            server.bind("socket")
            server.listen()
            client.connect("socket")
        assert stat.S_ISSOCK((place / "socket").stat().st_mode)

    @needs_root
    @pytest.mark.parametrize("kind", [stat.S_IFCHR, stat.S_IFBLK])
    def test_device_nodes_keep_their_number(self, place: Path, kind: int) -> None:
        os.mknod(place / "device", kind | 0o600, os.makedev(0xABC, 0xDEF01))
        found = (place / "device").stat()
        assert stat.S_IFMT(found.st_mode) == kind
        assert found.st_rdev == os.makedev(0xABC, 0xDEF01)


class TestAttributes:
    @pytest.mark.parametrize(
        "name",
        ["user.a", pytest.param("trusted.a", marks=needs_root), pytest.param("security.a", marks=needs_root)],
    )
    def test_set_list_get_remove(self, place: Path, name: str) -> None:
        (place / "file").touch()
        os.setxattr(place / "file", name, b"\0value")
        assert name in os.listxattr(place / "file")
        assert os.getxattr(place / "file", name) == b"\0value"
        os.removexattr(place / "file", name)
        assert name not in os.listxattr(place / "file")
        with pytest.raises(OSError, match="No data"):
            os.getxattr(place / "file", name)

    def test_create_and_replace(self, place: Path) -> None:
        with pytest.raises(OSError, match="No data"):
            os.setxattr(place, "user.a", b"1", os.XATTR_REPLACE)
        os.setxattr(place, "user.a", b"1", os.XATTR_CREATE)
        with pytest.raises(FileExistsError):
            os.setxattr(place, "user.a", b"2", os.XATTR_CREATE)
        os.setxattr(place, "user.a", b"", os.XATTR_REPLACE)
        assert os.getxattr(place, "user.a") == b""

    def test_limits(self, place: Path) -> None:
        longest = "user." + "n" * 250
        os.setxattr(place, longest, b"v" * 65536)
        assert os.getxattr(place, longest) == b"v" * 65536
        assert code(os.setxattr, place, longest + "n", b"") == "ERANGE"
        assert code(os.setxattr, place, "user.b", b"v" * 65537) == "E2BIG"

    def test_other_classes_are_refused(self, place: Path) -> None:
        assert code(os.setxattr, place, "other.name", b"") == "ENOTSUP"


class TestRename:
    def test_replaces_a_file_and_keeps_the_open_one(self, place: Path) -> None:
        (place / "new").write_bytes(b"new")
        (place / "old").write_bytes(b"old")
        with open(place / "old", "rb") as opened:
            os.rename(place / "new", place / "old")
            assert opened.read() == b"old"
        assert (place / "old").read_bytes() == b"new"
        assert not (place / "new").exists()

    def test_without_replacing(self, place: Path) -> None:
        (place / "a").write_bytes(b"a")
        (place / "b").write_bytes(b"b")
        assert rename(place / "a", place / "b", NOREPLACE) == errno.EEXIST
        assert rename(place / "a", place / "c", NOREPLACE) == 0
        assert sorted(os.listdir(place)) == ["b", "c"]

    def test_exchange_of_a_file_and_a_folder(self, place: Path) -> None:
        (place / "file").write_bytes(b"content")
        (place / "folder" / "inside").mkdir(parents=True)
        assert rename(place / "file", place / "folder", EXCHANGE) == 0
        assert (place / "folder").read_bytes() == b"content"
        assert (place / "file" / "inside").is_dir()
        assert rename(place / "file", place / "none", EXCHANGE) == errno.ENOENT

    def test_leaving_a_whiteout(self, place: Path) -> None:
        (place / "a").write_bytes(b"content")
        assert rename(place / "a", place / "b", WHITEOUT) == 0
        assert (place / "b").read_bytes() == b"content"
        found = (place / "a").lstat()
        assert (found.st_mode, found.st_rdev) == (stat.S_IFCHR, 0)
        assert rename(place / "b", place / "a", WHITEOUT | NOREPLACE) == errno.EEXIST
        assert rename(place / "b", place / "a", WHITEOUT | EXCHANGE) == errno.EINVAL
        (place / "a").unlink()
        assert os.listdir(place) == ["b"]

    def test_kinds_do_not_replace_each_other(self, place: Path) -> None:
        (place / "file").touch()
        (place / "empty").mkdir()
        (place / "full" / "x").mkdir(parents=True)
        with pytest.raises(IsADirectoryError):
            os.rename(place / "file", place / "empty")
        with pytest.raises(NotADirectoryError):
            os.rename(place / "empty", place / "file")
        with pytest.raises(OSError, match="not empty"):
            os.rename(place / "empty", place / "full")
        os.rename(place / "full", place / "empty")
        assert sorted(os.listdir(place)) == ["empty", "file"]

    def test_two_names_of_one_file_stay(self, place: Path) -> None:
        (place / "a").touch()
        os.link(place / "a", place / "b")
        os.rename(place / "a", place / "b")
        assert sorted(os.listdir(place)) == ["a", "b"]


class TestOpening:
    def test_exclusive(self, place: Path) -> None:
        os.close(os.open(place / "a", os.O_CREAT | os.O_EXCL | os.O_WRONLY))
        with pytest.raises(FileExistsError):
            os.open(place / "a", os.O_CREAT | os.O_EXCL | os.O_WRONLY)

    def test_truncating_changes_size_and_times(self, place: Path) -> None:
        (place / "a").write_bytes(b"content")
        os.utime(place / "a", ns=FIRST_TIMES)
        os.close(os.open(place / "a", os.O_TRUNC | os.O_WRONLY))
        found = (place / "a").stat()
        assert found.st_size == 0
        assert found.st_mtime_ns > FIRST_TIMES[1]

    def test_flags_that_refuse(self, place: Path) -> None:
        (place / "file").touch()
        (place / "link").symlink_to("file")
        with pytest.raises(NotADirectoryError):
            os.open(place / "file", os.O_DIRECTORY)
        with pytest.raises(OSError, match="symbolic"):
            os.open(place / "link", os.O_NOFOLLOW)
        with pytest.raises(IsADirectoryError):
            os.open(place, os.O_WRONLY)

    def test_appending_from_two_processes_loses_nothing(self, place: Path) -> None:
        program = (
            "import os, sys; f = os.open(sys.argv[1], os.O_APPEND | os.O_CREAT | os.O_WRONLY)\n"
            "for i in range(500): os.write(f, f'{sys.argv[2]} {i:04}\\n'.encode())"
        )
        writers = [
            subprocess.Popen([sys.executable, "-c", program, place / "log", letter]) for letter in "abc"
        ]
        assert [writer.wait(60) for writer in writers] == [0, 0, 0]
        lines = (place / "log").read_text().splitlines()
        assert sorted(lines) == [f"{letter} {i:04}" for letter in "abc" for i in range(500)]

    def test_a_name_may_hold_any_byte_but_two(self, place: Path) -> None:
        folder = os.fsencode(place) + b"/"
        names = [bytes(range(1, 47)), bytes(range(48, 256)), b"\xff" * 255, "ä".encode() * 127, b"a", b"A"]
        for name in names:
            with open(folder + name, "xb") as file:
                file.write(name)
        assert sorted(os.listdir(folder)) == sorted(names)
        for name in names:
            with open(folder + name, "rb") as file:
                assert file.read() == name

    def test_a_name_of_256_bytes_is_too_long(self, place: Path) -> None:
        for call in (os.mkdir, os.stat, os.unlink):
            assert code(call, place / ("n" * 256)) == "ENAMETOOLONG"


class TestContents:
    def test_an_unlinked_open_file_lives_on(self, place: Path) -> None:
        with open(place / "a", "w+b", buffering=0) as file:
            file.write(b"before")
            (place / "a").unlink()
            file.write(b" after")
            assert os.pread(file.fileno(), 100, 0) == b"before after"
            assert os.fstat(file.fileno()).st_nlink == 0
            os.ftruncate(file.fileno(), 3)
            os.ftruncate(file.fileno(), 8)
            assert os.pread(file.fileno(), 100, 0) == b"bef\0\0\0\0\0"
        assert os.listdir(place) == []

    @pytest.mark.parametrize("stored", [False, True])
    def test_shrunk_then_written_past_the_end_reads_zeros_between(
        self, shared: MountedDrive, place: Path, stored: bool
    ) -> None:
        with open(place / "a", "w+b", buffering=0) as file:
            file.write(b"secret" * 200_000)
            if stored:
                shared.sync()
            os.ftruncate(file.fileno(), 10)
            os.pwrite(file.fileno(), b"end", 1_000_000)
            if stored:
                shared.sync()
        drop_pages(place / "a")
        content = (place / "a").read_bytes()
        assert content == b"secretsecr" + bytes(1_000_000 - 10) + b"end"

    def test_sparse_files_of_many_gigabytes(self, shared: MountedDrive, place: Path) -> None:
        with open(place / "a", "w+b", buffering=0) as file:
            for offset in (0, 5 << 30, (12 << 30) - 3):
                os.pwrite(file.fileno(), b"abc", offset)
        shared.sync()
        drop_pages(place / "a")
        found = (place / "a").stat()
        assert found.st_size == 12 << 30
        assert found.st_blocks * 512 < 1 << 20
        with open(place / "a", "rb", buffering=0) as file:
            assert os.pread(file.fileno(), 6, (5 << 30) - 3) == b"\0\0\0abc"
            assert os.pread(file.fileno(), 6, (12 << 30) - 5) == b"\0\0abc"

    @pytest.mark.parametrize("size", [999_999_999_999_999, (1 << 63) - 1])
    def test_the_largest_sizes_cost_nothing(self, shared: MountedDrive, place: Path, size: int) -> None:
        (place / "a").touch()
        os.truncate(place / "a", size)
        assert (place / "a").stat().st_size == size
        with open(place / "a", "rb", buffering=0) as file:
            assert os.pread(file.fileno(), 50, size - 50) == bytes(50)
        shared.sync()
        start = time.monotonic()
        (place / "a").unlink()
        shared.sync()
        assert time.monotonic() - start < 5

    def test_shared_memory_maps_and_reads_see_each_other(self, shared: MountedDrive, place: Path) -> None:
        (place / "a").write_bytes(bytes(3 * 4096))
        with open(place / "a", "r+b", buffering=0) as file, mmap.mmap(file.fileno(), 0) as mapped:
            mapped[4000:4200] = b"m" * 200
            assert os.pread(file.fileno(), 200, 4000) == b"m" * 200
            os.pwrite(file.fileno(), b"written", 9000)
            assert mapped[9000:9007] == b"written"
            mapped.flush()
        shared.sync()
        drop_pages(place / "a")
        content = (place / "a").read_bytes()
        assert content[3999:4201] == b"\0" + b"m" * 200 + b"\0"
        assert content[9000:9007] == b"written"

    def test_fsync_and_its_relatives(self, place: Path) -> None:
        with open(place / "a", "wb", buffering=0) as file:
            file.write(b"x")
            os.fsync(file.fileno())
            os.fdatasync(file.fileno())
            assert libc.syncfs(file.fileno()) == 0
        folder = os.open(place, os.O_DIRECTORY)
        os.fsync(folder)
        os.close(folder)

    @pytest.mark.parametrize("kind", KINDS)
    def test_copies_made_by_the_kernel(self, shared: MountedDrive, place: Path, kind: Kind) -> None:
        data = content(kind, 3_000_000, "copied by the kernel")
        (place / "a").write_bytes(data)
        shared.sync()
        drop_pages(place / "a")
        with open(place / "a", "rb") as source, open(place / "b", "wb") as target:
            while os.sendfile(target.fileno(), source.fileno(), None, 1 << 20):
                pass
        assert (place / "b").read_bytes() == data
        with open(place / "a", "rb") as source, open(place / "c", "wb") as target:
            while os.copy_file_range(source.fileno(), target.fileno(), 1 << 20):
                pass
        assert (place / "c").read_bytes() == data

    def test_posix_fallocate(self, place: Path) -> None:
        with open(place / "a", "wb", buffering=0) as file:
            file.write(b"kept")
            os.posix_fallocate(file.fileno(), 0, 100_000)
        assert (place / "a").read_bytes() == b"kept" + bytes(99_996)

    def test_reading_at_and_past_the_end(self, place: Path) -> None:
        (place / "a").write_bytes(b"12345")
        with open(place / "a", "rb", buffering=0) as file:
            assert os.pread(file.fileno(), 10, 4) == b"5"
            assert os.pread(file.fileno(), 10, 5) == b""
            assert os.pread(file.fileno(), 10, 1 << 40) == b""

    def test_vectors_and_overlapping_writes(self, place: Path) -> None:
        expected = bytearray(300_000)
        with open(place / "a", "w+b", buffering=0) as file:
            for number in range(60):
                offset, data = number * 7919 % 290_000, bytes([number + 1]) * 9_001
                os.pwritev(file.fileno(), [data[:13], data[13:]], offset)
                expected[offset : offset + len(data)] = data
        assert (place / "a").read_bytes().ljust(300_000, b"\0") == bytes(expected)


def drop_pages(path: Path) -> None:
    """Have the kernel forget the file's pages, so that it asks the mount again (posix_fadvise(2))."""
    with open(path, "rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


class TestTimes:
    def test_nanoseconds_and_years_before_1970(self, place: Path) -> None:
        (place / "a").touch()
        times = (-5_000_000_001, 4_102_444_800_123_456_789)
        os.utime(place / "a", ns=times)
        found = (place / "a").stat()
        assert (found.st_atime_ns, found.st_mtime_ns) == times

    def test_now_and_omit(self, place: Path) -> None:
        (place / "a").touch()
        os.utime(place / "a", ns=FIRST_TIMES)
        before = time.time_ns()
        times = (ctypes.c_long * 4)(0, UTIME_OMIT, 0, UTIME_NOW)
        assert libc.utimensat(AT_FDCWD, os.fsencode(place / "a"), times, 0) == 0
        found = (place / "a").stat()
        assert found.st_atime_ns == FIRST_TIMES[0]
        assert abs(found.st_mtime_ns - before) < 10_000_000_000

    def test_of_a_link_itself(self, place: Path) -> None:
        (place / "link").symlink_to("nowhere")
        os.utime(place / "link", ns=FIRST_TIMES, follow_symlinks=False)
        assert (place / "link").lstat().st_mtime_ns == FIRST_TIMES[1]

    def test_a_change_of_entries_is_a_change_of_the_folder(self, place: Path) -> None:
        changes: list[Callable[[], object]] = [
            (place / "a").touch,
            lambda: os.rename(place / "a", place / "b"),
            (place / "b").unlink,
        ]
        for change in changes:
            os.utime(place, ns=FIRST_TIMES)
            change()
            assert place.stat().st_mtime_ns > FIRST_TIMES[1]

    def test_what_changes_the_change_time(self, place: Path) -> None:
        path = place / "a"
        path.touch()
        os.link(path, place / "other")
        changes: list[Callable[[], object]] = [
            lambda: path.chmod(0o600),
            lambda: path.write_bytes(b"content"),
            lambda: os.setxattr(path, "user.a", b""),
            lambda: os.link(path, place / "third"),
            (place / "other").unlink,
            lambda: os.truncate(path, 1),
        ]
        for change in changes:
            before = path.stat().st_ctime_ns
            time.sleep(0.02)  # a kernel's clock tick, which its time stamps are made of
            change()
            assert path.stat().st_ctime_ns > before


class TestStatfs:
    def test_names_of_255_bytes_and_room(self, shared: MountedDrive) -> None:
        found = os.statvfs(shared.mountpoint)
        assert found.f_namemax == 255
        assert 0 < found.f_bavail <= found.f_bfree <= found.f_blocks


class TestLocks:
    TRY = (
        "import fcntl, sys; f = open(sys.argv[1], 'r+b')\n"
        "try: getattr(fcntl, sys.argv[2])(f, fcntl.LOCK_EX | fcntl.LOCK_NB)\n"
        "except BlockingIOError: sys.exit(7)"
    )

    @pytest.mark.parametrize("kind", ["flock", "lockf"])
    def test_a_lock_excludes_other_processes(self, place: Path, kind: str) -> None:
        (place / "a").touch()

        def attempt() -> int:
            return subprocess.run([sys.executable, "-c", self.TRY, place / "a", kind], check=False).returncode

        with open(place / "a", "r+b") as file:
            getattr(fcntl, kind)(file, fcntl.LOCK_EX)
            assert attempt() == 7
            getattr(fcntl, kind)(file, fcntl.LOCK_UN)
            assert attempt() == 0


class TestAfterARemount:
    def test_all_kinds_of_things(self, drive: MountedDrive) -> None:
        """What the kernel's caches may have hidden so far."""
        drive.mount()
        top = drive.mountpoint
        (top / "folder").mkdir(0o2770)
        (top / "file").write_bytes(b"x" * 100_000)
        with open(top / "file", "r+b", buffering=0) as file, mmap.mmap(file.fileno(), 0) as mapped:
            mapped[5_000:5_003] = b"map"
        os.link(top / "file", top / "folder" / "hard")
        os.symlink("file", top / "soft")
        os.mkfifo(top / "fifo")
        os.setxattr(top / "file", "user.a", b"value")
        os.utime(top / "file", ns=FIRST_TIMES)
        os.utime(top / "folder", ns=FIRST_TIMES)
        before = run("find", top, "-printf", "%P %i %n %m %s %y %T@ %l\n")
        drive.umount()
        drive.mount()
        assert run("find", top, "-printf", "%P %i %n %m %s %y %T@ %l\n") == before
        content = (top / "folder" / "hard").read_bytes()
        assert content == b"x" * 5_000 + b"map" + b"x" * 94_997
        assert os.getxattr(top / "file", "user.a") == b"value"


@pytest.mark.parametrize("size", [5_000, 1 << 20, 4 << 20])
def test_times_that_are_written_back_are_those_of_the_write(drive: MountedDrive, size: int) -> None:
    """The kernel sends the times of a file right behind its pages, without waiting for these: they have to be
    applied in this order also where large writes let others go first (`mountfs.large_writes`)."""
    drive.mount()
    paths = [drive.mountpoint / f"file{number}" for number in range(5)]
    with open_folder(drive.mountpoint) as folder:
        for path in paths:
            with open(path, "wb", buffering=0) as file:
                file.write(os.urandom(size))
                path.with_suffix(".none").exists()  # somebody else asks, too
                assert libc.syncfs(folder) == 0
    seen = [path.stat().st_mtime_ns for path in paths]
    drive.umount()
    drive.mount()
    assert [path.stat().st_mtime_ns for path in paths] == seen


@contextmanager
def open_folder(path: Path) -> Iterator[int]:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    yield descriptor
    os.close(descriptor)

"""What Linux offers beyond POSIX, and the largest of everything: what holds, and what is refused clearly.

Each refusal is in docs/semantics.md, with what programs do instead.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import mmap
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Final

import pytest

from tests.mount import file_calls
from tests.mount.mounted import MountedDrive, run
from tests.mount.test_posix import code

pytestmark = pytest.mark.mount

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
libc = ctypes.CDLL(None, use_errno=True)
KEEP_SIZE, PUNCH_HOLE, COLLAPSE_RANGE, ZERO_RANGE = 1, 2, 8, 16
FICLONE: Final = 0x40049409
FS_IOC_GETFLAGS: Final = 0x80086601
OLDEST, NEWEST = -(1 << 31) * 10**9, ((1 << 34) - (1 << 31) - 1) * 10**9
PATH_MAX: Final = 4096
"""bytes, with the NUL at the end (limits.h)"""


def fallocate(descriptor: int, mode: int, offset: int, length: int) -> int:
    """fallocate(2) itself, which no library replaces by writing; 0 or the errno."""
    ctypes.set_errno(0)
    libc.fallocate(descriptor, mode, ctypes.c_long(offset), ctypes.c_long(length))
    return ctypes.get_errno()


class TestRefused:
    @pytest.mark.parametrize(
        "mode", [0, KEEP_SIZE, PUNCH_HOLE | KEEP_SIZE, COLLAPSE_RANGE, ZERO_RANGE, ZERO_RANGE | KEEP_SIZE]
    )
    def test_fallocate_and_nothing_has_changed(self, place: Path, mode: int) -> None:
        with open(place / "a", "w+b", buffering=0) as file:
            file.write(b"x" * 8192)
            assert fallocate(file.fileno(), mode, 0, 4096) == errno.EOPNOTSUPP
            assert os.pread(file.fileno(), 10_000, 0) == b"x" * 8192

    def test_posix_fallocate_writes_zeros_that_take_no_room(self, shared: MountedDrive, place: Path) -> None:
        """glibc touches every page instead; the range can be written afterwards, and holds what it held."""
        with open(place / "a", "w+b", buffering=0) as file:
            file.write(b"kept")
            os.posix_fallocate(file.fileno(), 2, 1 << 20)
            assert os.fstat(file.fileno()).st_size == (1 << 20) + 2
            os.pwrite(file.fileno(), b"end", 1 << 20)
            assert os.pread(file.fileno(), 6, 0) == b"kept\0\0"
        shared.sync()
        run("fallocate", "--posix", "--length", "8MiB", place / "b")
        shared.sync()
        assert (place / "b").stat().st_size == 8 << 20
        assert (place / "b").stat().st_blocks * 512 < 1 << 20
        assert (place / "b").read_bytes() == bytes(8 << 20)

    def test_fallocate_of_util_linux_says_so(self, place: Path) -> None:
        (place / "a").write_bytes(b"x" * 8192)
        with pytest.raises(AssertionError, match="unsupported"):
            run("fallocate", "--punch-hole", "--length", "4096", place / "a")
        assert (place / "a").read_bytes() == b"x" * 8192

    def test_a_file_without_a_name_from_the_start(self, place: Path) -> None:
        assert code(os.open, place, os.O_TMPFILE | os.O_RDWR) == "ENOTSUP"
        assert os.listdir(place) == []

    def test_temporary_files_of_programs_fall_back(self, place: Path) -> None:
        """Python's own asks for O_TMPFILE first."""
        program = (
            "import os, sys, tempfile; file = tempfile.TemporaryFile(dir=sys.argv[1])\n"
            "file.write(b'content'); file.flush(); print(os.fstat(file.fileno()).st_nlink)"
        )
        assert run(sys.executable, "-c", program, place).strip() == "0"
        assert os.listdir(place) == []

    def test_reflinks_and_flags(self, place: Path) -> None:
        (place / "a").write_bytes(b"content")
        with open(place / "a", "rb") as source, open(place / "b", "wb") as target:
            assert code(fcntl.ioctl, target, FICLONE, source.fileno()) == "ENOTSUP"
            assert code(fcntl.ioctl, source, FS_IOC_GETFLAGS, bytes(8)) == "ENOTTY"
        run("cp", "--reflink=auto", place / "a", place / "c")
        assert (place / "c").read_bytes() == b"content"
        with pytest.raises(AssertionError, match="failed to clone"):
            run("cp", "--reflink=always", place / "a", place / "d")


class TestHoles:
    def test_all_is_data_up_to_the_end(self, place: Path) -> None:
        """lseek(2): the kernel's answer for a file system that does not say where holes are."""
        with open(place / "a", "w+b", buffering=0) as file:
            os.pwrite(file.fileno(), b"island", 1 << 20)
            os.ftruncate(file.fileno(), 4 << 20)
            assert os.lseek(file.fileno(), 0, os.SEEK_DATA) == 0
            assert os.lseek(file.fileno(), 5000, os.SEEK_DATA) == 5000
            assert os.lseek(file.fileno(), 5000, os.SEEK_HOLE) == 4 << 20
            for whence in (os.SEEK_DATA, os.SEEK_HOLE):
                assert code(os.lseek, file.fileno(), 4 << 20, whence) == "ENXIO"

    def test_copies_of_sparse_files_are_right_and_sparse(self, shared: MountedDrive, place: Path) -> None:
        with open(place / "a", "wb", buffering=0) as file:
            os.pwrite(file.fileno(), b"island", 10 << 20)
            os.ftruncate(file.fileno(), 30 << 20)
        run("cp", "--sparse=always", place / "a", place / "b")
        run("cmp", place / "a", place / "b")
        shared.sync()
        assert (place / "b").stat().st_blocks * 512 < 1 << 20


class TestSynchronous:
    FLAGS: Final = {"sync": os.O_SYNC, "dsync": os.O_DSYNC}

    def test_a_write_that_returned_outlives_the_mount(self, drive: MountedDrive) -> None:
        """With the file still open: nothing but the write itself made it last."""
        drive.mount()
        descriptors = [
            os.open(drive.mountpoint / name, os.O_CREAT | os.O_WRONLY | flag)
            for name, flag in self.FLAGS.items()
        ]
        for number in range(20):
            for descriptor in descriptors:
                os.write(descriptor, bytes([number]) * 10_000)
        drive.kill()
        assert [code(os.close, descriptor) for descriptor in descriptors] == ["ENOTCONN"] * 2
        drive.remount()
        expected = b"".join(bytes([number]) * 10_000 for number in range(20))
        assert [(drive.mountpoint / name).read_bytes() for name in self.FLAGS] == [expected] * 2

    def test_direct_access_and_the_page_cache_agree(self, shared: MountedDrive, place: Path) -> None:
        path = str(place / "a")
        (place / "a").write_bytes(b"p" * 20_000)
        file_calls.write_direct(path, 4096, b"d" * 8192)
        expected = b"p" * 4096 + b"d" * 8192 + b"p" * (20_000 - 12_288)
        assert (place / "a").read_bytes() == expected
        with open(path, "r+b", buffering=0) as file, mmap.mmap(file.fileno(), 0) as mapped:
            mapped[5000:5003] = b"map"
            assert file_calls.read_direct(path, 4096, 4096)[904:907] == b"map"
            file_calls.write_direct(path, 8192, b"e" * 4096)
            assert mapped[8190:8194] == b"ddee"
        shared.sync()
        assert file_calls.read_direct(path, 16_384, 8192) == b"p" * (20_000 - 16_384)
        file_calls.write_direct(path, 3, b"odd")
        assert file_calls.read_direct(path, 1, 7) == b"ppoddpp"


class TestLargest:
    def test_a_path_of_4095_bytes_and_no_more(self, place: Path) -> None:
        path = os.fsencode(place)
        while len(path) + 256 < PATH_MAX - 2:
            path += b"/" + b"n" * min(255, PATH_MAX - 4 - len(path))
            os.mkdir(path)
        longest = path + b"/" + b"f" * (PATH_MAX - 2 - len(path))
        assert len(longest) == PATH_MAX - 1
        with open(longest, "xb") as file:
            file.write(b"deep")
        os.rename(longest, longest[:-1] + b"g")
        with open(longest[:-1] + b"g", "rb") as file:
            assert file.read() == b"deep"
        assert code(os.stat, longest + b"f") == "ENAMETOOLONG"

    def test_folders_deeper_than_any_path(self, place: Path) -> None:
        depth, descriptor = 60, os.open(place, os.O_DIRECTORY)
        for _ in range(depth):
            os.mkdir("n" * 255, dir_fd=descriptor)
            below = os.open("n" * 255, os.O_DIRECTORY, dir_fd=descriptor)
            os.close(descriptor)
            descriptor = below
        os.close(os.open("bottom", os.O_CREAT | os.O_WRONLY, dir_fd=descriptor))
        os.close(descriptor)
        assert len(run("find", place, "-depth", "-printf", ".")) == depth + 2
        run("rm", "-r", place)

    @pytest.mark.soak
    def test_65_000_links(self, drive: MountedDrive) -> None:
        count = 65_000
        drive.mount()
        (drive.mountpoint / "0").write_bytes(b"content")
        for number in range(1, count):
            os.link(drive.mountpoint / "0", drive.mountpoint / f"{number}")
        drive.umount()
        drive.mount()
        for number in (0, 1, count - 1):
            found = drive.mountpoint / f"{number}"
            assert (found.stat().st_nlink, found.read_bytes()) == (count, b"content")
        for number in range(1, count):
            (drive.mountpoint / f"{number}").unlink()
        assert (drive.mountpoint / "0").stat().st_nlink == 1


class TestRangeOfTimes:
    TIMES: Final = {
        "1901": OLDEST,
        "1969": -1,
        "1970": 0,
        "2038": (1 << 31) * 10**9 + 1,
        "2262": (1 << 63) - 1,
        "2262 later": 1 << 63,
        "2446": NEWEST - 1,
        "2446 last": NEWEST,
    }
    CLAMPED: Final = {"1677": (-(1 << 63), OLDEST), "2500": (16_725_225_600 * 10**9, NEWEST)}

    def times_of(self, folder: Path) -> dict[str, tuple[int, int]]:
        return {path.name: self.times(path) for path in folder.iterdir()}

    @staticmethod
    def times(path: Path) -> tuple[int, int]:
        found = path.lstat()
        return found.st_atime_ns, found.st_mtime_ns

    def test_now_after_a_remount_without_a_cache_and_in_the_past(self, drive: MountedDrive) -> None:
        """What is out of range becomes the nearest, of files when the kernel, which owns their times while it
        has them in memory, has forgotten them."""
        drive.mount("noatime")
        for name, (wish, _) in self.CLAMPED.items():
            (drive.mountpoint / name).touch()
            os.utime(drive.mountpoint / name, ns=(wish, wish))
        make: dict[str, Callable[[Path], object]] = {
            "file": lambda path: path.write_bytes(b"content"),
            "folder": Path.mkdir,
            "link": lambda path: path.symlink_to("nowhere"),
        }
        expected = {kind: {name: (time, time) for name, time in self.TIMES.items()} for kind in make}
        for kind, making in make.items():
            (drive.mountpoint / kind).mkdir()
            for name, time in self.TIMES.items():
                making(drive.mountpoint / kind / name)
                os.utime(drive.mountpoint / kind / name, ns=(time, time), follow_symlinks=False)
            assert self.times_of(drive.mountpoint / kind) == expected[kind]
        drive.umount()
        drive.wipe_cache()
        drive.mount("noatime")
        for name, (_, kept) in self.CLAMPED.items():
            assert self.times(drive.mountpoint / name) == (kept, kept)
        for kind in make:
            assert self.times_of(drive.mountpoint / kind) == expected[kind]
        run("rm", "-r", *(drive.mountpoint / kind for kind in make))
        drive.sync()
        before = sorted((drive.mountpoint / ".versions").iterdir())[-2]
        for kind in make:
            assert self.times_of(before / kind) == expected[kind]

"""Many processes on one mount: interrupted, killed in the middle of a call, waiting for locks, watching."""

from __future__ import annotations

import ctypes
import fcntl
import os
import resource
import select
import signal
import struct
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import pytest

from tests.mount.mounted import MountedDrive, run
from tests.waiting import wait_until

pytestmark = pytest.mark.mount

libc = ctypes.CDLL(None, use_errno=True)

# Each call is made once: one that was done and then told to have been interrupted would fail when repeated.
INTERRUPTED: Final = """
import os, signal, sys
folder, came = sys.argv[1], 0
def count(*_):
    global came
    came += 1
signal.signal(signal.SIGALRM, count)
signal.setitimer(signal.ITIMER_REAL, 0.0005, 0.0005)
round = 0
while round < 30 or came < 50:
    data = bytes([round % 256]) * 50_000
    file = os.open(f"{folder}/new", os.O_CREAT | os.O_EXCL | os.O_RDWR)
    assert os.write(file, data) == len(data)
    os.fsync(file)
    os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)
    assert os.pread(file, 60_000, 0) == data
    os.close(file)
    os.rename(f"{folder}/new", f"{folder}/old")
    os.link(f"{folder}/old", f"{folder}/other")
    os.unlink(f"{folder}/old")
    os.mkdir(f"{folder}/folder")
    os.rename(f"{folder}/other", f"{folder}/folder/other")
    os.unlink(f"{folder}/folder/other")
    os.rmdir(f"{folder}/folder")
    round += 1
signal.setitimer(signal.ITIMER_REAL, 0)
"""

# Says a byte when it is in full swing, and goes on until it is killed.
ENDLESS: Final = """
import os, sys
folder, number = sys.argv[1:]
log = os.open(f"{folder}/log {number}", os.O_CREAT | os.O_WRONLY)
at = 0
while True:
    for _ in range(20):
        line = f"{at:015}\\n".encode() * 100
        os.pwrite(log, line, at)
        at += len(line)
    os.fsync(log)
    os.close(os.open(f"{folder}/a {number}", os.O_CREAT | os.O_WRONLY))
    os.rename(f"{folder}/a {number}", f"{folder}/b {number}")
    os.listdir(folder)
    os.unlink(f"{folder}/b {number}")
    if at == 96_000:
        print(end=".", flush=True)
"""

FORKING: Final = """
import fcntl, os, sys
folder, count = sys.argv[1], int(sys.argv[2])
def work(number):
    own = f"{folder}/own {number}"
    os.mkdir(own)
    for each in range(5):
        with open(f"{own}/{each}", "w+b") as file:
            file.write(f"{number} {each}".encode() * 1000)
            file.seek(0)
            assert file.read() == f"{number} {each}".encode() * 1000
        os.rename(f"{own}/{each}", f"{folder}/all/{number} {each}")
    os.rmdir(own)
    line = os.open(f"{folder}/lines", os.O_WRONLY | os.O_APPEND)
    os.write(line, f"{number}\\n".encode())
    counter = os.open(f"{folder}/counter", os.O_RDWR)
    fcntl.lockf(counter, fcntl.LOCK_EX)
    value = int(os.pread(counter, 20, 0) or b"0")
    os.pwrite(counter, str(value + 1).encode(), 0)
    fcntl.lockf(counter, fcntl.LOCK_UN)
def child(number):
    try:
        work(number)
        os._exit(0)
    finally:
        os._exit(1)
children = [os.fork() or child(number) for number in range(count)]
sys.exit(any(os.waitpid(each, 0)[1] for each in children))
"""

OPEN_MANY: Final = """
import os, resource, sys
folder, count = sys.argv[1], int(sys.argv[2])
resource.setrlimit(resource.RLIMIT_NOFILE, (count + 100, count + 100))
files = [os.open(f"{folder}/{number}", os.O_CREAT | os.O_RDWR) for number in range(count)]
for number, file in enumerate(files):
    os.pwrite(file, str(number).encode(), number)
    if number % 2:
        os.unlink(f"{folder}/{number}")
for number, file in enumerate(files):
    text = str(number).encode()
    assert os.pread(file, 100_000, 0) == bytes(number) + text
    assert os.fstat(file).st_nlink == 1 - number % 2
"""

HOLD_LOCK: Final = """
import fcntl, sys
file = open(sys.argv[1], "r+b")
getattr(fcntl, sys.argv[2])(file, fcntl.LOCK_EX)
print(end=".", flush=True)
sys.stdin.read()
"""


@contextmanager
def started(program: str, *arguments: str | Path) -> Iterator[subprocess.Popen[bytes]]:
    """The program, when it has said its first byte; killed at the end."""
    process = subprocess.Popen(
        [sys.executable, "-c", program, *map(str, arguments)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    with process:
        assert process.stdout is not None
        try:
            assert process.stdout.read(1) == b"."
            yield process
        finally:
            process.kill()


def test_signals_interrupt_no_call(place: Path) -> None:
    processes = []
    for number in range(4):
        (place / f"{number}").mkdir()
        processes.append(subprocess.Popen([sys.executable, "-c", INTERRUPTED, place / f"{number}"]))
    assert [process.wait(120) for process in processes] == [0] * 4


def test_processes_killed_in_the_middle_of_calls(drive: MountedDrive) -> None:
    """The mount goes on, says nothing of it, and what they wrote is a beginning of what they meant to."""
    drive.mount()
    for turn in range(3):
        folder = drive.mountpoint / f"{turn}"
        folder.mkdir()
        kill_in_the_middle(folder, 8)
        for log in folder.glob("log *"):
            content = log.read_bytes()
            lines = b"".join(f"{at:015}\n".encode() * 100 for at in range(0, len(content), 1600))
            assert len(content) >= 96_000
            assert content == lines[: len(content)]
    drive.sync()
    assert drive.status().problem == ""
    assert "ERROR" not in drive.log()
    drive.umount()


def kill_in_the_middle(folder: Path, count: int) -> None:
    processes = [
        subprocess.Popen([sys.executable, "-c", ENDLESS, folder, f"{number}"], stdout=subprocess.PIPE)
        for number in range(count)
    ]
    try:
        for process in processes:
            assert process.stdout is not None
            assert process.stdout.read(1) == b"."
    finally:
        for process in processes:
            process.kill()
            process.communicate()


def test_200_processes_at_once(place: Path) -> None:
    count = 200
    (place / "all").mkdir()
    (place / "lines").touch()
    (place / "counter").touch()
    run(sys.executable, "-c", FORKING, place, f"{count}")
    names = {f"{number} {each}" for number in range(count) for each in range(5)}
    assert set(os.listdir(place / "all")) == names
    assert all((place / "all" / name).read_text() == name * 1000 for name in names)
    assert sorted(map(int, (place / "lines").read_text().split())) == [*range(count)]
    assert (place / "counter").read_text() == f"{count}"


@pytest.mark.skipif(
    os.geteuid() != 0 and resource.getrlimit(resource.RLIMIT_NOFILE)[1] < 10_100,
    reason="this user may not open so many files",
)
def test_10_000_open_files(shared: MountedDrive, place: Path) -> None:
    run(sys.executable, "-c", OPEN_MANY, place, "10000")
    assert len(os.listdir(place)) == 5_000
    if os.geteuid() == 0:  # nobody else may look into the process of a mount
        assert len(os.listdir(f"/proc/{shared.process_id}/fd")) < 500


class TestLocks:
    @pytest.mark.parametrize("kind", ["flock", "lockf"])
    def test_a_lock_ends_with_its_process(self, place: Path, kind: str) -> None:
        path = place / "a"
        path.touch()
        with open(path, "r+b") as file, started(HOLD_LOCK, path, kind) as holder:
            with pytest.raises(BlockingIOError):
                getattr(fcntl, kind)(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            holder.kill()
            getattr(fcntl, kind)(file, fcntl.LOCK_EX)  # waits until it is gone

    def test_ranges_exclude_each_other_only_where_they_meet(self, place: Path) -> None:
        path = place / "a"
        path.touch()
        ranges = "import fcntl, sys; f = open(sys.argv[1], 'r+b')\n" + "\n".join(
            f"try: fcntl.lockf(f, fcntl.LOCK_{kind} | fcntl.LOCK_NB, {length}, {start}); print('ok')\n"
            f"except BlockingIOError: print('no')"
            for kind, start, length in (("EX", 0, 10), ("EX", 5, 10), ("SH", 20, 5), ("EX", 20, 5))
        )
        with open(path, "r+b") as file:
            fcntl.lockf(file, fcntl.LOCK_EX, 10, 10)
            fcntl.lockf(file, fcntl.LOCK_SH, 10, 20)
            assert run(sys.executable, "-c", ranges, path).split() == ["ok", "no", "ok", "no"]

    def test_two_that_wait_for_each_other_are_told(self, place: Path) -> None:
        path = place / "a"
        path.touch()
        second = (
            "import fcntl, sys; f = open(sys.argv[1], 'r+b')\n"
            "fcntl.lockf(f, fcntl.LOCK_EX, 1, 1); print(end='.', flush=True)\n"
            "sys.stdin.read(1)\n"
            "fcntl.lockf(f, fcntl.LOCK_EX, 1, 0)"
        )
        with open(path, "r+b") as file, started(second, path) as other:
            assert other.stdin is not None
            fcntl.lockf(file, fcntl.LOCK_EX, 1, 0)
            other.stdin.write(b".")
            other.stdin.flush()
            wait_until_blocked(other.pid)
            with pytest.raises(OSError, match="deadlock"):
                fcntl.lockf(file, fcntl.LOCK_EX, 1, 1)
            fcntl.lockf(file, fcntl.LOCK_UN)
            assert other.wait(60) == 0


def wait_until_blocked(process: int) -> None:
    """Until /proc/locks shows that `process` waits for a lock."""
    wait_until(lambda: any("->" in line and int(line.split()[5]) == process for line in held_and_waiting()))


def held_and_waiting() -> list[str]:
    return Path("/proc/locks").read_text().splitlines()


class TestWatching:
    """inotify(7): the kernel sees what goes through it, which is all that this machine does."""

    NAMES: Final = {0x2: "modify", 0x8: "close", 0x20: "open", 0x40: "from", 0x80: "to", 0x100: "create"}
    DELETE: Final = 0x200

    def events(self, descriptor: int) -> list[tuple[int, str]]:
        """All that came so far: (mask, name)."""
        found = []
        while select.select([descriptor], [], [], 0)[0]:
            data = os.read(descriptor, 65_536)
            while data:
                _, mask, _, length = struct.unpack_from("iIII", data)
                found.append((mask, data[16 : 16 + length].rstrip(b"\0").decode()))
                data = data[16 + length :]
        return found

    def test_changes_of_a_folder_are_told(self, place: Path) -> None:
        descriptor = libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
        assert descriptor >= 0
        wanted = sum(self.NAMES) | self.DELETE
        assert libc.inotify_add_watch(descriptor, os.fsencode(place), wanted) > 0
        run("sh", "-c", 'echo new > "$0/a"; mv "$0/a" "$0/b"; echo more >> "$0/b"; rm "$0/b"', place)
        events = self.events(descriptor)
        os.close(descriptor)
        assert [(self.NAMES.get(mask, "delete"), name) for mask, name in events] == [
            *(("create", "a"), ("open", "a"), ("modify", "a"), ("close", "a")),
            *(("from", "a"), ("to", "b")),
            *(("open", "b"), ("modify", "b"), ("close", "b"), ("delete", "b")),
        ]


def test_a_stopped_process_holds_nobody_up(place: Path) -> None:
    """SIGSTOP in the middle of its calls: others go on, and so does it when it is told to."""
    with started(ENDLESS, place, "0") as process:
        process.send_signal(signal.SIGSTOP)
        (place / "other").write_bytes(b"x" * 100_000)
        assert (place / "other").read_bytes() == b"x" * 100_000
        before = (place / "log 0").stat().st_size
        process.send_signal(signal.SIGCONT)
        while (place / "log 0").stat().st_size <= before:
            os.sched_yield()

"""What stat(2) says of a file's times is what it says for ever, until the file is changed the next time; and
what happens later is stamped later. Programs decide by it what to build and what to back up.
"""

from __future__ import annotations

import mmap
import os
import random
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import pytest

from tests.contents import KINDS, content
from tests.mount.mounted import MountedDrive, run

pytestmark = [pytest.mark.mount, pytest.mark.alone]

SEED: Final = int(os.environ.get("SEED", "1"))
EACH: Final = 6
"""files that are made in each way: the kernel's clock goes in steps, and each meets it elsewhere"""
LARGE: Final = 3 << 20
_COARSE: Final = 5
"""CLOCK_REALTIME_COARSE (clock_gettime(2)): it steps when the kernel's clock for files does."""

Times = dict[str, tuple[int, int]]
Way = Callable[[Path, bytes], object]


def times(top: Path) -> Times:
    """(mtime, ctime) of each inode below `top`, by path; hard links and folders too."""
    found = {}
    for base, folders, names in os.walk(top):
        for name in (*folders, *names, "."):
            entry = os.lstat(os.path.join(base, name))
            found[os.path.relpath(os.path.join(base, name), top)] = entry.st_mtime_ns, entry.st_ctime_ns
    return found


# Ways to write a file. `path` is new, `data` not empty.


def written(path: Path, data: bytes) -> None:
    path.write_bytes(data)


def empty(path: Path, _data: bytes) -> None:
    path.touch()


def fsynced(path: Path, data: bytes) -> None:
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
        file.write(data)


def appended(path: Path, data: bytes) -> None:
    written(path, data)
    with path.open("ab") as file:
        file.write(data)


def updated(path: Path, data: bytes) -> None:
    written(path, data)
    with path.open("r+b") as file:
        file.write(b"y")


def rewritten(path: Path, data: bytes) -> None:
    written(path, data)
    written(path, data)


def emptied(path: Path, data: bytes) -> None:
    written(path, data)
    os.close(os.open(path, os.O_WRONLY | os.O_TRUNC))


def truncated(path: Path, data: bytes) -> None:
    written(path, data)
    os.truncate(path, len(data) // 2)


def mapped(path: Path, data: bytes) -> None:
    with path.open("w+b") as file:
        file.truncate(len(data))
        with mmap.mmap(file.fileno(), len(data)) as window:
            window[: len(data)] = data


def mapped_after_close(path: Path, data: bytes) -> None:
    with path.open("w+b") as file:
        file.write(data)
        file.flush()
        window = mmap.mmap(file.fileno(), len(data))
    window[0:1] = b"m"
    window.close()


def sparse(path: Path, data: bytes) -> None:
    with path.open("wb") as file:
        file.write(data)
        file.seek(1 << 24)
        file.write(data)


def direct(path: Path, data: bytes) -> None:
    descriptor = os.open(path, os.O_CREAT | os.O_WRONLY | os.O_DIRECT)
    try:
        with mmap.mmap(-1, 8192) as aligned:
            aligned[: len(data[:8192])] = data[:8192]
            os.write(descriptor, aligned)
    finally:
        os.close(descriptor)


def copied(path: Path, data: bytes) -> None:
    source = path.with_name(path.name + ".source")
    written(source, data)
    with source.open("rb") as reader, path.open("wb") as writer:
        os.copy_file_range(reader.fileno(), writer.fileno(), len(data))


def saved(path: Path, data: bytes) -> None:
    other = path.with_name(path.name + "~")
    written(path, data)
    written(other, data)
    os.replace(other, path)


def linked(path: Path, data: bytes) -> None:
    written(path, data)
    os.link(path, path.with_name(path.name + ".link"))


def linked_while_open(path: Path, data: bytes) -> None:
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.link(path, path.with_name(path.name + ".link"))


def unlinked(path: Path, data: bytes) -> None:
    linked(path, data)
    path.with_name(path.name + ".link").unlink()


def protected(path: Path, data: bytes) -> None:
    written(path, data)
    path.chmod(0o600)


def dated(path: Path, data: bytes) -> None:
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.utime(path, ns=(1_234_567_890_123_456_789, 1_123_456_789_987_654_321))


def attributed(path: Path, data: bytes) -> None:
    written(path, data)
    os.setxattr(path, "user.note", b"a note")
    os.setxattr(path, "user.other", b"another")
    os.removexattr(path, "user.other")


def by_two(path: Path, data: bytes) -> None:
    with path.open("wb") as one, path.open("r+b") as other:
        one.write(data)
        one.flush()
        other.write(b"z")


WAYS: Final[tuple[Way, ...]] = (
    *(written, empty, fsynced, appended, updated, rewritten, emptied, truncated, mapped, mapped_after_close),
    *(
        sparse,
        direct,
        copied,
        saved,
        linked,
        linked_while_open,
        unlinked,
        protected,
        dated,
        attributed,
        by_two,
    ),
)


def write_all(top: Path, seed: int) -> None:
    """Files written in all ways, in a random order, and of all kinds and many sizes."""
    source = random.Random(seed)
    work = [way for way in WAYS for _ in range(EACH)]
    source.shuffle(work)
    for number, way in enumerate(work):
        largest = LARGE if source.random() < 0.05 else 20_000
        kind, size = source.choice(KINDS), source.randint(2, largest)
        way(top / f"{way.__name__}-{number}", content(kind, size, number))


def moved(before: Times, after: Times) -> dict[str, tuple[int, int]]:
    """By how many nanoseconds the times differ, where they do."""
    assert before.keys() == after.keys()
    return {
        name: (after[name][0] - before[name][0], after[name][1] - before[name][1])
        for name in before
        if before[name] != after[name]
    }


@pytest.fixture(params=["100ms", "1h"])
def mounted(drive: MountedDrive, request: pytest.FixtureRequest) -> MountedDrive:
    """A mounted drive that publishes all the time, or never by itself."""
    drive.mount(f"commit_interval={request.param}")
    return drive


def forget(mounted: MountedDrive) -> None:
    """Have the kernel forget the inodes."""
    mounted.sync()
    Path("/proc/sys/vm/drop_caches").write_text("2")


def kill(mounted: MountedDrive) -> None:
    os.statvfs(mounted.mountpoint)  # answered after all that was sent before
    mounted.kill()
    mounted.remount()


def remount(mounted: MountedDrive) -> None:
    mounted.umount()
    mounted.mount()


def remount_without_a_cache(mounted: MountedDrive) -> None:
    mounted.umount()
    mounted.wipe_cache()
    mounted.mount()


def test_times_stay_whatever_happens(mounted: MountedDrive) -> None:
    top = mounted.mountpoint / "top"
    top.mkdir()
    write_all(top, SEED)
    before = times(top)
    for event in (kill, remount, remount_without_a_cache):
        event(mounted)
        assert moved(before, times(top)) == {}, event.__name__


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can have the kernel forget inodes")
def test_times_stay_when_the_kernel_forgets(mounted: MountedDrive) -> None:
    top = mounted.mountpoint / "top"
    top.mkdir()
    write_all(top, SEED + 1)
    before = times(top)
    forget(mounted)
    assert moved(before, times(top)) == {}


# As on a local disk


def wait_for_a_step() -> None:
    """Return when the kernel's coarse clock has gone past every stamp that was given before. It lags behind
    the exact clock by up to two ticks, and files may have exact stamps."""
    start = time.time_ns()
    while time.clock_gettime_ns(_COARSE) <= start:
        time.sleep(0.0005)


class Steps:
    """The same random steps in two folders, one of them on the drive."""

    def __init__(self, seed: int) -> None:
        self._source = random.Random(seed)
        self._names = [f"f{number}" for number in range(6)]

    def __iter__(self) -> Iterator[Callable[[Path], object]]:
        while True:
            yield self._step()

    def _step(self) -> Callable[[Path], object]:
        source = self._source
        name, other = source.sample(self._names, 2)
        number = source.randint(0, 1 << 30)
        data = content(source.choice(KINDS), source.randint(1, 9000), number)
        return source.choice(
            [
                lambda top: source_free(top / name).write_bytes(data),
                lambda top: _append(top / name, data),
                lambda top: os.truncate(top / name, number % 5000),
                lambda top: os.rename(top / name, top / other),
                lambda top: os.link(top / name, top / other),
                lambda top: os.unlink(top / name),
                lambda top: os.chmod(top / name, 0o700 + number % 0o100),
                lambda top: os.chown(top / name, -1, -1),
                lambda top: os.utime(top / name),
                lambda top: os.utime(top / name, ns=(number * 10**9, number * 10**9 + number)),
                lambda top: os.setxattr(top / name, "user.x", b"%d" % number),
                lambda top: os.removexattr(top / name, "user.x"),
                lambda top: (top / name).mkdir(),
                lambda top: (top / name).rmdir(),
                lambda top: (top / name).symlink_to(other),
                lambda top: os.mkfifo(top / name),
                lambda top: os.close(os.open(top / name, os.O_WRONLY | os.O_TRUNC | os.O_NONBLOCK)),
                lambda top: os.close(os.open(top / name, os.O_RDONLY | os.O_NONBLOCK)),
                lambda top: (top / name).read_bytes() if (top / name).is_file() else None,
            ]
        )


def source_free(path: Path) -> Path:
    """`path`, if to open it does not wait: not a FIFO."""
    if path.is_fifo():
        raise FileExistsError(path)
    return path


def _append(path: Path, data: bytes) -> None:
    with source_free(path).open("ab") as file:
        file.write(data)


def outcome(step: Callable[[Path], object], top: Path) -> int:
    """0, or the errno."""
    try:
        step(top)
    except OSError as error:
        return error.errno or -1
    return 0


def changed(before: Times, after: Times) -> set[tuple[str, int]]:
    """Which times of which paths are others than before."""
    return {
        (name, which)
        for name, found in after.items()
        for which in (0, 1)
        if name not in before or before[name][which] != found[which]
    }


def test_the_same_times_change_as_on_a_local_disk(drive: MountedDrive) -> None:
    drive.mount("commit_interval=100ms")
    top, local = drive.mountpoint / "top", drive.folder / "local"
    top.mkdir()
    local.mkdir()
    before = times(top), times(local)
    for number, step in zip(range(400), Steps(SEED), strict=False):
        wait_for_a_step()
        assert outcome(step, top) == outcome(step, local), number
        after = times(top), times(local)
        assert changed(before[0], after[0]) == changed(before[1], after[1]), number
        before = after


def test_later_is_not_earlier(drive: MountedDrive) -> None:
    """Without a pause in between, so that the steps of the kernel's clock are met anywhere."""
    drive.mount("commit_interval=100ms")
    top = drive.mountpoint / "top"
    top.mkdir()
    newest, before = 0, times(top)
    for number, step in zip(range(2000), Steps(SEED + 1), strict=False):
        outcome(step, top)
        after = times(top)
        stamps = [after[name][1] for name, which in changed(before, after) if which == 1]
        stamps += [after["."][0]] if before["."][0] != after["."][0] else []
        assert all(stamp >= newest for stamp in stamps), number
        newest, before = max([newest, *stamps]), after
    drive.umount()
    drive.mount()
    assert moved(before, times(top)) == {}


# Programs


def test_make_is_done_once(place: Path) -> None:
    """Each target is made from the one before, in turn by a program that writes and by one that does not."""
    if shutil.which("make") is None:
        pytest.skip("make is not installed")
    ways = [": >", "echo text >", "cp -f first", "mkdir -p", "mkfifo"]
    count = 300
    lines = []
    for number in range(1, count + 1):
        lines += [f"t{number}: t{number - 1}", f"\t@{ways[number % len(ways)]} t{number}"]
    (place / "first").write_text("first")
    (place / "t0").write_text("start")
    (place / "Makefile").write_text("\n".join([*lines, ""]))
    run("make", "-s", f"t{count}", cwd=place)
    assert "is up to date" in run("make", f"t{count}", cwd=place)


def by_tar(top: Path, folder: Path) -> str:
    """An incremental archive: the files in it. Folders are in each."""
    records, archive = folder / "records", folder / "archive"
    arguments = ["--no-check-device", "-g", str(records), "-cf", str(archive)]
    run("tar", *arguments, "-C", str(top.parent), top.name)
    return "".join(name for name in run("tar", "-tf", archive).splitlines(True) if not name.endswith("/\n"))


def by_rsync(top: Path, folder: Path) -> str:
    """What a copy lacks, which it is given then."""
    return run("rsync", "-a", "--itemize-changes", f"{top}/", f"{folder}/copy/")


def by_restic(top: Path, folder: Path) -> str:
    """The new and changed files of a backup."""
    environment = {**os.environ, "RESTIC_PASSWORD": "a", "RESTIC_REPOSITORY": str(folder / "repository")}
    if not (folder / "repository").exists():
        run("restic", "init", env=environment)
    said = run("restic", "backup", "--no-cache", "--verbose=2", top, env=environment)
    return "".join(
        line
        for line in said.splitlines(True)
        if line.startswith(("new ", "modified ")) and not line.split(",")[0].endswith("/")
    )


@pytest.mark.parametrize("take", [by_tar, by_rsync, by_restic])
def test_a_backup_takes_nothing_again(drive: MountedDrive, take: Callable[[Path, Path], str]) -> None:
    program = take.__name__.removeprefix("by_")
    if shutil.which(program) is None:
        pytest.skip(f"{program} is not installed")
    drive.mount("commit_interval=100ms")
    top = drive.mountpoint / "top"
    top.mkdir()
    write_all(top, SEED + 2)
    wait_for_a_step()
    assert "written-" in take(top, drive.folder)
    assert take(top, drive.folder) == ""
    drive.umount()
    drive.mount()
    assert take(top, drive.folder) == ""

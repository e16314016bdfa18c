"""SIGKILL of the mount: whatever close() or fsync() returned for is there afterwards, with no exception.

Zero losses in N kills bound the loss per kill at about 3/N (95 %); `make soak` adds to N.
"""

from __future__ import annotations

import errno
import os
import random
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest

from tests import contents
from tests.crash import load
from tests.mount.conftest import drive, fuse, unmade_drive
from tests.mount.mounted import ROOT, MountedDrive, wait_for_end
from tests.waiting import wait_until

__all__ = ["drive", "fuse", "unmade_drive"]

pytestmark = [pytest.mark.mount, pytest.mark.timeout(170)]

WRITERS = 3
OPTIONS = ("commit_interval=200ms",)
FAILPOINTS = [
    "ledger.cut*1",
    "ledger.extents*3",
    "ledger.published*1",
    "ledger.checkpointed*1",
    "blocks.after-index*1",
    "commit.after-first-copy*2",  # one adds the device, one comes as soon as the mount answers
    "journal.appended*100",
    "journal.synced*5",
    pytest.param("ledger.saved*2", marks=pytest.mark.soak),
    pytest.param("sealer.sealed*2", marks=pytest.mark.soak),
    pytest.param("blocks.after-quorum", marks=pytest.mark.soak),
    pytest.param("commit.before-copies*2", marks=pytest.mark.soak),
    pytest.param("commit.after-copies*2", marks=pytest.mark.soak),
    pytest.param("node.after-write*7", marks=pytest.mark.soak),
]


class Rounds:
    """Load on a drive, and the manifests of all rounds so far."""

    def __init__(self, drive: MountedDrive) -> None:
        self.drive = drive
        self._manifests: list[tuple[str, Path]] = []

    @contextmanager
    def load(self, seed: int) -> Iterator[list[subprocess.Popen[str]]]:
        """Writers at work. They end with the mount, or are ended when the block is left."""
        # All folders first: at some steps the mount is killed as soon as something has changed.
        places = [self._place(seed * 100 + number) for number in range(WRITERS)]
        writers: list[subprocess.Popen[str]] = []
        try:
            writers += [self._writer(*place) for place in places]
            yield writers
        finally:
            for writer in writers:
                writer.kill()
                writer.communicate()

    def _place(self, seed: int) -> tuple[str, Path, int]:
        name = f"writer-{seed}"
        manifest = self.drive.folder / f"{name}.manifest"
        (self.drive.mountpoint / name).mkdir()
        self._manifests.append((name, manifest))
        return name, manifest, seed

    def _writer(self, name: str, manifest: Path, seed: int) -> subprocess.Popen[str]:
        command = [
            sys.executable,
            "-m",
            load.__name__,
            *map(str, (self.drive.mountpoint / name, manifest, seed)),
        ]
        return subprocess.Popen(
            command, cwd=ROOT, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
        )

    def wait_for_changes(self, count: int) -> None:
        """Return when each writer of this round has had `count` changes acknowledged."""
        for _, manifest in self._manifests[-WRITERS:]:
            wait_until(partial(has_changes, manifest, count))

    def check(self, latest: int | None = None) -> int:
        """Compare with the manifests of the last `latest` rounds (all); how many changes they tell of."""
        seen = self._manifests[-WRITERS * latest :] if latest else self._manifests
        wrong = [line for name, path in seen for line in load.survived(self.drive.mountpoint / name, path)]
        assert wrong == []
        return sum(load.Manifest.read(path).changes for _, path in seen)

    def forget(self) -> None:
        """Remove the folders of all rounds but the last: the drive need not grow without end."""
        for name, manifest in self._manifests[:-WRITERS]:
            for path in (self.drive.mountpoint / name).iterdir():
                path.unlink()
            (self.drive.mountpoint / name).rmdir()
            manifest.unlink()
        del self._manifests[:-WRITERS]


def has_changes(manifest: Path, count: int) -> bool:
    return manifest.exists() and load.Manifest.read(manifest).changes >= count


def test_close_says_that_the_mount_is_gone(drive: MountedDrive) -> None:
    """Regression: without FLUSH the kernel dropped pages that it had not sent yet, and close() returned 0. At
    close it tells the times of a file by a request of its own, and so met the end of the mount, but not where
    write() came in the tick of its clock that create() had told."""
    drive.mount()
    data = contents.content("text", 20_000, "not sent")
    paths = [drive.mountpoint / f"{number}" / "file" for number in range(50)]
    opened = [created(path, data) for path in paths]
    drive.kill()
    said = [error_of(partial(os.close, descriptor)) for descriptor in opened]
    drive.remount()
    there = [path.read_bytes() == data for path in paths]
    told = [is_there or error == errno.ENOTCONN for is_there, error in zip(there, said, strict=True)]
    assert told == [True] * len(paths)
    assert not all(there), "the kernel had sent everything before"


def created(path: Path, data: bytes) -> int:
    """The descriptor of a new file, in a new folder, that has been written to."""
    path.parent.mkdir()
    path.with_name("before").write_bytes(b"")
    descriptor = os.open(path, os.O_CREAT | os.O_WRONLY, 0o644)
    assert os.pwrite(descriptor, data, 0) == len(data)
    return descriptor


def error_of(call: Callable[[], None]) -> int:
    """The errno that it fails with; 0 if it does not."""
    try:
        call()
    except OSError as error:
        return error.errno or 0
    return 0


def kill_at_random(drive: MountedDrive, kills: int, seed: int) -> int:
    """`kills` rounds of load, SIGKILL, remount, comparison; how many changes survived in all."""
    rounds, moments, changes = Rounds(drive), random.Random(seed), 0
    drive.mount(*OPTIONS)
    for number in range(kills):
        with rounds.load(seed + number):
            rounds.wait_for_changes(1)
            time.sleep(moments.uniform(0, 1.5))  # the moment is the point
            drive.kill()
        drive.remount(*OPTIONS)
        changes += rounds.check(latest=1)
        if number % 10 == 9:
            rounds.check()
            rounds.forget()
    drive.umount()
    drive.wipe_cache()
    drive.mount()
    rounds.check()
    return changes


def test_what_was_acknowledged_survives_sigkill(drive: MountedDrive) -> None:
    seed = int(os.environ.get("KILL_SEED", random.randrange(1 << 30)))
    print(f"KILL_SEED={seed}")
    assert kill_at_random(drive, int(os.environ.get("KILLS", "8")), seed) > 100


def test_what_was_synced_survives_sigkill_and_the_loss_of_the_cache(drive: MountedDrive) -> None:
    drive.mount(*OPTIONS)
    rounds = Rounds(drive)
    with rounds.load(7):
        rounds.wait_for_changes(30)
    # A writer that was killed in the middle of a call may leave EINTR behind, of which syncfs(2) tells once.
    drive.tool("drivefs", "sync", drive.mountpoint)
    drive.sync()
    drive.kill()
    drive.wipe_cache()
    drive.remount()
    rounds.check()


@pytest.mark.parametrize("place", FAILPOINTS)
def test_killed_at_a_named_step(drive: MountedDrive, place: str) -> None:
    name, _, skip = place.partition("*")
    seen = drive.folder / "seen"
    drive.environment = {
        "DRIVEFS_FAILPOINTS": f"{name}=kill*{skip or 0}",
        "DRIVEFS_FAILPOINTS_SEEN": str(seen),
    }
    drive.mount(*OPTIONS)
    assert drive.process_id is not None
    rounds = Rounds(drive)
    with rounds.load(len(place)) as writers:
        wait_for_end(drive.process_id)
        for writer in writers:
            assert writer.wait(30) != 0
    assert seen.read_text() == f"{name}\n"
    drive.environment = {}
    drive.remount(*OPTIONS)
    rounds.check()
    drive.umount()
    drive.wipe_cache()
    drive.mount()
    rounds.check()

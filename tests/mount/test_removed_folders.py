"""Cleaners: cache and state folder, or parts of them, are removed at any moment, mounted or not.

The cache folder may be lost at any time without a word. The state folder may not: where it is removed under a
mount all that the process holds is stored, and sync, umount and status say so; where it is removed while
nothing is mounted, what was only there is lost, and mounting says so.
"""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import pytest

from tests.contents import KINDS, content
from tests.mount.mounted import MountedDrive, succeed, wait_for_end
from tests.waiting import wait_until

pytestmark = pytest.mark.mount
SEEDS: Final = range(3)
NOTICE_SECONDS: Final = 1.0
SLACK: Final = 2.0
"""For a machine that has other things to do."""


class Writer:
    """Writes files of all kinds, some fsynced, and remembers what each must be."""

    def __init__(self, folder: Path, seed: int) -> None:
        self._folder = folder
        self._chance = random.Random(seed)
        self.number = 0
        self.written: dict[str, bytes] = {}

    def write(self, count: int) -> None:
        """So many more."""
        for _ in range(count):
            self.number += 1
            kind, size = self._chance.choice(KINDS), self._chance.choice((0, 100, 5_000, 70_000, 1_500_000))
            name, data = f"file {self.number}", content(kind, size, self.number)
            with open(self._folder / name, "wb") as file:
                file.write(data)
                file.flush()
                if self._chance.random() < 0.3:
                    os.fsync(file.fileno())
            self.written[name] = data
            if self._chance.random() < 0.2:
                gone = self._chance.choice(sorted(self.written))
                (self._folder / gone).unlink()
                del self.written[gone]

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Meanwhile, until the block ends. What fails there fails here."""
        stop, failures = threading.Event(), list[BaseException]()

        def run() -> None:
            try:
                while not stop.is_set():
                    self.write(1)
            except BaseException as error:
                failures.append(error)

        thread = threading.Thread(target=run)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()
        assert not failures, failures[0]

    def check(self) -> None:
        """All is there."""
        assert sorted(path.name for path in self._folder.iterdir()) == sorted(self.written)
        for name, data in self.written.items():
            assert (self._folder / name).read_bytes() == data, name


def remove_some(folder: Path, chance: random.Random) -> list[str]:
    """Any subset of the files there; at least one, half of the time all with the folder."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    if not files or chance.random() < 0.5:
        shutil.rmtree(folder, ignore_errors=True)
        return [str(folder)]
    chosen = [path for path in files if chance.random() < 0.4] or [chance.choice(files)]
    for path in chosen:
        path.unlink(missing_ok=True)
    return [path.name for path in chosen]


@pytest.mark.parametrize("seed", SEEDS)
def test_the_cache_folder_may_be_emptied_under_a_mount(drive: MountedDrive, seed: int) -> None:
    chance = random.Random(seed)
    drive.mount("commit_interval=500ms")
    writer = Writer(drive.mountpoint, seed)
    for _ in range(2):
        with writer.writing():
            time.sleep(chance.uniform(0.1, 1.5))  # the moment is the point
            remove_some(drive.cache, chance)
            time.sleep(chance.uniform(0.1, 1))
    assert drive.status().problem == ""
    writer.check()
    drive.umount()
    drive.mount()
    writer.check()
    drive.umount()
    assert drive.fsck("-n", "--data") == 0


@pytest.mark.parametrize("seed", SEEDS)
def test_the_cache_folder_may_be_emptied_between_mounts(drive: MountedDrive, seed: int) -> None:
    chance = random.Random(seed)
    drive.mount("commit_interval=1h")
    writer = Writer(drive.mountpoint, seed)
    writer.write(10)
    drive.sync()
    writer.write(10)
    if chance.random() < 0.5:
        drive.kill()
        drive.detach()
    else:
        subprocess.run(["umount", "-i", drive.mountpoint], check=True)
        wait_for_end(drive.process_id or 0)
    remove_some(drive.cache, chance)
    drive.mount("commit_interval=1h")
    writer.check()
    drive.umount()
    assert drive.fsck("-n", "--data") == 0


@pytest.mark.parametrize("seed", SEEDS)
def test_what_loses_its_name_under_a_mount_is_stored(drive: MountedDrive, seed: int) -> None:
    """Whatever part of the state folder it is, while it is written to: said at once, and nothing is lost by
    the end of the process, which is unmounted in every way."""
    chance = random.Random(seed)
    drive.mount("commit_interval=1h")
    writer = Writer(drive.mountpoint, seed)
    writer.write(5)
    (folder,) = drive.state.iterdir()
    with writer.writing():
        time.sleep(chance.uniform(0, 1.5))  # the moment is the point
        held = [path for path in folder.rglob("*") if path.suffix in (".journal", ".bulk", ".db", ".db-wal")]
        victims = [path for path in held if chance.random() < 0.4] or held
        if chance.random() < 0.5:
            shutil.rmtree(folder, ignore_errors=True)
        else:
            for path in victims:
                path.unlink(missing_ok=True)
        wait_until(lambda: bool(drive.status().journal_lost), NOTICE_SECONDS + SLACK)
        time.sleep(chance.uniform(0, 1))
    assert "removed" in drive.status().problem
    end = chance.choice(["sync", "umount", "umount -i", "fusermount"])
    if end == "sync":
        told = drive.tool("drivefs", "sync", drive.mountpoint)
        assert (told.returncode, "removed" in told.stderr) == (0, True), told.stderr
        drive.kill()
        drive.detach()
    elif end == "umount":
        told = drive.tool("umount.drivefs", drive.mountpoint)
        assert (told.returncode, "removed" in told.stderr) == (0, True), told.stderr
    else:
        command = ["umount", "-i"] if end == "umount -i" else ["fusermount3", "-u"]
        subprocess.run([*command, drive.mountpoint], check=True)
        wait_for_end(drive.process_id or 0, 60)
    succeed(drive.try_mount())
    drive.process_id = None
    writer.check()
    assert drive.status().problem == ""
    drive.umount()
    drive.wipe_cache()
    drive.mount()
    writer.check()
    drive.umount()
    assert drive.fsck("-n", "--data") == 0


def test_an_fsync_is_kept_by_the_nodes_when_the_journal_is_lost(drive: MountedDrive) -> None:
    """Right after the removal, before any tick: killed at once, the file is there."""
    drive.mount("commit_interval=1h")
    (drive.mountpoint / "before").write_bytes(b"before")
    shutil.rmtree(drive.state)
    with open(drive.mountpoint / "precious", "wb") as file:
        file.write(content("text", 300_000, 1))
        file.flush()
        os.fsync(file.fileno())
    drive.kill()
    drive.detach()
    drive.mount()
    assert (drive.mountpoint / "precious").read_bytes() == content("text", 300_000, 1)
    assert (drive.mountpoint / "before").read_bytes() == b"before"
    drive.umount()


def test_no_success_without_proof(drive: MountedDrive) -> None:
    """Nodes are away and the journal is lost: nothing says that all is well, the mount stays until it is."""
    drive.mount("commit_interval=1h")
    (drive.mountpoint / "precious").write_bytes(b"precious")
    drive.take_away(range(4))
    shutil.rmtree(drive.state)
    wait_until(lambda: bool(drive.status().journal_lost), NOTICE_SECONDS + SLACK)
    assert drive.tool("drivefs", "sync", "--timeout", "3s", drive.mountpoint).returncode == 1
    told = drive.tool("umount.drivefs", "--timeout", "3s", drive.mountpoint)
    assert told.returncode == 32
    assert "stays mounted" in told.stderr
    process = drive.process_id or 0
    subprocess.run(["umount", "-i", drive.mountpoint], check=True)
    with pytest.raises(AssertionError, match="has not ended"):
        wait_for_end(process, 5)
    drive.bring_back()
    wait_for_end(process, 60)
    drive.mount()
    assert (drive.mountpoint / "precious").read_bytes() == b"precious"
    drive.umount()


def test_a_dead_mount_without_a_journal_is_no_success(drive: MountedDrive) -> None:
    drive.mount("commit_interval=1h")
    (drive.mountpoint / "file").write_bytes(b"content")
    drive.kill()
    told = drive.tool("umount.drivefs", drive.mountpoint)
    assert told.returncode == 0, told.stderr
    assert "is in the journal" in told.stderr
    drive.mount("commit_interval=1h")
    assert (drive.mountpoint / "file").read_bytes() == b"content"
    drive.kill()
    shutil.rmtree(drive.state)
    told = drive.tool("umount.drivefs", drive.mountpoint)
    assert told.returncode == 32
    assert "may be lost" in told.stderr

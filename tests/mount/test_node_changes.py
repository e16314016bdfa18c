"""Nodes that come, go and are made anew under a mount, while programs copy folders into it and read them."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.contents import KINDS, STORED_KINDS, content
from tests.mount.conftest import drive, fuse, unmade_drive
from tests.mount.mounted import MountedDrive, differences, run, succeed
from tests.mount.trees import library_part, oddities

__all__ = ["drive", "fuse", "unmade_drive"]

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to mount a tmpfs")
pytestmark = [pytest.mark.mount, pytest.mark.timeout(300)]

SIZE = 2 << 20


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as people have them: a part of a library, odd names and links, a file of each kind."""
    folder = tmp_path_factory.mktemp("source")
    library_part(folder, 60)
    oddities(folder / "odd")
    (folder / "kinds").mkdir()
    for kind in KINDS:
        (folder / "kinds" / kind).write_bytes(content(kind, SIZE, 7))
    return folder


class Programs:
    """One copies the folder again and again, and writes a file of its own beside each copy; one compares what
    is there."""

    def __init__(self, source: Path, target: Path) -> None:
        self._source = source
        self._target = target
        self._over = threading.Event()
        self._enough = threading.Event()
        self.copies = 0
        self.faults: list[str] = []

    def copy(self) -> None:
        while not self._over.wait(0.2):
            number = self.copies
            command = ["cp", "-a", str(self._source), str(self._target / f"copy{number}")]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode:
                self.faults.append(f"copy {number}: {done.stderr}")
                return
            (self._target / f"own{number}").write_bytes(_own(number))
            self.copies += 1

    def compare(self) -> None:
        while not self._over.wait(0.05):
            for number in range(self.copies):
                self._compare_one(number)
            if self.copies > 2:
                self._enough.set()

    def _compare_one(self, number: int) -> None:
        self._compare_file(self._target / f"own{number}", _own(number))
        for path in (self._source / "kinds").iterdir():
            self._compare_file(self._target / f"copy{number}" / "kinds" / path.name, path.read_bytes())

    def _compare_file(self, path: Path, expected: bytes) -> None:
        """What lies in the kernel's cache says nothing of the nodes."""
        with path.open("rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            if file.read() != expected:
                self.faults.append(f"{path} is not as it was written")

    @contextmanager
    def running(self) -> Iterator[None]:
        threads = [threading.Thread(target=work) for work in (self.copy, self.compare)]
        for thread in threads:
            thread.start()
        try:
            yield
            assert self._enough.wait(60), self.faults
        finally:
            self._over.set()
            for thread in threads:
                thread.join()
        assert not self.faults

    def require_all(self) -> None:
        """Everything is there as it was written, names and attributes too."""
        for number in range(self.copies):
            self._compare_one(number)
            assert not differences(self._source, self._target / f"copy{number}")
        assert not self.faults


def _own(number: int) -> bytes:
    return content(KINDS[number % len(KINDS)], 300_000, number)


def test_nodes_are_added_replaced_and_removed_while_programs_run(drive: MountedDrive, source: Path) -> None:
    drive.mount("commit_interval=500ms", "cache_size=16M")
    programs = Programs(source, drive.mountpoint)
    with programs.running():
        added = succeed(drive.tool("drivefs", "node", "add", drive.drive / "node6", drive.mountpoint))
        assert "fragments moved" in added
        shutil.rmtree(drive.drive / "node3")
        new = drive.drive / "new3"
        succeed(drive.tool("drivefs", "node", "replace", drive.mountpoint, "node3", new))
        removed = succeed(drive.tool("drivefs", "node", "remove", "node0", drive.drive))
        assert "node0 is no node any more" in removed
        shutil.rmtree(drive.drive / "node0")
        succeed(drive.tool("drivefs", "node", "rebalance", "--rate", "64M", drive.mountpoint))
    drive.sync()
    programs.require_all()
    assert drive.tool("drivefs", "check", drive.mountpoint).stdout.endswith(": clean\n")
    drive.umount()
    assert drive.fsck("-n", "--data") == 0
    drive.wipe_cache()
    drive.mount("cache_size=16M")
    programs.require_all()
    names = [node.name for node in drive.status().store.nodes]  # type: ignore[union-attr]  # it is known
    assert names == [f"node{number}" for number in range(1, 7)]


@needs_root
def test_a_new_node_that_is_full_ends_the_change_and_can_go_again(drive: MountedDrive, source: Path) -> None:
    """Its disk is too small for its share: the change ends with that, all goes on, and nothing is lost."""
    drive.mount("commit_interval=500ms", "cache_size=16M")
    data = {kind: content(kind, 24 << 20, 3) for kind in STORED_KINDS}
    for kind, whole in data.items():
        (drive.mountpoint / kind).write_bytes(whole)
    drive.sync()
    small = drive.folder / "small"
    small.mkdir()
    run("mount", "-t", "tmpfs", "-o", "size=6m", "tmpfs", small)
    try:
        programs = Programs(source, drive.mountpoint)
        with programs.running():
            added = drive.tool("drivefs", "node", "add", small / "node", drive.mountpoint)
            assert added.returncode == 1
            assert "no space" in added.stderr.lower()
            succeed(drive.tool("drivefs", "node", "remove", "node6", drive.mountpoint))
        assert not [*small.glob("node/packs/*/*")]
    finally:
        run("umount", "-l", small)
    drive.sync()
    programs.require_all()
    drive.umount()
    assert drive.fsck("-n", "--data") == 0
    drive.wipe_cache()
    drive.mount("cache_size=16M")
    assert {kind: (drive.mountpoint / kind).read_bytes() for kind in data} == data
    programs.require_all()


def test_a_mount_that_ends_in_the_middle_of_a_change_has_it_done_after_the_next(
    drive: MountedDrive, source: Path
) -> None:
    """By unmounting and by a kill; the command says that the mount is gone."""
    drive.mount("commit_interval=500ms")
    copy = drive.mountpoint / "copy"
    for kind in KINDS:  # a pack for each
        (drive.mountpoint / kind).write_bytes(content(kind, 200_000, 9))
        drive.sync()
    subprocess.run(["cp", "-a", source, copy], check=True)
    drive.sync()
    for number, end in ((6, drive.umount), (7, drive.kill)):
        new = drive.drive / f"node{number}"
        with adding(drive, new) as command:
            end()
            assert command.wait(60) == 1
        if end == drive.kill:
            drive.detach()
        drive.mount("commit_interval=500ms")
        assert not differences(source, copy)
        again = succeed(drive.tool("drivefs", "node", "add", new, drive.mountpoint))
        assert f"{new}: is node{number} already" in again
        assert " rebuilt, " in again
    drive.sync()
    drive.umount()
    succeed(drive.tool("fsck.drivefs", "-n", "--data", *drive.where(), drive.drive))
    drive.wipe_cache()
    drive.mount()
    assert not differences(source, copy)


@contextmanager
def adding(drive: MountedDrive, new: Path) -> Iterator[subprocess.Popen[str]]:
    """The command, which waits for a mount that moves fragments as slowly as can be."""
    program = "import sys; sys.argv[0] = 'drivefs'; from tools.drivefs import main; main()"
    arguments = ["node", "add", str(new), str(drive.mountpoint), "--rate", "1K"]
    with subprocess.Popen(
        [sys.executable, "-c", program, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=drive.variables(),
    ) as command:
        try:
            while (change := drive.status().node_change) is None or not change.total:
                time.sleep(0.05)
            yield command
        finally:
            command.kill()

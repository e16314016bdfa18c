"""A mount that lacks something for a moment: it refuses what it cannot take, and goes on by itself."""

from __future__ import annotations

import errno
import os
import resource
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.contents import KINDS, content
from tests.mount.mounted import MountedDrive
from tests.waiting import wait_until

pytestmark = pytest.mark.mount


def write(path: Path, data: bytes) -> None:
    """All of it, fsynced."""
    with open(path, "wb", buffering=0) as file:
        file.write(data)
        os.fsync(file.fileno())


@contextmanager
def without_descriptors(drive: MountedDrive) -> Iterator[None]:
    """The mount has those that it has, and gets no more until the block ends."""
    assert drive.process_id is not None
    soft, hard = resource.prlimit(drive.process_id, resource.RLIMIT_NOFILE)
    resource.prlimit(drive.process_id, resource.RLIMIT_NOFILE, (5, hard))
    try:
        yield
    finally:
        resource.prlimit(drive.process_id, resource.RLIMIT_NOFILE, (soft, hard))


def expect_refused_clients(drive: MountedDrive) -> None:
    """Those of the control socket: trio logs a traceback, and tries again."""
    assert all(each.startswith("accept returned EMFILE") for each in drive.tracebacks())
    drive.expects_tracebacks = True


def test_descriptors_that_run_out_are_no_dying_disk(drive: MountedDrive) -> None:
    """EMFILE as the mount meets it: the journal needs one more file, and can have none."""
    drive.mount("journal_size=64M")
    before = content("text", 1000)
    write(drive.mountpoint / "before", before)
    refused = []
    with without_descriptors(drive):
        for number in range(40):
            try:
                write(drive.mountpoint / f"meanwhile{number}", os.urandom(300_000))
            except OSError as error:
                refused.append(error.errno)
    assert set(refused) == {errno.EIO}
    contents = {kind: content(kind, 300_000) for kind in KINDS}
    for kind, data in contents.items():
        write(drive.mountpoint / kind, data)
    drive.umount("-f")
    drive.mount()
    drive.sync()
    drive.umount()
    drive.wipe_cache()
    drive.mount()
    assert (drive.mountpoint / "before").read_bytes() == before
    for kind, data in contents.items():
        assert (drive.mountpoint / kind).read_bytes() == data
    expect_refused_clients(drive)


def test_who_asks_while_descriptors_run_out_is_answered_later(drive: MountedDrive) -> None:
    """And the mount goes on storing."""
    drive.mount("journal_size=64M", "commit_interval=500ms")
    written = {f"small {number}": content("text", 500, number) for number in range(20)}
    with ThreadPoolExecutor() as threads:
        with without_descriptors(drive):
            for name, data in written.items():
                write(drive.mountpoint / name, data)
            answer = threads.submit(drive.status)
            wait_until(lambda: "accept" in drive.log())
        assert answer.result().files == len(written)
    drive.sync()
    assert drive.status().problem == ""
    drive.umount()
    drive.wipe_cache()
    drive.mount()
    assert {path.name: path.read_bytes() for path in drive.mountpoint.iterdir()} == written
    expect_refused_clients(drive)


def test_what_cannot_be_read_while_descriptors_run_out_is_not_taken_for_lost(drive: MountedDrive) -> None:
    """It is EIO meanwhile. Then all is read, and no node is thought to lack anything."""
    drive.mount()
    written: dict[str, bytes] = {kind: content(kind, 300_000) for kind in KINDS}
    for name, data in written.items():
        write(drive.mountpoint / name, data)
    drive.umount()
    drive.wipe_cache()
    drive.mount("commit_interval=500ms")
    with without_descriptors(drive):
        with pytest.raises(OSError, match="Input/output error"):
            (drive.mountpoint / "random").read_bytes()
        written["small"] = written["text"][:100]
        write(drive.mountpoint / "small", written["small"])
    for name, data in written.items():
        assert (drive.mountpoint / name).read_bytes() == data
    # The lease, too, was without nodes, and asks them again some seconds later.
    wait_until(lambda: drive.tool("drivefs", "sync", drive.mountpoint).returncode == 0)
    status = drive.status()
    assert status.store is not None
    assert (status.problem, status.store.packs_to_repair) == ("", 0)
    drive.umount()
    assert drive.fsck("-n", "--data") == 0
    expect_refused_clients(drive)

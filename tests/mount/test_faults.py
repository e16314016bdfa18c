"""Mounts on nodes that are slow, fail, cut reads short, are full or read-only; clocks ten years off; a mount
that was stopped while another took over (FAULTS 15, 16, 20 to 23)."""

from __future__ import annotations

import errno
import itertools
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from backend.commits.lease import DEFAULT_SECONDS
from backend.nodes import OWN_FILES
from tests.contents import STORED_KINDS, content
from tests.mount.conftest import drive, fuse, unmade_drive
from tests.mount.faulty_mount import VARIABLE, Faults
from tests.mount.mounted import MountedDrive
from tests.mount.reading import wrong_orders
from tests.waiting import wait_until
from tools.errors import SHORT

__all__ = ["drive", "fuse", "unmade_drive"]

pytestmark = [pytest.mark.mount, pytest.mark.timeout(600)]

FAKETIME = sorted(Path("/usr/lib").glob("*/faketime/libfaketime.so.1"))


@pytest.fixture
def faults(drive: MountedDrive) -> Iterator[Faults]:
    """Of the nodes of `drive`, whose mounts obey them."""
    faults = Faults(drive.folder / "faults.json")
    drive.programs["mount.drivefs"] = "tests.mount.faulty_mount"
    drive.environment[VARIABLE] = str(faults.path)
    yield faults
    faults.clear()


NUMBERS: Final = itertools.count()


def write(drive: MountedDrive, name: str, size: int = 3_000_000) -> bytes:
    """What was never written before, of one kind after the other of those that the nodes store."""
    number = next(NUMBERS)
    data = content(STORED_KINDS[number % len(STORED_KINDS)], size, number)
    (drive.mountpoint / name).write_bytes(data)
    return data


def assert_is(path: Path, data: bytes) -> None:
    """In whatever order it is read."""
    assert wrong_orders(path, data) == []


def mount_without_cache(drive: MountedDrive) -> None:
    drive.wipe_cache()
    drive.mount()


def assert_sound(drive: MountedDrive) -> None:
    drive.umount()
    assert drive.fsck("-y", "--data") in (0, 1)
    assert drive.fsck("-n", "--data") == 0


def test_nodes_that_do_not_answer_do_not_hold_up_reading(drive: MountedDrive, faults: Faults) -> None:
    """Two hang for as long as all is read: what is read came from the others."""
    drive.mount()
    written = {f"file {number}": write(drive, f"file {number}") for number in range(4)}
    drive.umount()
    mount_without_cache(drive)
    faults.set(0, 3, hang=True, calls="read")
    for name, data in written.items():
        assert_is(drive.mountpoint / name, data)
    faults.clear()
    assert_sound(drive)


@pytest.mark.soak
def test_a_node_that_hangs_stops_neither_storing_nor_mounting(drive: MountedDrive, faults: Faults) -> None:
    """For longer than the lease lasts, and from before the mount on."""
    drive.mount()
    faults.set(3, hang=True)
    ended = time.monotonic() + DEFAULT_SECONDS + 10
    written: dict[str, bytes] = {}
    while time.monotonic() < ended:
        name = f"file {len(written)}"
        written[name] = write(drive, name, 300_000)
        assert drive.tool("drivefs", "sync", drive.mountpoint).returncode == SHORT
    drive.kill()
    drive.wipe_cache()
    drive.remount()
    for name, data in written.items():
        assert (drive.mountpoint / name).read_bytes() == data
    faults.clear()
    assert_sound(drive)


@pytest.mark.parametrize(
    "fault",
    [
        {"error": "ENOSPC", "calls": "write"},
        pytest.param({"error": "EROFS", "calls": "write"}, marks=pytest.mark.soak),
        pytest.param({"short": 7, "calls": "read"}, marks=pytest.mark.soak),
        pytest.param({"error": "EIO"}, marks=pytest.mark.soak),
        pytest.param({"delay": 5}, marks=pytest.mark.soak),
    ],
    ids=["full", "read-only", "short-reads", "errors", "slow"],
)
def test_two_nodes_that_fail_lose_nothing(drive: MountedDrive, faults: Faults, fault: dict[str, str]) -> None:
    drive.mount()
    first = write(drive, "first")
    drive.sync()
    faults.set(1, 4, **fault)
    second = write(drive, "second")
    # With two of six gone no write quorum of five is left: the journal keeps it, and says so.
    told = drive.tool("drivefs", "sync", drive.mountpoint)
    assert (told.returncode in (0, SHORT)) == (fault in ({"short": 7, "calls": "read"}, {"delay": 5})), (
        told.stderr
    )
    assert (drive.mountpoint / "first").read_bytes() == first
    assert (drive.mountpoint / "second").read_bytes() == second
    faults.clear()
    drive.sync()
    drive.umount()
    mount_without_cache(drive)
    assert_is(drive.mountpoint / "first", first)
    assert_is(drive.mountpoint / "second", second)
    assert_sound(drive)


@pytest.mark.soak
def test_one_full_node_is_within_the_quorum_and_made_whole_later(drive: MountedDrive, faults: Faults) -> None:
    drive.mount()
    faults.set(2, error="ENOSPC", calls="write")
    data = write(drive, "file")
    assert drive.tool("drivefs", "sync", drive.mountpoint).returncode == SHORT
    faults.clear()
    assert drive.tool("drivefs", "repair", drive.mountpoint).returncode == 0
    drive.umount()
    drive.take_away([0, 5])
    mount_without_cache(drive)
    assert_is(drive.mountpoint / "file", data)
    drive.umount("-f")
    drive.bring_back()


# Clocks


@pytest.mark.skipif(not FAKETIME, reason="libfaketime is not installed")
@pytest.mark.parametrize("away", ["+3650d", pytest.param("-3650d", marks=pytest.mark.soak)])
def test_a_clock_ten_years_off_loses_nothing_and_orders_nothing_anew(drive: MountedDrive, away: str) -> None:
    right = dict(drive.environment)
    wrong = {"LD_PRELOAD": str(FAKETIME[0]), "FAKETIME": away, "FAKETIME_DONT_FAKE_MONOTONIC": "1"}
    versions = []
    for environment in (right, wrong, right):
        drive.environment = environment
        drive.mount()
        versions.append(write(drive, "file", 50_000))
        drive.sync()
        collected = drive.tool("drivefs", "gc", drive.mountpoint)
        assert collected.returncode == 0, collected.stderr
        kept = sorted((drive.mountpoint / ".versions" / "by-name" / "file").iterdir())
        assert [path.read_bytes() for path in kept] == versions
        drive.umount()
    drive.environment = right
    assert_mounts_again(drive, versions[-1])


def assert_mounts_again(drive: MountedDrive, data: bytes) -> None:
    mount_without_cache(drive)
    assert (drive.mountpoint / "file").read_bytes() == data
    assert_sound(drive)


# Two mounts


def objects(drive: MountedDrive) -> dict[Path, bytes]:
    """What lies on the nodes, but for the lease."""
    found = [path for node in drive.nodes() for path in node.rglob("*") if path.is_file()]
    return {path: path.read_bytes() for path in found if path.name not in ("lease", *OWN_FILES)}


@pytest.mark.soak
def test_a_mount_that_was_stopped_past_its_lease_is_fenced(
    drive: MountedDrive, unmade_drive: MountedDrive
) -> None:
    """Stopped with changes that nobody else has; another mount takes over, works, and the first goes on."""
    drive.mount("commit_interval=1h")
    shared = write(drive, "shared")
    drive.sync()
    lost = write(drive, "unpublished")
    assert drive.process_id is not None
    still_open = os.open(drive.mountpoint / "unpublished", os.O_WRONLY)
    os.kill(drive.process_id, signal.SIGSTOP)
    second = second_mount(drive)
    assert (second.mountpoint / "shared").read_bytes() == shared
    newer = write(second, "shared")
    second.sync()
    before = objects(drive)
    os.kill(drive.process_id, signal.SIGCONT)
    with pytest.raises(OSError, match="Input/output"):
        os.fsync(still_open)
    os.close(still_open)
    assert drive.status().fenced
    wait_until(lambda: "taken over" in drive.tool("drivefs", "sync", drive.mountpoint).stderr)
    with pytest.raises(OSError, match="Read-only") as refused:
        (drive.mountpoint / "more").write_bytes(b"more")
    assert refused.value.errno == errno.EROFS
    assert (drive.mountpoint / "unpublished").read_bytes() == lost
    drive.tool("umount.drivefs", "-f", drive.mountpoint)
    assert objects(drive) == before
    assert (second.mountpoint / "shared").read_bytes() == newer
    second.umount()
    mount_again_keeps_what_was_unpublished(drive, lost)


def second_mount(drive: MountedDrive) -> MountedDrive:
    """The same drive as from another machine: a cache and a mountpoint of its own. Returns when the lease
    has changed hands."""
    folder = drive.folder / "second"
    folder.mkdir()
    second = MountedDrive(folder, drive.drive)
    second.key = drive.key
    second.environment = dict(drive.environment)
    second.mount()
    return second


def mount_again_keeps_what_was_unpublished(drive: MountedDrive, lost: bytes) -> None:
    """The first state holds what the drive has gone past: it is kept aside, and said."""
    drive.mount()
    assert not (drive.mountpoint / "unpublished").exists()
    aside = list(drive.state.glob("*/stale/*"))
    assert len(aside) == 1
    segments = b"".join(path.read_bytes() for path in sorted((aside[0] / "journal").iterdir()))
    assert lost[:1000] in segments
    assert_sound(drive)

"""A fault of drivefs that a process only sees as EIO fails the test that met it, by the mount's log."""

from __future__ import annotations

import pytest

from tests.mount.buggy_mount import SIZE
from tests.mount.mounted import MountedDrive

pytestmark = pytest.mark.mount


def test_a_fault_on_the_read_path_is_seen(drive: MountedDrive) -> None:
    drive.programs["mount.drivefs"] = "tests.mount.buggy_mount"
    drive.mount()
    for size in (SIZE - 1, SIZE):
        (drive.mountpoint / f"{size}").write_bytes(bytes(size))
    drive.umount()
    drive.mount()
    assert (drive.mountpoint / f"{SIZE - 1}").read_bytes() == bytes(SIZE - 1)
    assert drive.tracebacks() == []
    drive.check_log()
    with pytest.raises(OSError, match="Input/output error"):
        (drive.mountpoint / f"{SIZE}").read_bytes()
    drive.umount()
    drive.wipe_cache()
    assert "ZeroDivisionError: a fault" in drive.tracebacks()[0]
    with pytest.raises(AssertionError, match="a fault of drivefs"):
        drive.check_log()
    drive.expects_tracebacks = True

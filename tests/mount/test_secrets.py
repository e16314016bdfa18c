"""What a mount shows of its secrets: nothing in arguments, environment, log or cache, and no core dump."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.mount.conftest import drive, fuse, unmade_drive
from tests.mount.mounted import ROOT, MountedDrive, succeed
from tools.control_client import ControlClient

pytestmark = pytest.mark.mount

__all__ = ["drive", "fuse", "unmade_drive"]

PASSPHRASE = "correct-horse-battery-staple-7391"
DUMPABLE = """
import ctypes
from mountfs.process_tuning import prepare_process
libc = ctypes.CDLL(None)
before = libc.prctl(3, 0, 0, 0, 0)
prepare_process()
print(before, libc.prctl(3, 0, 0, 0, 0))
"""


def test_the_passphrase_is_shown_nowhere(unmade_drive: MountedDrive) -> None:
    drive = unmade_drive
    drive.forks = False
    secret = drive.folder / "passphrase"
    secret.touch(mode=0o600)
    secret.write_text(PASSPHRASE + "\n")
    succeed(drive.tool("mkfs.drivefs", "-q", "--passphrase-file", secret, drive.drive))
    options = f"passphrase_file={secret},{drive.folder_options()},verbose"
    told = drive.tool("mount.drivefs", drive.drive, drive.mountpoint, "-o", options)
    succeed(told)
    (drive.mountpoint / "file").write_bytes(b"content")
    drive.sync()
    process = Path(f"/proc/{ControlClient.of_mount(str(drive.mountpoint)).process_id()}")
    shown = [(process / "cmdline").read_bytes()]
    if os.geteuid() == 0:
        shown.append((process / "environ").read_bytes())
    else:
        with pytest.raises(PermissionError):
            (process / "environ").read_bytes()
    below = [
        path
        for folder in (drive.drive, drive.cache, drive.state)
        for path in folder.rglob("*")
        if path.is_file()
    ]
    shown += [path.read_bytes() for path in below] + [told.stdout.encode(), told.stderr.encode()]
    assert len(below) > 6
    assert not [text for text in shown if PASSPHRASE.encode() in text]
    drive.umount()


def test_the_process_of_a_mount_leaves_no_core_dump() -> None:
    """PR_GET_DUMPABLE (3), prctl(2): 1 before, 0 after."""
    found = subprocess.run(
        [sys.executable, "-c", DUMPABLE], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert found.stdout.split() == ["1", "0"]

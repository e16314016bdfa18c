"""A mount that lacks something for a moment: it refuses what it cannot take, and goes on by itself."""

from __future__ import annotations

import errno
import os
import resource
from pathlib import Path

import pytest

from tests.contents import KINDS, content
from tests.mount.mounted import MountedDrive

pytestmark = pytest.mark.mount


def write(path: Path, data: bytes) -> None:
    """All of it, fsynced."""
    with open(path, "wb", buffering=0) as file:
        file.write(data)
        os.fsync(file.fileno())


def test_descriptors_that_run_out_are_no_dying_disk(drive: MountedDrive) -> None:
    """EMFILE as the mount meets it: the journal needs one more file, and can have none."""
    drive.mount("journal_size=64M")
    assert drive.process_id is not None
    before = content("text", 1000)
    write(drive.mountpoint / "before", before)
    soft, hard = resource.prlimit(drive.process_id, resource.RLIMIT_NOFILE)
    resource.prlimit(drive.process_id, resource.RLIMIT_NOFILE, (5, hard))
    refused = []
    for number in range(40):
        try:
            write(drive.mountpoint / f"meanwhile{number}", os.urandom(300_000))
        except OSError as error:
            refused.append(error.errno)
    assert set(refused) == {errno.EIO}
    resource.prlimit(drive.process_id, resource.RLIMIT_NOFILE, (soft, hard))
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

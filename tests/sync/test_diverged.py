"""A disk that fails in the middle of a rebase: the mount goes on saying so, and the next one has all."""

from __future__ import annotations

import errno
from collections.abc import Sequence
from pathlib import Path

import pytest
import trio

from backend.buffer import Buffer
from backend.system import Durable, Environment
from cache.errors import InputOutputError
from cache.namespace.operations import ROOT_INODE
from tests import contents
from tests.changing_disk import ChangingDisk
from tests.contents import KINDS, Kind
from tests.drives import content_of, make_file
from tests.sync.drives import Hub
from tests.sync.test_whole_drives import names, same_everywhere


class FailingDisk(Durable):
    """Nothing can be written."""

    def write(self, descriptor: int, parts: Sequence[Buffer], offset: int) -> int:
        raise OSError(errno.EIO, "a bad sector")


@pytest.mark.logs_warnings
@pytest.mark.parametrize("kind", KINDS)
async def test_a_disk_that_fails_in_a_rebase_ends_no_mount_and_loses_nothing(
    tmp_path: Path, kind: Kind
) -> None:
    """Regression: the publisher failed with an assertion, which ended the mount."""
    hub, disk, data = Hub(tmp_path), ChangingDisk(), contents.content(kind, 20_000)
    async with (
        hub.device(1, crash=True, environment=Environment(disk=disk)) as drive,
        hub.device(2) as other,
    ):
        await make_file(drive, b"here", data)
        await make_file(other, b"there", b"there")
        disk.behind = FailingDisk()
        await other.sync()
        with trio.fail_after(10):
            while b"there" not in names(drive):
                await trio.sleep(0.01)
        for call in (drive.sync, drive.publisher.follow, drive.sync):
            with pytest.raises(InputOutputError, match="mount again"):
                await call()
        assert "mount again" in drive.publisher.problem
        with pytest.raises(InputOutputError):
            await drive.fsync(ROOT_INODE)
    async with hub.device(1) as drive, hub.device(2) as other:
        await same_everywhere(hub, drive, other)
        assert await content_of(other, b"here") == data

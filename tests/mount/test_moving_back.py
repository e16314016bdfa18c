"""A drive at a real hub moves to nodes while programs write it on two machines, and is mounted there."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from tests.contents import KINDS, content
from tests.mount.hub_mounts import Account, HubMachine, soon
from tests.mount.mounted import MountedDrive, succeed
from tests.mount.moving_drives import SIZE, Writer, fill

pytestmark = [pytest.mark.mount, pytest.mark.timeout(300)]


def is_refused(machine: HubMachine) -> bool:
    """Whether the mount takes no change any more. EIO: of bytes that the kernel had not handed over."""
    try:
        machine.write_synced("late", b"x")
    except OSError as error:
        return error.errno in (errno.EROFS, errno.EIO)
    return False


def test_a_drive_moves_to_nodes_while_two_machines_write_it(account: Account) -> None:
    with account.machine() as one, account.machine() as other:
        one.mount("commit_interval=1")
        other.mount("commit_interval=1")
        here = one.mountpoint
        fill(here)
        one.sync()
        before = one.status().commit
        succeed(one.tool("drivefs", "pin", "--name", "before", here))
        succeed(one.tool("drivefs", "key", "new-epoch", here))
        devices = _devices(one)
        (here / "kinds" / "text").write_bytes(b"newer")
        other.write_synced("of another", b"machine")
        other.sync()
        one.key.touch(mode=0o600)
        one.key.write_bytes(os.urandom(32))
        writer = Writer(here)
        writer.start()
        try:
            options: list[str | Path] = ["--key-file", one.key, "--profile", "2+1", "--rate", "50M"]
            said = succeed(one.tool("drivefs", "move-to", "--to-local", one.drive, here, *options))
            assert f"the drive is in {one.drive} now" in said
            ended = writer.end()
            assert ended is not None
            assert ended.errno in (errno.EROFS, errno.EIO)
        finally:
            writer.stop()
        assert is_refused(one)
        soon(lambda: is_refused(other))
        assert "has moved from the hub" in other.status().problem
        assert (other.mountpoint / "of another").read_bytes() == b"machine"
        _require_left(one)
        other.umount("-f")
        succeed(MountedDrive.try_mount(one))
        (here / "after").write_bytes(b"written on the nodes")
        one.sync()
        _require_all(one, writer, before)
        assert _devices(one) == devices
        one.umount()
        succeed(one.tool("fsck.drivefs", "-n", "--data", *MountedDrive.where(one), one.drive))
        one.wipe_cache()
        succeed(MountedDrive.try_mount(one))
        _require_all(one, writer, before)
        one.umount()


def test_other_devices_hear_where_the_drive_is_though_its_mover_was_killed(account: Account) -> None:
    with account.machine() as one, account.machine() as other:
        one.environment = {"DRIVEFS_FAILPOINTS": "move.arrived=kill"}
        one.mount("commit_interval=1")
        one.environment = {}
        other.mount("commit_interval=1")
        fill(one.mountpoint)
        one.sync()
        one.key.touch(mode=0o600)
        one.key.write_bytes(os.urandom(32))
        options: list[str | Path] = ["--key-file", one.key, "--profile", "2+1"]
        assert one.tool("drivefs", "move-to", "--to-local", one.drive, one.mountpoint, *options).returncode
        other.write_synced("waits", b"x")
        refused = other.tool("drivefs", "sync", other.mountpoint)
        assert "being moved from here" in refused.stderr
        assert not is_told(other)
        succeed(MountedDrive.try_mount(one))
        soon(lambda: is_told(other))
        other.umount("-f")
        one.umount()


def test_a_mount_of_nodes_whose_hub_was_opened_by_a_word_says_so(account: Account) -> None:
    with account.machine() as one:
        one.environment = {"DRIVEFS_FAILPOINTS": "move.arrived=kill"}
        one.mount("commit_interval=1")
        one.environment = {}
        one.key.touch(mode=0o600)
        one.key.write_bytes(os.urandom(32))
        options: list[str | Path] = ["--key-file", one.key, "--profile", "2+1"]
        assert one.tool("drivefs", "move-to", "--to-local", one.drive, one.mountpoint, *options).returncode
        succeed(one.tool("drivefs", "move-to", "--undo", "--force", one.source))
        succeed(MountedDrive.try_mount(one))
        soon(lambda: "open at two places" in one.status().problem)
        assert "drivefs drives delete" in one.tool("drivefs", "status", one.mountpoint).stdout
        one.umount()


def is_told(machine: HubMachine) -> bool:
    """Whether the mount knows where the drive is."""
    return "has moved from the hub" in machine.status().problem


def _devices(machine: HubMachine) -> list[str]:
    """Their numbers, and the key epoch."""
    said = succeed(machine.tool("drivefs", "device", "list", machine.mountpoint)).splitlines()
    return [line if line.startswith("key epoch") else line.split()[0] for line in said]


def _require_all(machine: HubMachine, writer: Writer, before: int) -> None:
    """Also the past, and what is pinned."""
    here = machine.mountpoint
    assert machine.has("of another", b"machine")
    assert machine.has("after", b"written on the nodes")
    for name, data in writer.written.items():
        assert (here / name).read_bytes() == data
    past = here / ".versions" / f"@{before}" / "kinds"
    for number, kind in enumerate(KINDS):
        assert (past / kind).read_bytes() == content(kind, SIZE, number)
    assert "before" in succeed(machine.tool("drivefs", "pins", here))


def _require_left(machine: HubMachine) -> None:
    machine.umount("-f")
    again = machine.try_mount()
    assert again.returncode
    assert "has moved from there" in again.stderr
    assert "has moved to nodes" in succeed(machine.tool("drivefs", "drives", "list"))


def test_what_cannot_be_moved_is_refused(account: Account) -> None:
    with account.machine() as machine:
        folder, here = machine.drive, machine.mountpoint
        asked: list[str | Path] = [
            "move-to",
            "--to-local",
            folder,
            here,
            "--passphrase-command",
            "echo secret",
        ]
        assert "no drive of a hub is mounted" in machine.tool("drivefs", *asked).stderr
        machine.mount()
        inside: list[str | Path] = ["move-to", "--to-local", here / "drive", here]
        assert "lies in the drive that is mounted" in machine.tool("drivefs", *inside).stderr
        too_few: list[str | Path] = [*asked, "--node", machine.folder / "n"]
        assert "needs 6 nodes, but 1 are given" in machine.tool("drivefs", *too_few).stderr
        folder.mkdir()
        (folder / "foreign").touch()
        assert "not empty, and no drive" in machine.tool("drivefs", *asked).stderr
        (folder / "foreign").unlink()
        other = MountedDrive(machine.folder)
        other.make()
        assert "is another drive" in machine.tool("drivefs", *asked).stderr
        assert machine.status().node_change is None
        machine.umount()

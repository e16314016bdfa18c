"""A drive on nodes moves to a real hub while programs write it, and is mounted there by two machines."""

from __future__ import annotations

import errno
import signal
import subprocess
import sys
from functools import partial

import pytest

from backend.remote import HubLogin, Logins
from tests.contents import KINDS, content
from tests.mount.hub_mounts import ACCOUNT_ROOT, QUOTED, Account, Away, soon
from tests.mount.mounted import MountedDrive, differences, succeed
from tests.mount.moving_drives import SIZE, Writer, fill

pytestmark = [pytest.mark.mount, pytest.mark.timeout(300)]


def test_a_move_that_is_interrupted_goes_on(drive: MountedDrive, hub: Away) -> None:
    account = Account(hub.running, is_empty=True)
    address = f"{hub.url}/{QUOTED}"
    Logins(drive.state / "hubs").save(
        HubLogin(hub.url, "me@example.org", account.new_token(), ACCOUNT_ROOT, 1)
    )
    drive.mount()
    here = drive.mountpoint
    for number in range(4):
        (here / f"f{number}").write_bytes(content("random", 3 << 20, number))
    drive.sync()
    arguments = ["move-to", address, str(here), "--key-file", str(drive.key)]
    program = "import sys; from tools.drivefs import main; main()"
    with subprocess.Popen(
        [sys.executable, "-c", program, *arguments, "--rate", "1M"],
        env=drive.variables(),
        stderr=subprocess.PIPE,
        text=True,
        # A shell that runs the tests in its background has SIGINT ignored by all of them.
        preexec_fn=partial(signal.signal, signal.SIGINT, signal.SIG_DFL),
    ) as command:
        soon(lambda: _step(drive) == "copying blocks", 60)
        command.send_signal(signal.SIGINT)
        _, said = command.communicate(timeout=60)
    assert command.returncode
    assert "stopped; the same command goes on with it" in said
    change = drive.status().node_change
    assert change is not None
    assert (change.running, change.problem) == (False, "stopped; the same command goes on with it")
    refused = drive.tool("mount.drivefs", address, here.parent / "cache", "-o", drive.folder_options())
    assert "not all of it has come yet" in refused.stderr
    (here / "goes on").write_bytes(b"here")
    drive.sync()
    succeed(drive.tool("drivefs", *arguments))
    drive.umount("-f")
    with account.machine() as other:
        other.mount()
        assert other.has("goes on", b"here")
        for number in range(4):
            assert other.has(f"f{number}", content("random", 3 << 20, number))


def _step(drive: MountedDrive) -> str:
    """The part of the move that is under way."""
    change = drive.status().node_change
    return "" if change is None else change.step


def test_a_drive_moves_while_a_program_writes(drive: MountedDrive, hub: Away) -> None:
    account = Account(hub.running, is_empty=True)
    address = f"{hub.url}/{QUOTED}"
    login = HubLogin(hub.url, "me@example.org", account.new_token(), ACCOUNT_ROOT, 1)
    Logins(drive.state / "hubs").save(login)
    drive.mount("commit_interval=1")
    here = drive.mountpoint
    fill(here)
    drive.sync()
    before = drive.status().commit
    succeed(drive.tool("drivefs", "pin", "--name", "before", here))
    (here / "kinds" / "text").write_bytes(b"newer")
    writer = Writer(here)
    writer.start()
    try:
        moved = succeed(drive.tool("drivefs", "move-to", address, here, "--key-file", drive.key))
        assert f"the drive is at {address} now" in moved
        with pytest.raises(OSError, match="late") as refused:
            (here / "late").write_bytes(b"x")
        assert refused.value.errno == errno.EROFS
        ended = writer.end()
        assert ended is not None
        # EIO where the kernel had taken a write, and had not handed it over: close says so.
        assert ended.errno in (errno.EROFS, errno.EIO)
    finally:
        writer.stop()
    assert (here / "kinds" / "text").read_bytes() == b"newer"
    assert "has moved to" in drive.status().problem
    drive.umount("-f")
    again = drive.try_mount()
    assert again.returncode
    assert f"has moved to {address}" in again.stderr
    assert f"has moved to {address}" in drive.tool("fsck.drivefs", *drive.where(), drive.drive).stderr
    options = ["-o", drive.folder_options()]
    succeed(drive.tool("mount.drivefs", address, here, *options))
    for name, data in writer.written.items():
        assert (here / name).read_bytes() == data
    (here / "after").write_bytes(b"written at the hub")
    succeed(drive.tool("drivefs", "sync", here))
    with account.machine() as other:
        other.mount()
        assert differences(here, other.mountpoint) == ""
        assert other.has("after", b"written at the hub")
        past = other.mountpoint / ".versions" / f"@{before}" / "kinds"
        for number, kind in enumerate(KINDS):
            assert (past / kind).read_bytes() == content(kind, SIZE, number)
        other.umount()
    drive.umount()

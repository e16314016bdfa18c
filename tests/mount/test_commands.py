"""The commands that tests fork are as those that are started, and none outlives the call that started it."""

from __future__ import annotations

import multiprocessing
import os
import resource
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest

from tests.mount import commands
from tests.mount.mounted import MountedDrive, succeed
from tests.waiting import wait_until

pytestmark = pytest.mark.mount
needs_map = pytest.mark.skipif(not commands.can_show(), reason="this kernel has no PR_SET_MM_MAP")


@pytest.fixture
def endless(tmp_path: Path) -> Iterator[Callable[[float], commands.Result]]:
    """A command that waits for its passphrase for ever, run with a limit of seconds."""
    pipe = tmp_path / "passphrase"
    os.mkfifo(pipe)
    arguments = ["--passphrase-file", str(pipe), str(tmp_path / "drive")]
    yield lambda seconds: commands.run("tools.mkfs", "mkfs.drivefs", arguments, os.environ, seconds)
    assert multiprocessing.active_children() == []


def test_one_that_takes_too_long_is_killed(endless: Callable[[float], commands.Result]) -> None:
    with pytest.raises(subprocess.TimeoutExpired):
        endless(0.5)


def test_one_that_is_no_longer_waited_for_is_killed(
    endless: Callable[[float], commands.Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Regression: what a test waited for at its time limit went on beside those that followed."""
    join = BaseProcess.join

    def interrupted(process: BaseProcess, timeout: float | None = None) -> None:
        if timeout is not None:
            raise KeyboardInterrupt
        join(process)

    monkeypatch.setattr(BaseProcess, "join", interrupted)
    with pytest.raises(KeyboardInterrupt):
        endless(60.0)


@needs_map
def test_one_that_is_forked_has_what_a_started_one_has(
    unmade_drive: MountedDrive, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Umask, folder and limits of the caller; no descriptor but three. Of a caller that ignores Ctrl-C, as
    in a shell's background, the started one alone would do so too."""
    drive = unmade_drive
    drive.programs["mount.drivefs"] = "tests.mount.shown_start"
    _shown(drive, forks=True)  # The process that forks is there, and has what there was before.
    monkeypatch.chdir(drive.folder)
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (limits[0] - 1, limits[1]))
    umask, interrupt = os.umask(0o27), signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        forked, started = (_shown(drive, forks=forks) for forks in (True, False))
    finally:
        signal.signal(signal.SIGINT, interrupt)
        os.umask(umask)
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    assert forked == started


def _shown(drive: MountedDrive, *, forks: bool) -> str:
    drive.forks = forks
    return succeed(drive.tool("mount.drivefs", "argument"))


@needs_map
def test_a_forked_one_is_found_among_the_processes_of_its_drive(unmade_drive: MountedDrive) -> None:
    """A mount that goes into the background and hangs is ended by that."""
    drive, codes = unmade_drive, list[int]()
    secret = drive.folder / "passphrase"
    os.mkfifo(secret)
    arguments = ("--passphrase-file", secret, drive.drive)
    work = threading.Thread(target=lambda: codes.append(drive.tool("mkfs.drivefs", *arguments).returncode))
    work.start()
    wait_until(lambda: len([*drive.processes()]) == 1, 60)
    drive.close()
    work.join()
    assert codes == [-9]

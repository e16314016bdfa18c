"""A drive in a folder of its own, made, mounted, killed and unmounted by the very commands that people use.

Every process that a drive starts carries the drive's tag in its environment, so that `close` finds and
ends what a failed test left behind (by process id), then takes its mount away: nothing outlives a test.
"""

from __future__ import annotations

import json
import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final, TypeVar

from cache.messages import MountStatus
from tests.mount import commands
from tools.control_client import ControlClient
from tools.errors import ToolError
from tools.host import mounts

ROOT: Final = Path(__file__).parents[2]
TOOL_SECONDS: Final = 120.0
_TAG: Final = "TEST_DRIVE_TAG"
_MODULES: Final = {
    "mkfs.drivefs": "tools.mkfs",
    "mount.drivefs": "tools.mount",
    "umount.drivefs": "tools.umount",
    "fsck.drivefs": "tools.fsck",
    "drivefs": "tools.drivefs",
}

Result = subprocess.CompletedProcess[str]


Drive = TypeVar("Drive", bound="MountedDrive")


class MountedDrive:
    """One drive: `drive` is its folder; `mountpoint`, `cache`, `state` lie beside it. Not mounted yet."""

    def __init__(self, folder: Path, drive: Path | None = None) -> None:
        self.folder = folder
        self.drive = drive or folder / "drive"
        self.mountpoint = folder / "mnt"
        self.cache = folder / "cache"
        self.state = folder / "state"
        self.key = folder / "key"
        self.environment: dict[str, str] = {}
        self.programs = dict(_MODULES)
        """the module behind each command"""
        self.forks = True
        """a test that looks at what a process has from its start says no"""
        self.expects_tracebacks = False
        """a test that has the mount meet what is a fault of drivefs says so"""
        self._logged_before = ""
        """of logs that are gone"""
        self.process_id: int | None = None
        self.patience = TOOL_SECONDS
        """the seconds that a command may take"""
        self._tag = uuid.uuid4().hex
        self.mountpoint.mkdir(exist_ok=True)

    # Commands

    def tool(self, name: str, *arguments: str | Path, timeout: float | None = None) -> Result:
        """Run the command `name` to its end, within `timeout` seconds (None: `patience`); no terminal to ask
        at."""
        try:
            return self._run(name, *arguments, timeout=timeout or self.patience)
        except subprocess.TimeoutExpired:
            self._print_stacks()
            raise

    def _run(self, name: str, *arguments: str | Path, timeout: float) -> Result:
        module = self.programs[name]
        if self.forks and commands.may_fork(name, self.environment):
            return commands.run(module, name, [*map(str, arguments)], self.variables(), timeout)
        return subprocess.run(
            commands.command_line(module, name, [*map(str, arguments)]),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="surrogateescape",
            timeout=timeout,
            env=self.variables(),
            check=False,
        )

    def _print_stacks(self) -> None:
        """Where each process of the drive is: a mount that hangs is killed when the test has failed."""
        program = Path(sys.executable).with_name("py-spy")
        for process in self.processes():
            command = [str(program), "dump", "--pid", str(process)]
            shown = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
            print(shown.stdout, shown.stderr, file=sys.stderr)

    def variables(self) -> dict[str, str]:
        """The environment of all that is started for this drive; `close` finds it by that."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith("DRIVEFS_")}
        own = {"PYTHONPATH": str(ROOT), _TAG: self._tag, "DRIVEFS_STATE_DIR": str(self.state)}
        return kept | own | self.environment

    def make(self, *arguments: str | Path) -> None:
        """`mkfs.drivefs` with a key file."""
        if not self.key.exists():
            self.key.touch(mode=0o600)
            self.key.write_bytes(os.urandom(32))
        succeed(self.tool("mkfs.drivefs", "-q", "--key-file", self.key, *arguments, self.drive))

    def try_mount(self, *options: str, where: Path | None = None) -> Result:
        """`mount.drivefs`, whatever comes of it. `options` come after those that every test needs."""
        given = ",".join([f"key_file={self.key}", self.folder_options(), *options])
        return self.tool("mount.drivefs", self.drive, where or self.mountpoint, "-o", given)

    def folder_options(self) -> str:
        """The mount options that say where cache and state are."""
        return f"cache_dir={self.cache},state_dir={self.state}"

    def where(self) -> list[str]:
        """For the tools: the key, and where cache and state are."""
        folders = ["--cache-dir", str(self.cache), "--state-dir", str(self.state)]
        return ["--key-file", str(self.key), *folders]

    def mount(self, *options: str) -> None:
        """Mount it; the process that serves it is `process_id` from then on."""
        succeed(self.try_mount(*options))
        self.process_id = ControlClient.of_mount(str(self.mountpoint)).process_id()

    def umount(self, *arguments: str) -> None:
        """`umount.drivefs`: drain, unmount. The process has ended then, also if a test beside this one took a
        copy of the mount along into a mount namespace of its own."""
        process, self.process_id = self.process_id, None
        succeed(self.tool("umount.drivefs", *arguments, self.mountpoint))
        if process is not None:
            wait_for_end(process, self.patience)

    def fsck(self, *arguments: str) -> int:
        """`fsck.drivefs` of the drive, which is not mounted: its exit code. A failing test shows the rest."""
        ended = self.tool("fsck.drivefs", *arguments, *self.where(), self.drive)
        print(ended.stdout, ended.stderr, file=sys.stderr)
        return ended.returncode

    def sync(self) -> None:
        """What `drivefs sync` does, in this process: all that was written before is stored and published."""
        synced = ControlClient.of_mount(str(self.mountpoint)).sync(str(self.mountpoint), self.patience)
        assert not synced.short, synced.short

    def status(self) -> MountStatus:
        """What the mount says of itself."""
        return ControlClient.of_mount(str(self.mountpoint)).status()

    def kill(self) -> None:
        """SIGKILL to the process behind the mount; returns when it is gone. The dead mount stays."""
        assert self.process_id is not None
        end(self.process_id)
        self.process_id = None

    def detach(self) -> None:
        """`umount -l` of the dead mount."""
        mounts.unmount(str(self.mountpoint), lazy=True)

    def remount(self, *options: str) -> None:
        """After `kill`."""
        self.detach()
        self.mount(*options)

    # What lies underneath

    def wipe_cache(self) -> None:
        """As on a machine that has never seen the drive."""
        self._logged_before += self.log()
        for folder in (self.cache, self.state):
            shutil.rmtree(folder, ignore_errors=True)

    def nodes(self) -> list[Path]:
        """The nodes' folders."""
        return [self.drive / f"node{number}" for number in range(6)]

    def take_away(self, numbers: Iterable[int]) -> None:
        """The nodes `numbers` are not there any more."""
        for number in numbers:
            (self.drive / f"node{number}").rename(self.drive / f"away{number}")

    def bring_back(self) -> None:
        """All nodes are there again."""
        for away in self.drive.glob("away*"):
            away.rename(self.drive / away.name.replace("away", "node"))

    def bytes_on_nodes(self) -> int:
        """What the nodes occupy on their disk."""
        return sum(path.lstat().st_blocks * 512 for node in self.nodes() for path in node.rglob("*"))

    def log(self) -> str:
        """The mount's log."""
        return "".join(path.read_text(errors="replace") for path in self.state.glob("*/mount.log"))

    def tracebacks(self) -> list[str]:
        """What its mounts logged with a traceback: errors that nobody raised on purpose, so faults of
        drivefs, which a process only sees as EIO."""
        lines = (self._logged_before + self.log()).splitlines()
        entries = [json.loads(line) for line in lines if '"traceback": ' in line and line.endswith("}")]
        return [f"{entry['message']}\n{entry['traceback']}" for entry in entries]

    def check_log(self) -> None:
        """Fail if there are such that no test expects."""
        found = [] if self.expects_tracebacks else self.tracebacks()
        assert not found, "a mount logged what is a fault of drivefs:\n" + "\n".join(found)

    # The end

    def close(self) -> None:
        """End what is still running, take the mount away, whatever state they are in. Idempotent."""
        for process in {*self.processes(), *self._mount_processes()}:
            end(process)
        for mount in reversed(mounts.mounts()):
            if Path(mount.mountpoint).is_relative_to(self.folder):
                subprocess.run(["umount", "-i", "-l", mount.mountpoint], check=False)
                if mounts.find(mount.mountpoint) is not None:
                    mounts.unmount(mount.mountpoint, lazy=True)

    def processes(self) -> Iterator[int]:
        """The ids of all processes that were started for this drive and run."""
        mark = f"{_TAG}={self._tag}".encode()
        for entry in Path("/proc").iterdir():
            if entry.name.isdecimal() and int(entry.name) != os.getpid() and mark in _environment_of(entry):
                yield int(entry.name)

    def _mount_processes(self) -> Iterator[int]:
        """Those that serve a mount: nobody but root may read the environment of such a process."""
        for mount in mounts.drives():
            if Path(mount.mountpoint).is_relative_to(self.folder):
                with suppress(ToolError):  # it is gone
                    yield ControlClient.of_mount(mount.mountpoint).process_id()


def _environment_of(process: Path) -> list[bytes]:
    try:
        return (process / "environ").read_bytes().split(b"\0")
    except OSError:
        return []  # gone meanwhile, or another user's


def end(process: int) -> None:
    """SIGKILL to `process`; returns when it is gone."""
    try:
        descriptor = os.pidfd_open(process)
    except ProcessLookupError:
        return
    try:
        signal.pidfd_send_signal(descriptor, signal.SIGKILL)
    except ProcessLookupError:
        return
    finally:
        _wait_for_end(descriptor)


def _wait_for_end(descriptor: int, seconds: float = 30) -> None:
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    ended = poll.poll(seconds * 1000)
    os.close(descriptor)
    assert ended, f"a process that should end has not ended after {seconds} s"


def wait_for_end(process: int, seconds: float = 30) -> None:
    """Return when `process`, which somebody else ends, has ended."""
    try:
        _wait_for_end(os.pidfd_open(process), seconds)
    except ProcessLookupError:
        return


def succeed(result: Result) -> str:
    """The output of a command that has to succeed without a word of complaint but warnings."""
    assert result.returncode == 0, f"{result.args[-4:]}: code {result.returncode}\n{result.stderr}"
    return result.stdout


@contextmanager
def taken_away(drive: Drive) -> Iterator[Drive]:
    """The drive; its folder and all that runs in it is gone afterwards. Its log has no fault of drivefs."""
    try:
        yield drive
    finally:
        drive.close()
        left = [each for each in mounts.mounts() if Path(each.mountpoint).is_relative_to(drive.folder)]
        assert not left, "a mount could not be taken away"
        try:
            drive.check_log()
        finally:
            shutil.rmtree(drive.folder)


def new_folder() -> Path:
    """A folder that other users may pass through, unlike pytest's own; the caller removes it."""
    folder = Path(tempfile.mkdtemp(prefix="drivefs-test-"))
    folder.chmod(0o755)
    return folder


def run(*command: str | Path, timeout: float = TOOL_SECONDS, **options: Any) -> str:
    """The output of a program that has to succeed."""
    result: Result = subprocess.run(
        [*map(str, command)],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="surrogateescape",
        timeout=timeout,
        check=False,
        **options,
    )
    said = f"{command}: {result.returncode}\n{result.stdout[-2000:]}{result.stderr[-2000:]}"
    assert result.returncode == 0, said
    return result.stdout


def differences(source: Path, copy: Path) -> str:
    """What `diff -r` sees of the contents and `rsync -aHAX` of the attributes: nothing, if `copy` is one in
    contents, names and attributes (diff calls any two FIFOs different)."""
    contents = subprocess.run(
        ["diff", "-r", "--no-dereference", "--exclude=fifo*", source, copy],
        capture_output=True,
        text=True,
        check=False,
    )
    attributes = subprocess.run(
        ["rsync", "-aHAX", "--dry-run", "--delete", "--itemize-changes", f"{source}/", f"{copy}/"],
        capture_output=True,
        text=True,
        check=False,
    )
    said = [contents.stdout, contents.stderr, attributes.stdout, attributes.stderr]
    return "".join(said) + ("" if contents.returncode == attributes.returncode == 0 else "(failed)")


PERFORM: Final = """
import errno, json, os, sys
job = json.load(sys.stdin)
if job["user"]:
    os.setgroups(job["groups"]); os.setgid(job["group"]); os.setuid(job["user"])
os.umask(0)
for name, arguments in job["calls"]:
    try:
        getattr(os, name)(*(tuple(each) if isinstance(each, list) else each for each in arguments))
        print("ok")
    except OSError as error:
        print(errno.errorcode[error.errno])
"""


def perform(
    user: int, *calls: Sequence[Any], group: int | None = None, groups: Sequence[int] = ()
) -> list[str]:
    """What a process of `user` gets for each call `(name in os, arguments...)`: "ok" or the errno's name."""
    job: Mapping[str, Any] = {
        "user": user,
        "group": user if group is None else group,
        "groups": [*groups],
        "calls": [
            (name, [os.fspath(each) if isinstance(each, Path) else each for each in arguments])
            for name, *arguments in calls
        ],
    }
    result = subprocess.run(
        [sys.executable, "-c", PERFORM], input=json.dumps(job), capture_output=True, text=True, check=True
    )
    return result.stdout.split()

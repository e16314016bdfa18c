"""A drive that is open for its S3 doors alone, without a mount: `drivefs s3 serve DRIVE`, and its access
keys.

It has a control socket as a mount has, so that keys can be changed while it is served.
"""

from __future__ import annotations

import os
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import trio

from backend import file_limit
from backend.errors import sole
from backend.system import THIS_MACHINE, share_one_heap
from cache.drive import Drive
from cache.messages import Call, MountStatus, S3DoorWanted, by_name
from cache.opening import DriveOptions
from cache.services import services_of
from gateway.control import Commands, ControlServer
from mountfs.cycle_collection import collect_cycles_when_idle
from mountfs.process_tuning import prepare_process
from tools import compose, drive_opening
from tools.compose import UnlockedDrive
from tools.errors import ToolError
from tools.host import places
from tools.host.logs import log_to_terminal
from tools.host.places import Folders
from tools.s3_doors import S3Doors
from tools.secret_source import SecretSource
from tools.terminal import complain, say

Question = TypeVar("Question")
Answer = TypeVar("Answer")


@dataclass(frozen=True, slots=True)
class Where:
    """A drive as a command names it. `drive`: its folder, absolute."""

    drive: str
    passphrase_file: str | None
    key_file: str | None
    passphrase_command: str | None
    cache_dir: str | None
    state_dir: str | None

    def folders(self) -> Folders:
        """Those that the drive has on this machine."""
        drive_id = compose.load_drive(self.drive).id.hex()
        return places.folders(drive_id, self.cache_dir, self.state_dir, os.environ)

    def unlocked(self) -> UnlockedDrive:
        """The drive, with its keys; a person may be asked."""
        source = SecretSource.chosen(os.environ, self.passphrase_file, self.key_file, self.passphrase_command)
        return compose.unlock(self.drive, compose.load_drive(self.drive), source.secrets())


def answer(where: Where, call: Call[Question, Answer], question: Question) -> Answer:
    """The answer of the drive, opened for this question; what it changed is stored."""
    drive, own = where.unlocked(), _own(where)

    async def ask() -> Answer:
        async with _running(drive, own) as opened:
            service = by_name(S3Doors(opened, drive.keys).services())[call.name]
            found: Answer = await service.answer(question)
            await opened.sync()
            return found

    found: Answer = _run(ask)
    return found


def serve(where: Where, wanted: S3DoorWanted) -> int:
    """Serve it until SIGTERM or SIGINT; then all is stored. A second one ends at once: `ToolError`. To be
    called before the process has had any thread."""
    share_one_heap()
    prepare_process()
    drive, own = where.unlocked(), _own(where)
    log_to_terminal(verbose=False)

    async def run() -> bool:
        async with _running(drive, own) as opened:
            return await _serve(opened, drive, own, wanted)

    if not _run(run):
        raise ToolError("ended before all was stored; what is left is stored when the drive is opened next")
    return 0


def _own(where: Where) -> Folders:
    file_limit.raise_as_far_as_allowed()
    own = where.folders()
    for folder in (own.cache, own.state):
        places.make_private_folder(str(folder), THIS_MACHINE.disk)
    places.check_state_disk(own.state)
    return own


def _run(work: Callable[[], Any]) -> Any:
    try:
        return trio.run(work)
    except BaseExceptionGroup as group:
        raise sole(group) from None


@asynccontextmanager
async def _running(drive: UnlockedDrive, own: Folders) -> AsyncIterator[Drive]:
    opening = drive_opening.opened_drive(drive, own, DriveOptions(), waiting=_tell)
    async with opening as opened, trio.open_nursery() as nursery:
        for notice in opened.notices:
            _tell(f"warning: {notice}")
        await nursery.start(opened.run)
        yield opened
        nursery.cancel_scope.cancel()


async def _serve(drive: Drive, unlocked: UnlockedDrive, own: Folders, wanted: S3DoorWanted) -> bool:
    """Whether all is stored."""
    is_stored = False
    doors, asked_to_end = S3Doors(drive, unlocked.keys), trio.Event()
    control = ControlServer(own.control, doors.beside(_commands(drive, own, asked_to_end.set)))
    async with trio.open_nursery() as nursery:
        await nursery.start(_obey_signals, asked_to_end, nursery.cancel_scope)
        await nursery.start(control.serve)
        await nursery.start(doors.run)
        scheme = "https" if wanted.certificate else "http"
        for address in (await doors.open(wanted)).addresses:
            say(f"{unlocked.folder} is served at {scheme}://{address}")
        nursery.start_soon(collect_cycles_when_idle, doors.idle_seconds)
        await asked_to_end.wait()
        await doors.end()
        await drive.sync()
        is_stored = True
        nursery.cancel_scope.cancel()
    return is_stored


def _commands(drive: Drive, own: Folders, end: Callable[[], None]) -> Commands:
    folders = {"cache": str(own.cache), "state": str(own.state)}

    async def status() -> MountStatus:
        return MountStatus.of(await drive.status(), versions_dir="", folders=folders)

    async def write_back() -> str:
        return ""

    return Commands(
        status=status,
        sync=drive.sync,
        write_back=write_back,
        unmount=end,
        notice=lambda: drive.lost_journal,
        redundancy=drive.redundancy,
        calls=services_of(drive),
    )


async def _obey_signals(
    asked: trio.Event, scope: trio.CancelScope, task_status: trio.TaskStatus[None]
) -> None:
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as received:
        task_status.started()
        async for _ in received:
            if asked.is_set():
                scope.cancel()
            asked.set()


def _tell(line: str) -> None:
    complain(f"drivefs: {line}")

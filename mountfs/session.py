"""One mount, from `mount(2)` to the last reply: the loop, the signals, the control socket, the way out.

Ways out, and what each does:
- SIGTERM, SIGINT or `POST /unmount`: the kernel's dirty pages are written back, all accepted is stored and
  published (`Drive.sync`), and the mount goes. A file that is still open keeps the name space busy: then the
  mount is detached (umount2(2), MNT_DETACH), what was written is drained, and the process ends all the same.
  A drain that cannot finish (nodes away) leaves the rest to the journal and says so.
- a second SIGTERM or SIGINT: at once. What the kernel had not yet handed over, or was not yet answered, is
  lost, as in a crash; the journal has all else.
- `umount` or `fusermount3 -u` from outside: the kernel has written everything back; the serving ends, and the
  journal goes on at the next mount. If the journal has lost its names (`cache.journal.custody`), all is
  stored first.
- the drive's background work fails: as on SIGTERM, without waiting for the store, and the error is raised.
SIGHUP is ignored: a mount outlives the terminal it was made in.

Invariants:
1. One nursery owns everything: the drive's background tasks, the control socket, the signals, pyfuse3's
   workers. The workers' end ends the nursery.
2. While dirty pages may be left in the kernel, the workers serve: every unmounting call runs in a thread,
   and the device is closed only after it.
3. Whatever happens, the mountpoint is not left behind as a dead mount.
"""

from __future__ import annotations

import ctypes
import logging
import os
import signal
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Final, TypeVar, TypeVarTuple
from urllib.parse import quote

import pyfuse3
import trio

from backend.errors import DriveError, FencedError, UsageError
from cache.drive import Drive
from cache.errors import FileSystemError
from cache.services import calls_of
from mountfs.control import Commands, serve_control, serve_device
from mountfs.fuse_device import (
    ASYNC_DIO,
    DONT_MASK,
    HANDLE_KILLPRIV_V2,
    Handshake,
    is_mounted,
    mount_device,
    take_out,
)
from mountfs.fuse_loop import MAX_TASKS, PollingLoop, has_known_seam, installed, interrupting
from mountfs.garbage import collect_when_idle
from mountfs.kernel_notices import KernelNotices
from mountfs.mount_calls import MNT_DETACH, raise_read_ahead, sync_by_process, syncfs, umount2
from mountfs.operations import DriveOperations
from mountfs.versions import DEFAULT_NAME, VersionsView

STORE_AGAIN_SECONDS: Final = 2.0

SWITCH_SECONDS: Final = 0.0005
"""How long a thread may keep the interpreter from the loop. Python's 5 ms would be five hundred requests."""

_PR_SET_DUMPABLE: Final = 4

R = TypeVar("R")
Ts = TypeVarTuple("Ts")

_libc: Final = ctypes.CDLL(None, use_errno=True)
_own_calls: Final = trio.CapacityLimiter(8)
"""Calls into our own mount. Apart from trio's shared limit: threads that wait for us must not keep out those
that we wait for."""

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class MountOptions:
    """How to mount. `source` is what mount(8) shows; `access_times` False is noatime; `dumpable` lets
    debuggers and core dumps see the process, keys included. `versions_name` is the hidden directory's (None:
    there is none); with `as_of` (a name of a moment, `cache.past_names`) the mount shows the drive then, and
    is nosuid: a set-ID bit that was taken away since means nothing. `access_lists`: with POSIX ACLs.
    `folders`: those that the drive has on this machine, by what they are for, to say so to who asks."""

    source: str
    control_socket: Path
    read_only: bool = False
    allow_other: bool = False
    suid: bool = True
    dev: bool = True
    exec: bool = True
    access_times: bool = True
    access_lists: bool = True
    dumpable: bool = False
    versions_name: bytes | None = DEFAULT_NAME
    as_of: str = ""
    folders: Mapping[str, str] = field(default_factory=dict)

    def words(self) -> set[str]:
        """The `-o` words of mount.fuse3(8). Only root may mount with `suid` and `dev`: without it
        fusermount3 forces `nosuid` and `nodev`."""
        words = {"default_permissions", "subtype=drivefs", "fsname=" + _escaped(self.source)}
        suid = self.suid and not self.as_of
        chosen = {
            "ro": self.read_only,
            "allow_other": self.allow_other,
            "suid" if suid else "nosuid": os.geteuid() == 0 or not suid,
            "dev" if self.dev else "nodev": os.geteuid() == 0 or not self.dev,
            "noexec": not self.exec,
            "noatime": not self.access_times,
        }
        return words | {word for word, wanted in chosen.items() if wanted}


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace(",", "\\,")


@dataclass(slots=True)
class _Mount:
    """What `_mounted` made. `detached`: it is out of the tree already."""

    loop: PollingLoop | None
    detached: bool = False

    def idle_seconds(self) -> float:
        """For how long nothing has been asked; 0 if that is not known."""
        return 0.0 if self.loop is None else self.loop.idle_seconds()

    def terminate(self) -> None:
        (pyfuse3.terminate if self.loop is None else self.loop.stop)()


class _Session:
    """A mounted file system that is being served."""

    def __init__(self, drive: Drive, mountpoint: Path, options: MountOptions) -> None:
        self._drive = drive
        self._mountpoint = mountpoint
        self._options = options
        self._stop_requested = trio.Event()
        self._scope = trio.CancelScope()
        self._serving = False
        self._failure: Exception | None = None

    async def run(self, on_ready: Callable[[], None]) -> None:
        with self._scope:
            async with trio.open_nursery() as nursery:
                await nursery.start(self._obey_signals)
                await nursery.start(self._run_drive)
                await nursery.start(serve_control, self._options.control_socket, self._commands())
                await self._serve(on_ready)
                if self._stop_requested.is_set() or self._drive.is_only_here:
                    await self._store_everything()
                nursery.cancel_scope.cancel()
        if self._failure is not None:
            raise self._failure

    async def _run_drive(self, task_status: trio.TaskStatus[None]) -> None:
        """`Drive.run`; if it fails in service, unmount in good order, so that no dirty page is lost."""
        try:
            await self._drive.run(task_status)
        except Exception as error:
            if not self._serving:
                raise
            log.exception("the drive's background work failed: unmounting; the journal keeps all accepted")
            self._failure = error
            self._stop_requested.set()

    async def _serve(self, on_ready: Callable[[], None]) -> None:
        """From mount(2) until nobody can send a request any more."""
        options = self._options
        operations = DriveOperations(
            self._drive,
            os.fsencode(options.control_socket),
            access_times=options.access_times,
            access_lists=options.access_lists and has_known_seam(),
            view=self._view(),
        )
        with _mounted(operations, self._mountpoint, options) as mount:
            self._serving = True
            notices = KernelNotices()
            self._drive.changed_from_inside = notices.tell
            try:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._announce, nursery, on_ready)
                    nursery.start_soon(self._unmount_when_asked, mount)
                    nursery.start_soon(collect_when_idle, mount.idle_seconds)
                    await pyfuse3.main(min_tasks=MAX_TASKS, max_tasks=MAX_TASKS)
                    nursery.cancel_scope.cancel()
            finally:
                await notices.close()

    def _view(self) -> VersionsView:
        as_of = self._options.as_of
        if not as_of:
            return VersionsView(self._drive, self._options.versions_name)
        try:
            commit = self._drive.past.commit_named(as_of)
        except FileSystemError as error:
            raise UsageError(f"asof={as_of}: {error}") from None
        return VersionsView(self._drive, None, commit)

    async def _status(self) -> Mapping[str, Any]:
        """The drive's, and what this mount is."""
        name = None if self._options.as_of else self._options.versions_name
        own = {"versions_dir": quote(name or b""), "folders": dict(self._options.folders)}
        status = await self._drive.status()
        if hidden := own.keys() & status.keys():
            raise AssertionError(f"two values of {', '.join(hidden)} in one status")
        return {**status, **own}

    def _commands(self) -> Commands:
        return Commands(
            status=self._status,
            sync=self._drive.sync,
            write_back=partial(sync_by_process, self._mountpoint),
            unmount=self._stop_requested.set,
            notice=lambda: self._drive.lost_journal,
            redundancy=self._drive.redundancy,
            calls=calls_of(self._drive),
        )

    async def _obey_signals(self, task_status: trio.TaskStatus[None]) -> None:
        with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT, signal.SIGHUP) as received:
            task_status.started()
            async for number in received:
                if number != signal.SIGHUP:
                    self._obey(signal.Signals(number).name)

    def _obey(self, name: str) -> None:
        if not self._stop_requested.is_set():
            log.info("%s: storing everything, then unmounting", name)
            self._stop_requested.set()
            return
        left = "is lost" if self._drive.is_only_here else "stays in the journal"
        log.warning("%s again: stopping at once; what is not stored yet %s", name, left)
        self._scope.cancel()

    async def _announce(self, nursery: trio.Nursery, on_ready: Callable[[], None]) -> None:
        """Call `on_ready` once the mount answers, which takes the kernel, the loop and the drive, and can be
        found by its device."""
        try:
            device = (await _in_thread(os.stat, self._mountpoint)).st_dev
        except OSError as error:
            log.warning("the mount does not answer: %s", error)
            return
        if os.geteuid() == 0:
            await _in_thread(raise_read_ahead, device)
        await nursery.start(serve_device, device, self._commands())
        on_ready()

    async def _unmount_when_asked(self, mount: _Mount) -> None:
        await self._stop_requested.wait()
        # The long part, while the drive can still be used: unmounting then has little left to write back.
        await self._write_back()
        await self._store_everything()
        if await _unmount(self._mountpoint):
            return  # the workers are told by the kernel, and end
        log.warning("%s is in use: detaching it, what is still open will fail", self._mountpoint)
        await self._write_back(mount)
        await self._store_everything()
        mount.terminate()

    async def _write_back(self, to_detach: _Mount | None = None) -> None:
        """Have the kernel hand over all dirty pages, after taking the mount out of the tree if asked to."""
        try:
            folder = await _in_thread(os.open, self._mountpoint, os.O_RDONLY | os.O_DIRECTORY)
            try:
                if to_detach is not None:
                    to_detach.detached = await _unmount(self._mountpoint, lazily=True)
                await _in_thread(syncfs, folder)
            finally:
                await _in_thread(os.close, folder)
        except OSError as error:
            log.error("%s: not everything was written back: %s", self._mountpoint, error)

    async def _store_everything(self) -> None:
        """What cannot be stored stays in the journal. Where that is lost it is tried until it is done, as
        this process alone has it; a second signal ends it."""
        while self._failure is None:
            try:
                await self._drive.sync()
                return
            except (DriveError, FileSystemError, OSError) as error:
                if not self._drive.is_only_here or isinstance(error, FencedError):
                    log.error("not everything could be stored, the journal keeps the rest: %s", error)
                    return
                log.error("not everything could be stored, and it is nowhere else; trying again: %s", error)
            await trio.sleep(STORE_AGAIN_SECONDS)


async def serve(drive: Drive, mountpoint: Path, options: MountOptions, on_ready: Callable[[], None]) -> None:
    """Mount `drive` on `mountpoint`, call `on_ready` when it answers, and serve it until it is unmounted.
    Returns with the mount gone and `drive.run` ended; the caller closes the drive. Main thread of the process
    (signals); one mount per process (libfuse's session is a global of pyfuse3). `UsageError`: it cannot be
    mounted there, libfuse has said why on stderr. What `drive.run` raises is raised."""
    try:
        await _Session(drive, mountpoint, options).run(on_ready)
    except ExceptionGroup as group:
        raise _sole(group) from None


def prepare_process(options: MountOptions) -> None:
    """Settings of the whole process that serves a mount (its heap: `mountfs.heap`)."""
    if not options.dumpable:
        _libc.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)
    sys.setswitchinterval(SWITCH_SECONDS)


def _sole(error: Exception) -> Exception:
    """What the nurseries wrapped, if it is one error."""
    while isinstance(error, ExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    return error


@contextmanager
def _mounted(operations: DriveOperations, mountpoint: Path, options: MountOptions) -> Iterator[_Mount]:
    if not has_known_seam():
        log.warning(
            "pyfuse3 %s is not the known one: requests wait the slow way, and there are no POSIX ACLs",
            pyfuse3.__version__,
        )
        yield from _mounted_by_libfuse(operations, mountpoint, options)
        return
    device = mount_device(mountpoint, options.words())
    wanted = HANDLE_KILLPRIV_V2 | (DONT_MASK if operations.enable_acl else 0)
    handshake = Handshake(device, wanted, ASYNC_DIO)
    mount = _Mount(None)
    try:
        with interrupting() as alarm:
            loop = PollingLoop(handshake.descriptor, handshake=handshake.steps(), alarm=alarm)
            mount.loop = loop
            operations.large_writes.turn = loop.turn
            pyfuse3.init(operations, handshake.path, {"default_permissions"})
            with installed(loop):
                yield mount
    finally:
        there = not mount.detached and is_mounted(handshake.descriptor)
        # First the device, so that nobody waits for an answer: not even the unmounting.
        handshake.close()
        pyfuse3.close(unmount=False)
        if there:
            take_out(mountpoint)


def _mounted_by_libfuse(
    operations: DriveOperations, mountpoint: Path, options: MountOptions
) -> Iterator[_Mount]:
    mount = _Mount(None)
    try:
        pyfuse3.init(operations, os.fspath(mountpoint), options.words())
    except RuntimeError as error:
        raise UsageError(f"cannot mount on {mountpoint}: {error}") from None
    try:
        yield mount
    finally:
        # Closes the device, then detaches the mountpoint if it is still there; never waits.
        pyfuse3.close(unmount=not mount.detached)


async def _in_thread(call: Callable[[*Ts], R], *args: *Ts) -> R:
    """`call` may need our own loop to answer, or wait for ever: it is abandoned on cancellation."""
    return await trio.to_thread.run_sync(call, *args, abandon_on_cancel=True, limiter=_own_calls)


async def _unmount(mountpoint: Path, *, lazily: bool = False) -> bool:
    """Whether `mountpoint` is unmounted now; False if it is in use. The kernel writes back first."""
    if os.geteuid() == 0:
        return await _in_thread(umount2, mountpoint, MNT_DETACH if lazily else 0)
    command = ["fusermount3", "-u", *(["-z"] if lazily else []), "--", os.fspath(mountpoint)]
    result = await trio.run_process(command, check=False, capture_stderr=True)
    return result.returncode == 0

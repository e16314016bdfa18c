"""One mount, from `mount(2)` to the last reply: the loop, the signals, the control socket, the way out.

Ways out, and what each does:
- SIGTERM, SIGINT or `POST /unmount`: all is stored, and the mount goes (`mountfs.ending`).
- a second SIGTERM or SIGINT: at once. What the kernel had not yet handed over, or was not yet answered, is
  lost, as in a crash; the journal has all else.
- `umount` or `fusermount3 -u` from outside: the kernel has written everything back; the serving ends, and the
  journal goes on at the next mount. If the journal has lost its names (`cache.journal.custody`), all is
  stored first.
- the drive's background work fails: as on SIGTERM, without waiting for the store, and the error is raised.
SIGHUP is ignored: a mount outlives the terminal it was made in.

Invariant: one nursery owns everything: the drive's background tasks, the control socket, the signals,
pyfuse3's workers. The workers' end ends the nursery.
"""

from __future__ import annotations

import logging
import os
import signal
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Protocol

import pyfuse3
import trio

from backend.errors import UsageError, sole
from cache.drive import Drive
from cache.errors import FileSystemError
from cache.services import VersionsView
from cache.sync import Listener
from mountfs.attachment import attached
from mountfs.cycle_collection import collect_cycles_when_idle
from mountfs.ending import Ending
from mountfs.fuse_loop import MAX_TASKS, has_known_seam
from mountfs.kernel_notices import AT_ONCE, KernelNotices
from mountfs.killed_callers import can_tell, is_killed
from mountfs.mount_calls import in_thread, raise_read_ahead, sync_by_process
from mountfs.node_drive import NodeDrive
from mountfs.request_handlers import RequestHandlers
from mountfs.session_options import SessionOptions

log = logging.getLogger(__name__)


class ControlEndpoint(Protocol):
    """What answers questions and requests about the mount while the mount is served."""

    path: Path
    """the socket's file"""

    async def serve(self, task_status: trio.TaskStatus[None]) -> None:
        """On `path`, until cancelled."""

    async def serve_device(self, device: int, task_status: trio.TaskStatus[None]) -> None:
        """Be found by the mount's device number (`st_dev`), until cancelled."""


class Session:
    """A drive that is mounted on `mountpoint` and served. One per process (libfuse's session is a global of
    pyfuse3), in its main thread (signals)."""

    def __init__(self, drive: Drive, mountpoint: Path, options: SessionOptions) -> None:
        self._drive = drive
        self._mountpoint = mountpoint
        self._options = options
        self._ending = Ending(drive, mountpoint)
        self._scope = trio.CancelScope()
        self._serving = False

    def ask_to_end(self) -> None:
        """As SIGTERM does: all is stored, then the mount goes. Idempotent; on the event loop's thread."""
        self._ending.ask()

    async def write_back(self) -> str:
        """Have the kernel hand over what it holds itself; what there is to complain of, if anything."""
        return await sync_by_process(self._mountpoint)

    async def serve(
        self,
        control: ControlEndpoint,
        on_ready: Callable[[], None],
        before_storing: Callable[[], Awaitable[None]] = trio.lowlevel.checkpoint,
    ) -> None:
        """Mount, call `on_ready` when the mount answers, and serve it until it is unmounted; then
        `before_storing` ends what else changes the drive. Once. Returns
        with the mount gone and `drive.run` ended; the caller closes the drive. `UsageError`: it cannot be
        mounted there, libfuse has said why on stderr. What `drive.run` raises is raised."""
        try:
            await self._run(control, on_ready, before_storing)
        except ExceptionGroup as group:
            raise sole(group) from None

    async def _run(
        self,
        control: ControlEndpoint,
        on_ready: Callable[[], None],
        before_storing: Callable[[], Awaitable[None]],
    ) -> None:
        with self._scope:
            async with trio.open_nursery() as nursery:
                await nursery.start(self._obey_signals)
                await nursery.start(self._run_drive)
                await nursery.start(control.serve)
                await self._serve(control, on_ready)
                await before_storing()
                if self._ending.is_asked or self._drive.is_only_here:
                    await self._ending.store_everything()
                nursery.cancel_scope.cancel()
        if self._ending.failure is not None:
            raise self._ending.failure

    async def _run_drive(self, task_status: trio.TaskStatus[None]) -> None:
        """`Drive.run`; if it fails in service, unmount in good order, so that no dirty page is lost."""
        try:
            await self._drive.run(task_status)
        except Exception as error:
            if not self._serving:
                raise
            log.exception("the drive's background work failed: unmounting; the journal keeps all accepted")
            self._ending.fail(error)

    async def _serve(self, control: ControlEndpoint, on_ready: Callable[[], None]) -> None:
        """From mount(2) until nobody can send a request any more."""
        options = self._options
        nodes = NodeDrive(self._drive) if self._drive.is_shared else None
        handlers = RequestHandlers(
            nodes or self._drive,
            os.fsencode(control.path),
            access_times=options.access_times,
            access_lists=options.access_lists and has_known_seam(),
            coherent_opens=options.coherent_opens,
            view=self._view(),
        )
        with attached(handlers, self._mountpoint, options) as attachment:
            self._serving = True
            notices = KernelNotices()
            tell: Listener = notices.tell
            if nodes is not None:
                tell = nodes.watching(handlers.folders, notices.tell, handlers.opened_for_writing)
            try:
                async with trio.open_nursery() as nursery:
                    await nursery.start(self._drive.changes.serve, "the kernel", tell, AT_ONCE)
                    nursery.start_soon(self._announce, nursery, control, on_ready)
                    nursery.start_soon(self._ending.unmount_when_asked, attachment)
                    nursery.start_soon(collect_cycles_when_idle, attachment.idle_seconds)
                    if can_tell():
                        nursery.start_soon(self._drive.slow_waits.cut_off, is_killed)
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

    async def _obey_signals(self, task_status: trio.TaskStatus[None]) -> None:
        with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT, signal.SIGHUP) as received:
            task_status.started()
            async for number in received:
                if number != signal.SIGHUP:
                    self._obey(signal.Signals(number).name)

    def _obey(self, name: str) -> None:
        if not self._ending.is_asked:
            log.info("%s: storing everything, then unmounting", name)
            self._ending.ask()
            return
        left = "is lost" if self._drive.is_only_here else "stays in the journal"
        log.warning("%s again: stopping at once; what is not stored yet %s", name, left)
        self._scope.cancel()

    async def _announce(
        self, nursery: trio.Nursery, control: ControlEndpoint, on_ready: Callable[[], None]
    ) -> None:
        """Call `on_ready` once the mount answers, which takes the kernel, the loop and the drive, and can be
        found by its device."""
        try:
            device = (await in_thread(os.stat, self._mountpoint)).st_dev
        except OSError as error:
            log.warning("the mount does not answer: %s", error)
            return
        if os.geteuid() == 0:
            await in_thread(raise_read_ahead, device)
        await nursery.start(control.serve_device, device)
        on_ready()

"""The end of a mount that was asked for, and what is stored before it.

What is left in the kernel is written back, all accepted is stored and published (`Drive.sync`), and the mount
goes. A file that is still open keeps the name space busy: then the mount is detached (umount2(2),
MNT_DETACH), what was written is drained, and the process ends all the same. A drain that cannot finish (nodes
away) leaves the rest to the journal and says so.

Invariant: while dirty pages may be left in the kernel the workers serve: every unmounting call runs in a
thread, and the device is closed only after it.
"""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Final

import trio

from backend.errors import DriveError, FencedError
from cache.drive import Drive
from cache.errors import FileSystemError
from mountfs.attachment import Attachment, unmount
from mountfs.mount_calls import in_thread, syncfs

STORE_AGAIN_SECONDS: Final = 2.0

log = logging.getLogger(__name__)


class Ending:
    """See the module. `ask` begins it; after `fail`, without waiting for the store."""

    def __init__(self, drive: Drive, mountpoint: Path) -> None:
        self._drive = drive
        self._mountpoint = mountpoint
        self._requested = trio.Event()
        self.failure: Exception | None = None
        """why the drive cannot go on"""

    @property
    def is_asked(self) -> bool:
        return self._requested.is_set()

    def ask(self) -> None:
        """The mount shall end. Idempotent."""
        self._requested.set()

    def fail(self, error: Exception) -> None:
        """The mount shall end, as the drive cannot go on."""
        self.failure = error
        self.ask()

    async def unmount_when_asked(self, attachment: Attachment) -> None:
        """Wait for `ask`, then store everything and unmount; returns when no new request comes."""
        await self._requested.wait()
        # The long part, while the drive can still be used: unmounting then has little left to write back.
        await self._write_back()
        await self.store_everything()
        if await unmount(self._mountpoint):
            return  # the workers are told by the kernel, and end
        log.warning("%s is in use: detaching it, what is still open will fail", self._mountpoint)
        await self._write_back(attachment)
        await self.store_everything()
        attachment.terminate()

    async def _write_back(self, to_detach: Attachment | None = None) -> None:
        """Have the kernel hand over all dirty pages, after taking the mount out of the tree if asked to."""
        try:
            folder = await in_thread(os.open, self._mountpoint, os.O_RDONLY | os.O_DIRECTORY)
            try:
                if to_detach is not None:
                    to_detach.detached = await unmount(self._mountpoint, lazily=True)
                await in_thread(syncfs, folder)
            finally:
                await in_thread(os.close, folder)
        except OSError as error:
            log.error("%s: not everything was written back: %s", self._mountpoint, error)

    async def store_everything(self) -> None:
        """Store all that can be: the rest stays in the journal. Where that is lost it is tried until it is
        done, as this process alone has it; a second signal ends it."""
        while self.failure is None:
            try:
                await self._drive.sync()
                return
            except (DriveError, FileSystemError, OSError) as error:
                if not self._drive.is_only_here or isinstance(error, FencedError):
                    log.error("not everything could be stored, the journal keeps the rest: %s", error)
                    return
                log.error("not everything could be stored, and it is nowhere else; trying again: %s", error)
            await trio.sleep(STORE_AGAIN_SECONDS)

"""Mounting and unmounting: the kernel's device, pyfuse3's session on it, the loop that waits for requests.

Invariant: whatever happens, the mountpoint is not left behind as a dead mount.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pyfuse3
import trio

from backend.errors import UsageError
from mountfs.fuse_device import (
    ASYNC_DIO,
    DONT_MASK,
    HANDLE_KILLPRIV_V2,
    Handshake,
    is_mounted,
    mount_device,
    take_out,
)
from mountfs.fuse_loop import PollingLoop, has_known_seam, installed, interrupting
from mountfs.mount_calls import MNT_DETACH, in_thread, umount2
from mountfs.request_handlers import RequestHandlers
from mountfs.session_options import SessionOptions
from mountfs.splicing import cost_of_receiving

log = logging.getLogger(__name__)


@dataclass(slots=True)
class Attachment:
    """The mount that `attached` made. `detached`: it is out of the tree already."""

    loop: PollingLoop | None
    detached: bool = False

    def idle_seconds(self) -> float:
        """For how long nothing has been asked; 0 if that is not known."""
        return 0.0 if self.loop is None else self.loop.idle_seconds()

    def terminate(self) -> None:
        (pyfuse3.terminate if self.loop is None else self.loop.stop)()


@contextmanager
def attached(handlers: RequestHandlers, mountpoint: Path, options: SessionOptions) -> Iterator[Attachment]:
    if not has_known_seam():
        log.warning(
            "pyfuse3 %s is not the known one: requests wait the slow way, and there are no POSIX ACLs",
            pyfuse3.__version__,
        )
        if cost := cost_of_receiving():
            log.warning("%s", cost)
        yield from _attached_by_libfuse(handlers, mountpoint, options)
        return
    device = mount_device(mountpoint, options.words())
    wanted = HANDLE_KILLPRIV_V2 | (DONT_MASK if handlers.enable_acl else 0)
    handshake = Handshake(device, wanted, ASYNC_DIO)
    mount = Attachment(None)
    try:
        with interrupting() as alarm:
            loop = PollingLoop(handshake.descriptor, handshake=handshake.steps(), alarm=alarm)
            mount.loop = loop
            handlers.large_writes.turn = loop.turn
            handlers.callers.is_line_empty = loop.is_line_empty
            pyfuse3.init(handlers, handshake.path, {"default_permissions"})
            with installed(loop):
                yield mount
    finally:
        there = not mount.detached and is_mounted(handshake.descriptor)
        # First the device, so that nobody waits for an answer: not even the unmounting.
        handshake.close()
        pyfuse3.close(unmount=False)
        if there:
            take_out(mountpoint)


def _attached_by_libfuse(
    handlers: RequestHandlers, mountpoint: Path, options: SessionOptions
) -> Iterator[Attachment]:
    mount = Attachment(None)
    try:
        pyfuse3.init(handlers, os.fspath(mountpoint), options.words())
    except RuntimeError as error:
        raise UsageError(f"cannot mount on {mountpoint}: {error}") from None
    try:
        yield mount
    finally:
        # Closes the device, then detaches the mountpoint if it is still there; never waits.
        pyfuse3.close(unmount=not mount.detached)


async def unmount(mountpoint: Path, *, lazily: bool = False) -> bool:
    """Whether `mountpoint` is unmounted now; False if it is in use. The kernel writes back first."""
    if os.geteuid() == 0:
        return await in_thread(umount2, mountpoint, MNT_DETACH if lazily else 0)
    command = ["fusermount3", "-u", *(["-z"] if lazily else []), "--", os.fspath(mountpoint)]
    result = await trio.run_process(command, check=False, capture_stderr=True)
    return result.returncode == 0

"""System calls for a mount that Python does not have, and the read-ahead. A function that is no coroutine
blocks until the mount answers: call it by `in_thread`."""

from __future__ import annotations

import ctypes
import errno
import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Final, TypeVar, TypeVarTuple

import trio

READ_AHEAD_KIB: Final = 1024
MNT_DETACH: Final = 2

R = TypeVar("R")
Ts = TypeVarTuple("Ts")

_libc: Final = ctypes.CDLL(None, use_errno=True)
_own_calls: Final = trio.CapacityLimiter(8)
"""Calls into our own mount. Apart from trio's shared limit: threads that wait for us must not keep out those
that we wait for."""
log = logging.getLogger(__name__)


def umount2(mountpoint: Path, flags: int) -> bool:
    """umount2(2): whether it is unmounted now. False if it is in use, else with a warning."""
    if _libc.umount2(os.fsencode(mountpoint), flags) == 0:
        return True
    number = ctypes.get_errno()
    if number != errno.EBUSY:
        log.warning("umount of %s: %s", mountpoint, os.strerror(number))
    return False


def syncfs(folder: int) -> None:
    """syncfs(2) of an open folder. OSError. A writer that was killed in the middle of a request leaves the
    kernel an EINTR, which it tells once, to the next who syncs: that is no reason to fail."""
    if _libc.syncfs(folder) == 0 or (ctypes.get_errno() == errno.EINTR and _libc.syncfs(folder) == 0):
        return
    number = ctypes.get_errno()
    raise OSError(number, os.strerror(number))


async def sync_by_process(mountpoint: Path) -> str:
    """syncfs(2) by a process of its own; what it has to complain of, if anything. A thread of ours that is
    killed while it waits for us would keep the device open, and so wait for ever."""
    command = ["sync", "--file-system", "--", os.fspath(mountpoint)]
    environment = {**os.environ, "LC_ALL": "C"}
    done = await trio.run_process(command, check=False, capture_stderr=True, env=environment)
    said = done.stderr.decode("utf-8", "backslashreplace").strip()
    return said or f"sync ended with code {done.returncode}" if done.returncode else ""


def raise_read_ahead(device: int) -> None:
    """Ask for more read-ahead than the kernel's 128 KiB, an eighth of a block. Only root may, and it is not
    needed. The kernel's 12 requests in the background stay: the next call is behind all of them."""
    path = Path(f"/sys/class/bdi/{os.major(device)}:{os.minor(device)}/read_ahead_kb")
    try:
        path.write_text(str(READ_AHEAD_KIB))
    except OSError as error:
        log.debug("the kernel's default stays: %s", error)


async def in_thread(call: Callable[[*Ts], R], *args: *Ts) -> R:
    """`call` may need our own loop to answer, or wait for ever: it is abandoned on cancellation."""
    return await trio.to_thread.run_sync(call, *args, abandon_on_cancel=True, limiter=_own_calls)

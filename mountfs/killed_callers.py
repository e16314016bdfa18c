"""Whether the program that made a request was killed, and waits for nothing but the answer.

The kernel says FUSE_INTERRUPT when a signal comes for a program whose request was received, and goes on
waiting for the answer even if the signal is SIGKILL (`request_wait_answer`, fs/fuse/dev.c). libfuse takes the
message, and says of each request whether one came (`fuse_req_interrupted`). pyfuse3 does not hand libfuse's
request to its handlers: it lies in an object that the handler's coroutine in C holds (`_Container`,
handlers.pxi). So it is read from the memory of that object, if the object has the one known size, and only
when a request has waited for long.

Invariants:
1. A request is looked at only while its handler waits: libfuse frees it with the answer, not before.
2. A program counts as killed if SIGKILL is pending for the very thread that waits: the kernel makes it
   pending for each thread that a fatal signal ends. A program that handles the signal is not killed: it
   would see EINTR of calls that never fail so on a disk, and SIGBUS of a mapping.
"""

from __future__ import annotations

import ctypes
import gc
import platform
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Final

import pyfuse3
import trio

from mountfs.fuse_loop import has_known_seam

_STAT_SIZES: Final = {"x86_64": 144, "aarch64": 128}
"""sizeof(struct stat) of Linux, by machine."""
_FILE_INFO_SIZES: Final = (40, 64)
"""sizeof(struct fuse_file_info) of libfuse before and since 3.17."""
_BEFORE_REQUEST: Final = 16 + 8 + 8 + 8
"""In `_Container`: Python's head, `rdev`, `fi` (not counted here), `ino`, `parent`; then `req`."""
_AFTER_REQUEST: Final = 4 + 4 + 8 + 8 + 8
"""After `req`: `flags`, `mode`, `off`, `size`, `stat` (not counted here), `fh`."""
_POINTER: Final = 8
_CYTHON: Final = ("_cython_", "pyfuse3")
"""The modules of the types that coroutines in C, and what they hold, are of."""
_SIGKILL: Final = 1 << 8
_PENDING: Final = re.compile(r"^SigPnd:\s*([0-9a-f]+)$", re.MULTILINE)


class _Context(ctypes.Structure):
    """fuse_ctx of libfuse."""

    _fields_ = (
        ("uid", ctypes.c_uint32),
        ("gid", ctypes.c_uint32),
        ("pid", ctypes.c_int32),
        ("umask", ctypes.c_uint32),
    )


@cache
def can_tell() -> bool:
    """Whether this pyfuse3 is one whose requests can be found."""
    return has_known_seam() and _request_offset() > 0


def is_killed(task: trio.lowlevel.Task) -> bool:
    """Whether `task`, which waits, handles a request of a program that was killed. Only if `can_tell`."""
    request = _request_of(task)
    if not request or not _libfuse().fuse_req_interrupted(request):
        return False
    return is_being_killed(_libfuse().fuse_req_ctx(request).contents.pid)


def is_being_killed(thread: int) -> bool:
    """Whether SIGKILL waits for this thread; False if it cannot be told (0: it is in another namespace)."""
    try:
        pending = _PENDING.search(Path(f"/proc/{thread}/status").read_text())
    except OSError:
        return False
    return pending is not None and bool(int(pending[1], 16) & _SIGKILL)


def request_offset(machine: str, size: int) -> int:
    """The place of `req` in a `_Container` of `size` bytes on this machine (as uname(1) says); 0 if either
    is unknown."""
    stat = _STAT_SIZES.get(machine, 0)
    from_end = _POINTER + _AFTER_REQUEST + stat
    file_info = size - _BEFORE_REQUEST - from_end
    return size - from_end if stat and file_info in _FILE_INFO_SIZES else 0


@cache
def _request_offset() -> int:
    """That of the installed pyfuse3."""
    size = getattr(vars(pyfuse3).get("_Container"), "__basicsize__", 0)
    return request_offset(platform.machine(), size)


@cache
def _libfuse() -> ctypes.CDLL:
    """The library that pyfuse3 is linked with."""
    library = ctypes.CDLL(pyfuse3.__file__)
    library.fuse_req_interrupted.argtypes = [ctypes.c_void_p]
    library.fuse_req_ctx.argtypes = [ctypes.c_void_p]
    library.fuse_req_ctx.restype = ctypes.POINTER(_Context)
    return library


def _request_of(task: trio.lowlevel.Task) -> int | None:
    """The address of libfuse's request that `task` handles; None if it handles none."""
    container = vars(pyfuse3)["_Container"]
    for each in _held_in_c(task):
        if type(each) is container:
            return ctypes.c_void_p.from_address(id(each) + _request_offset()).value
    return None


def _held_in_c(task: trio.lowlevel.Task) -> Iterator[object]:
    """The objects of the coroutines of pyfuse3: those under a wrapper in Python, the outermost of `task`."""
    found: list[object] = [getattr(task.coro, "cr_await", None)]
    seen: set[int] = set()
    while found:
        each = found.pop()
        if id(each) not in seen and type(each).__module__.startswith(_CYTHON):
            seen.add(id(each))
            yield each
            found += gc.get_referents(each)

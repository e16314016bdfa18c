"""The cost of receiving a request where libfuse receives by itself.

libfuse does so under a version of pyfuse3 that `mountfs.fuse_loop` does not fit. It receives through a pipe
as large as the largest request. Where the system does not allow that size, libfuse 3.18 makes a new pipe for
each request: seven system calls instead of one. Other versions try once.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
from typing import Final

import pyfuse3

_LARGEST_REQUEST: Final = (1 << 20) + 4096
_TRYING_EACH_TIME: Final = "3.18."


def libfuse_version() -> str:
    """Of the library that pyfuse3 is linked with, as `3.14.0`; empty if it does not say."""
    try:
        ask = ctypes.CDLL(pyfuse3.__file__).fuse_pkgversion
    except (OSError, AttributeError):
        return ""
    ask.restype = ctypes.c_char_p
    return os.fsdecode(ask() or b"")


def may_have_pipe() -> bool:
    """Whether this process may make a pipe as large as the largest request."""
    reading, writing = os.pipe()
    try:
        fcntl.fcntl(reading, fcntl.F_SETPIPE_SZ, _LARGEST_REQUEST)
    except OSError:
        return False
    finally:
        os.close(reading)
        os.close(writing)
    return True


def cost_of_receiving() -> str:
    """One line for people if requests are received dearly; else empty."""
    version = libfuse_version()
    if not version.startswith(_TRYING_EACH_TIME) or may_have_pipe():
        return ""
    return (
        f"libfuse {version} makes a pipe for each request, which takes a third of the speed of small calls: "
        "set the sysctl fs.pipe-max-size to 2097152, or install libfuse 3.17 or 3.19"
    )

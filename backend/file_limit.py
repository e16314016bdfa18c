"""The largest file that this process may write (RLIMIT_FSIZE of getrlimit(2), `ulimit -f`).

A write that the limit stops looks like one on a full or broken disk: SQLite says "disk I/O error", the kernel
"File too large". So the message to the person names the limit. Python ignores SIGXFSZ, so no write ends the
process.
"""

from __future__ import annotations

import errno
import resource
from typing import Final

_NONE: Final = resource.RLIM_INFINITY


def raise_as_far_as_allowed() -> None:
    """Take all that the user may have."""
    most = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))


def limit() -> int | None:
    """Bytes; None if there is no limit."""
    allowed = resource.getrlimit(resource.RLIMIT_FSIZE)[0]
    return None if allowed == _NONE else allowed


def hint() -> str:
    """To be put behind what may have failed by the limit; empty if there is none."""
    allowed = limit()
    return "" if allowed is None else f" (no file may have more than {allowed} bytes here: see ulimit -f)"


def reason(error: OSError) -> str:
    """The system's text for `error`, with the limit if that was the cause."""
    said = error.strerror or str(error)
    return said + hint() if error.errno == errno.EFBIG else said

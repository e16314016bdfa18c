"""Settings of the process that serves a mount, or an S3 door: core dumps, thread switches (heap:
`backend.system.heap`)."""

from __future__ import annotations

import ctypes
import sys
from typing import Final

SWITCH_SECONDS: Final = 0.0005
"""How long a thread may keep the interpreter from the loop. Python's 5 ms would be five hundred requests."""

_PR_SET_DUMPABLE: Final = 4

_libc: Final = ctypes.CDLL(None, use_errno=True)


def prepare_process(*, dumpable: bool = False) -> None:
    """To be called before anything is served. `dumpable` lets debuggers and core dumps see the process, keys
    included."""
    if not dumpable:
        _libc.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)
    sys.setswitchinterval(SWITCH_SECONDS)

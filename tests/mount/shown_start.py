"""A command that prints what its process has from its start, as JSON: tests compare the ways to start one."""

from __future__ import annotations

import json
import os
import resource
import signal
import sys
from pathlib import Path


def main() -> None:
    """The command."""
    handlers = {each.name: str(signal.getsignal(each)) for each in (signal.SIGINT, signal.SIGTERM)}
    shown = {
        "arguments": sys.argv,
        "line": Path("/proc/self/cmdline").read_text(),
        "environment": dict(os.environ),
        "folder": os.getcwd(),
        "umask": os.umask(0),
        "files": resource.getrlimit(resource.RLIMIT_NOFILE),
        "core": resource.getrlimit(resource.RLIMIT_CORE),
        "handlers": handlers,
        "blocked": [*map(int, signal.pthread_sigmask(signal.SIG_BLOCK, []))],
        "descriptors": [each for each in range(100) if _is_open(each)],
    }
    print(json.dumps(shown))


def _is_open(descriptor: int) -> bool:
    try:
        os.fstat(descriptor)
    except OSError:
        return False
    return True

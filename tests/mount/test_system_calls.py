"""What a request costs in system calls: one to receive it, one to answer, whichever libfuse is installed."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
from collections import Counter
from contextlib import suppress
from pathlib import Path

import pytest

from tests.mount.mounted import MountedDrive

pytestmark = [
    pytest.mark.mount,
    pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not installed"),
    pytest.mark.skipif(os.geteuid() != 0, reason="only root may trace the process of a mount"),
]

STATS = 300
OTHERS = 30
"""Requests that may come beside those that the test causes."""
_TRACED = "read,readv,writev,splice,vmsplice,pipe,pipe2,fcntl"


class Trace:
    """The system calls of a process's main thread while this is entered; `calls` afterwards."""

    def __init__(self, process: int, file: Path) -> None:
        self._file = file
        self._command = ["strace", "-p", str(process), "-e", f"trace={_TRACED}", "-o", str(file)]
        self.calls: Counter[str] = Counter()

    def __enter__(self) -> Trace:
        self._strace = subprocess.Popen(self._command, stderr=subprocess.PIPE, text=True)
        assert self._strace.stderr is not None
        assert "attached" in self._strace.stderr.readline()
        return self

    def __exit__(self, *_: object) -> None:
        self._strace.send_signal(signal.SIGINT)
        self._strace.communicate()
        for line in self._file.read_text(errors="replace").splitlines():
            found = re.match(r"(\w+)\(", line)
            if found and (found[1] != "fcntl" or "PIPE_SZ" in line):
                self.calls[found[1]] += 1


def test_a_stat_is_received_by_one_read_and_answered_by_one_write(
    drive: MountedDrive, tmp_path: Path
) -> None:
    drive.mount()
    assert drive.process_id is not None
    with Trace(drive.process_id, tmp_path / "trace") as trace:
        for number in range(STATS):
            with suppress(FileNotFoundError):
                os.stat(drive.mountpoint / f"missing{number}")
    received, answered = trace.calls.pop("read"), trace.calls.pop("writev")
    assert STATS <= received <= STATS + OTHERS
    assert STATS <= answered <= STATS + OTHERS
    assert not trace.calls, "through a pipe"

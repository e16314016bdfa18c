"""Runs a suite that names each test before it starts, and ends a test that says nothing for too long.

1. Only processes of the suite are ended: those of its session, and those that descend from it. A file
   system's process is neither, as it makes a session of its own and is left to init(1).
2. The suite itself is never ended for being silent: it goes on with its next test.
"""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, Final

_POLL_SECONDS: Final = 1.0
_MERCY_SECONDS: Final = 60.0
"""after its processes were killed, a test that is still not over waits for the file system"""


class WatchedSuite:
    """One run. `limit`: seconds that a test may take. `release` is called with the suite's process id when a
    test does not end though its processes were killed: it has to end what they wait for."""

    def __init__(self, limit: float, release: Callable[[int], None]) -> None:
        self.output = ""
        """what the suite said on stdout"""
        self.ended: list[str] = []
        """the line each test that was ended had begun"""
        self._limit = limit
        self._release = release
        self._spoken = time.monotonic()

    def run(self, command: Sequence[str], *, folder: Path, environment: Mapping[str, str]) -> int:
        """Run it to its end, show what it says; its exit code. Nothing of it is left, whatever happens."""
        with subprocess.Popen(
            command, cwd=folder, env=environment, stdout=subprocess.PIPE, start_new_session=True
        ) as suite:
            assert suite.stdout is not None
            try:
                while suite.poll() is None:
                    self._listen(suite.stdout)
                    self._look_at_the_clock(suite.pid)
                self._listen(suite.stdout)
                return suite.returncode
            finally:
                for process in processes_of(suite.pid):
                    _kill(process)
                suite.kill()

    def _listen(self, stream: IO[bytes]) -> None:
        # A process that a test left behind may hold the pipe open: its end is not waited for.
        if select.select([stream], [], [], _POLL_SECONDS)[0] and (said := os.read(stream.fileno(), 1 << 16)):
            text = said.decode(errors="replace")
            sys.stdout.write(text)
            sys.stdout.flush()
            self.output += text
            self._spoken = time.monotonic()

    def _look_at_the_clock(self, suite: int) -> None:
        silent = time.monotonic() - self._spoken
        if silent < self._limit:
            return
        current = self.output.rpartition("\n")[2].strip()
        if current not in self.ended:
            self.ended.append(current)
        elif silent > self._limit + _MERCY_SECONDS:
            self._release(suite)
        for process in processes_of(suite):
            _kill(process)


def _kill(process: int) -> None:
    with suppress(ProcessLookupError):  # it ended by itself
        os.kill(process, signal.SIGKILL)


def processes_of(suite: int) -> Iterator[int]:
    """The processes of the session that `suite` leads, and those that descend from it, without itself."""
    parents = {process: (parent, session) for process, parent, session in _processes()}
    for process, (_, session) in parents.items():
        if process != suite and (session == suite or suite in _ancestors(process, parents)):
            yield process


def _ancestors(process: int, parents: Mapping[int, tuple[int, int]]) -> Iterator[int]:
    while process in parents:
        process = parents[process][0]
        yield process


def _processes() -> Iterator[tuple[int, int, int]]:
    """Process id, parent's id and session of every process (proc(5), stat)."""
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                fields = (entry / "stat").read_text(errors="replace").rpartition(")")[2].split()
            except OSError:
                continue  # gone meanwhile
            yield int(entry.name), int(fields[1]), int(fields[3])

"""Programs of a test that are killed and started again, as an operator's supervisor does it."""

from __future__ import annotations

import subprocess
from pathlib import Path


class Service:
    """A program, always the same command; its output is added to `log`."""

    def __init__(self, command: list[str], log: Path) -> None:
        self.log = log
        self._command = command
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def is_running(self) -> bool:
        """Whether there is a process of it."""
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        """The process begins; it may not answer yet."""
        assert not self.is_running
        with open(self.log, "ab") as output:
            self._process = subprocess.Popen(
                self._command, stdin=subprocess.DEVNULL, stdout=output, stderr=output
            )

    def kill(self) -> None:
        """SIGKILL; there is no process afterwards. Idempotent."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

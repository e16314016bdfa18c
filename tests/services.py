"""Programs of a test that are killed and started again, as an operator's supervisor does it."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Final

_EXAMPLES: Final = Path(__file__).parents[1] / "docs" / "hub"


def example(name: str, ours: Mapping[str, str]) -> str:
    """The text of a file in docs/hub/, with names, addresses and folders of a test in place of its own."""
    text = (_EXAMPLES / name).read_text()
    assert all(each in text for each in ours)
    return re.sub("|".join(map(re.escape, ours)), lambda found: ours[found[0]], text)


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

"""Progress of a long run: a line on a terminal, or the numbers that fsck(8) hands to another program.

With a descriptor (`-C5`), each change is a line "pass done total name" on it, as e2fsck(8) writes it. Else
one line on stderr that rewrites itself, if that is a terminal; if not, nothing.
"""

from __future__ import annotations

import os
import sys
import time
from typing import Final

from tools.terminal import printable

_INTERVAL: Final = 0.1


class Progress:
    """One run. `step` begins a part of it, `update` says how far that part is."""

    def __init__(self, name: str, descriptor: int | None = None) -> None:
        self._name = name
        self._descriptor = descriptor
        self._terminal = descriptor is None and sys.stderr.isatty()
        self._pass = 0
        self._what = ""
        self._shown = 0.0
        self._width = 0

    def step(self, what: str) -> None:
        """A new part begins."""
        self._pass += 1
        self._what = what
        self._shown = 0.0
        self.update(0, 0)

    def update(self, done: int, total: int) -> None:
        """So many of so many (0: not known) are done. Cheap; shows itself ten times a second at most."""
        now = time.monotonic()
        if now - self._shown < _INTERVAL and done != total:
            return
        self._shown = now
        if self._descriptor is not None:
            os.write(self._descriptor, f"{self._pass} {done} {total} {self._name}\n".encode())
        elif self._terminal:
            self._show(f"{self._what}: {done} of {total}" if total else self._what)

    def clear(self) -> None:
        """Leave the line empty, before something else is said."""
        if self._width:
            self._show("")
            self._width = 0

    def _show(self, text: str) -> None:
        text = printable(text)
        sys.stderr.write(f"\r{text:<{self._width}}\r{text}")
        sys.stderr.flush()
        self._width = len(text)

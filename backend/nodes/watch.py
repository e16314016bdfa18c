"""The calls of a node that have begun and not ended, in whatever thread they hang.

A process cannot take back a system call that hangs in the kernel: its thread is left behind. A caller that
gave up waiting asks the watch when the call ends. A watch is handed down to the thread by context variable,
past all wrappers: threads get a copy of their caller's context.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar


class Asking:
    """One question of the asker: the calls that are made for it."""

    def __init__(self, begun: dict[object, tuple[float, Asking]]) -> None:
        self._begun = begun
        self.is_given_up = False
        """Nobody waits for them any more, so what goes on of them is overdue."""

    @contextmanager
    def noting(self) -> Iterator[None]:
        """A call that begins and ends with the block."""
        call = object()
        self._begun[call] = time.monotonic(), self
        try:
            yield
        finally:
            del self._begun[call]


class Watch:
    """The calls of one asker. Any thread."""

    def __init__(self) -> None:
        self._begun: dict[object, tuple[float, Asking]] = {}

    def __len__(self) -> int:
        return len(self._begun)

    def is_overdue(self, seconds: float) -> bool:
        """Whether a call goes on for longer, or was given up and goes on."""
        if not self._begun:
            return False
        now = time.monotonic()
        return any(asking.is_given_up or now - begun > seconds for begun, asking in [*self._begun.values()])

    @contextmanager
    def handed_down(self) -> Iterator[Asking]:
        """Calls that are made in the block tell this watch."""
        asking = Asking(self._begun)
        token = _ASKING.set(asking)
        try:
            yield asking
        finally:
            _ASKING.reset(token)


_ASKING: ContextVar[Asking | None] = ContextVar("node watch", default=None)


@contextmanager
def watched() -> Iterator[None]:
    """In the thread that makes the call: the block is noted by the watch that was handed down, if any."""
    asking = _ASKING.get()
    if asking is None:
        yield
        return
    with asking.noting():
        yield

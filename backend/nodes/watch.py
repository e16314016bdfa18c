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


class Watch:
    """The calls of one asker. Any thread."""

    def __init__(self) -> None:
        self._begun: dict[object, float] = {}

    def __len__(self) -> int:
        return len(self._begun)

    def is_overdue(self, seconds: float) -> bool:
        """Whether a call goes on for longer."""
        if not self._begun:
            return False
        now = time.monotonic()
        return any(now - begun > seconds for begun in [*self._begun.values()])

    @contextmanager
    def handed_down(self) -> Iterator[None]:
        """Calls that are made in the block tell this watch."""
        token = _WATCH.set(self)
        try:
            yield
        finally:
            _WATCH.reset(token)

    @contextmanager
    def noting(self) -> Iterator[None]:
        """A call that begins and ends with the block."""
        call = object()
        self._begun[call] = time.monotonic()
        try:
            yield
        finally:
            del self._begun[call]


_WATCH: ContextVar[Watch | None] = ContextVar("node watch", default=None)


@contextmanager
def watched() -> Iterator[None]:
    """In the thread that makes the call: the block is noted by the watch that was handed down, if any."""
    watch = _WATCH.get()
    if watch is None:
        yield
        return
    with watch.noting():
        yield

"""Work that can be silenced: many may work at once; who asks for silence waits for them and works alone.

Whoever asks the store which blocks are missing, and then makes something refer to those that are not, does so
while `working`: a collection of blocks decides in `silence`, so it never meets a block that was found
present and that nothing refers to yet.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import trio


class Quiet:
    """Event-loop thread. Not reentrant: who works must not ask to work again, or for silence."""

    def __init__(self) -> None:
        self._workers = 0
        self._turn = trio.Lock()
        self._idle = trio.Event()

    @asynccontextmanager
    async def working(self) -> AsyncIterator[None]:
        """Work beside others; waits while there is silence, or someone waits for it."""
        async with self._turn:
            self._workers += 1
        try:
            yield
        finally:
            self._workers -= 1
            self._idle.set()

    @asynccontextmanager
    async def silence(self) -> AsyncIterator[None]:
        """Nobody works as long as this lasts."""
        async with self._turn:
            while self._workers:
                self._idle = trio.Event()
                await self._idle.wait()
            yield

"""A shared/exclusive lock: many may hold it shared at once; who holds it exclusively holds it alone.

The drive has one, the *collection lock*. A task that asks the store which blocks are missing holds it shared
until something refers to those that are not missing. A collection of blocks holds it exclusively while it
decides. So a collection never meets a block that was found present and that nothing refers to yet.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import trio


class SharedExclusiveLock:
    """Event-loop thread. Fair: a task that asks for it shared waits behind one that asked for it exclusively.
    Not reentrant: its holder must not ask for it again, in either way."""

    def __init__(self) -> None:
        self._sharing = 0
        self._turn = trio.Lock()
        self._free = trio.Event()

    @asynccontextmanager
    async def shared(self) -> AsyncIterator[None]:
        """Hold it beside others that share it."""
        async with self._turn:
            self._sharing += 1
        try:
            yield
        finally:
            self._sharing -= 1
            self._free.set()

    @asynccontextmanager
    async def exclusive(self) -> AsyncIterator[None]:
        """Hold it alone; waits for all that share it."""
        async with self._turn:
            while self._sharing:
                self._free = trio.Event()
                await self._free.wait()
            yield

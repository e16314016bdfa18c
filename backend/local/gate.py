"""A gate that work passes, and that somebody closes for a moment."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import trio


class Gate:
    """Who passes is not stopped on the way: who wants it closed waits until nobody is inside, and only then
    others have to wait."""

    def __init__(self) -> None:
        self._inside = 0
        self._emptied = trio.Event()
        self._reopened: trio.Event | None = None
        self._closing = trio.Lock()

    @asynccontextmanager
    async def passing(self) -> AsyncIterator[None]:
        """The gate stays open while the block runs."""
        while self._reopened is not None:
            await self._reopened.wait()
        self._inside += 1
        try:
            yield
        finally:
            self._inside -= 1
            if not self._inside:
                self._emptied.set()

    @asynccontextmanager
    async def closed(self) -> AsyncIterator[None]:
        """Nobody is inside, and nobody comes in, while the block runs."""
        async with self._closing:
            while self._inside:
                self._emptied = trio.Event()
                await self._emptied.wait()
            self._reopened = reopened = trio.Event()
            try:
                yield
            finally:
                self._reopened = None
                reopened.set()

"""Rights to write, for tests of the store without a lease."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import trio


class FreeWriter:
    """See `backend.blocks.WriteAuthority`: everything may be written; `verifying` is called where a
    lease would be confirmed."""

    may_write = True

    def __init__(self, verifying: Callable[[], Awaitable[None]] = trio.lowlevel.checkpoint) -> None:
        self.verifying = verifying

    def require(self) -> None:
        """Always."""

    async def ensure(self) -> None:
        await trio.lowlevel.checkpoint()

    async def verify(self) -> None:
        await self.verifying()

    def require_deleting(self) -> None:
        """Always."""

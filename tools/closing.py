"""Closing what talks to a store or a hub, however its use ends: also where the user was cancelled."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Protocol

import trio


class Closable(Protocol):
    """An upstream, a store of blocks, or a client."""

    async def close(self) -> None:
        """Let go of everything. Not cancelled."""


@asynccontextmanager
async def closed_at_end(opened: Closable) -> AsyncIterator[None]:
    """Around the use of `opened`: it is closed when the block ends."""
    try:
        yield
    finally:
        await _close(opened)


@asynccontextmanager
async def closed_on_failure(opened: Closable) -> AsyncIterator[None]:
    """Around the rest of an opening: `opened` is closed if the block raises, and else left open."""
    try:
        yield
    except BaseException:
        await _close(opened)
        raise


async def _close(opened: Closable) -> None:
    with trio.CancelScope(shield=True):
        await opened.close()

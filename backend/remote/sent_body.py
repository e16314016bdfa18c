"""The body of a request, which may be left at any time.

A body of httpx is an asynchronous generator. A request that is cancelled leaves it open, and trio warns of it
when the interpreter collects it.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import Final

import httpx
import trio

from backend.remote.hub_route import Pace

_PIECE: Final = 16 << 10
"""Bytes that are sent at once where there is a limit: what is small waits for one piece, not for a block."""


class SentBody(httpx.AsyncByteStream):
    """`content`, in pieces that wait for their turn where `pace` has a limit; `waiting` as of `Pace.take`."""

    def __init__(self, content: bytes, pace: Pace, waiting: trio.CancelScope) -> None:
        self._content = content
        self._pace = pace
        self._waiting = waiting

    def __aiter__(self) -> AsyncIterator[bytes]:
        size = _PIECE if self._pace.is_limited else max(len(self._content), 1)
        parts = (self._content[start : start + size] for start in range(0, len(self._content), size))
        return _Pieces(parts, self._pace, self._waiting)


class _Pieces:
    """The pieces, once."""

    def __init__(self, parts: Iterator[bytes], pace: Pace, waiting: trio.CancelScope) -> None:
        self._parts = parts
        self._pace = pace
        self._waiting = waiting

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        for part in self._parts:
            await self._pace.take(len(part), self._waiting)
            return part
        raise StopAsyncIteration

"""Small blocks of far nodes, read together with what lies around them.

The small files of a folder lie side by side in a pack, as they were stored, and are often read one after the
other. Each alone would take the time of a request.

Invariants:
1. A fragment's first small read is of the bytes that were asked for. From the second on the window around
   them is read, aligned, if that takes no longer than `TIMES` small reads by what was measured of the node
   (`backend.nodes.speed`). So a read at random takes `TIMES` as long at most, the first of a fragment no
   longer, and nothing near is read ahead.
2. Who wants a window that is being read waits for it.
3. The bytes are unchecked, as all of the direct path: the caller authenticates blocks, and has `forget`
   called where one is wrong.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Awaitable, Callable
from typing import Final
from weakref import WeakValueDictionary

import anyio

from backend.nodes import NodeSpeed
from backend.packs.pack import Pack
from backend.packs.recent_bytes import RecentBytes

WINDOW: Final = 256 << 10
SMALL: Final = 64 << 10
"""A block of up to so many bytes has neighbours that may be wanted with it."""
TIMES: Final = 4.0
NEAR: Final = 0.001
"""A node that answers in so many seconds is near."""
_CACHE_BYTES: Final = 16 << 20
_FRAGMENTS: Final = 1024
"""so many that were read from are remembered"""

Read = Callable[[int, int], Awaitable[bytes]]
"""Of a fragment: the offset, and how many bytes; all of them or an error."""


class Neighbours:
    """Called by many tasks at once, on one event loop. `speed` is told by whoever reads."""

    def __init__(self, speed: NodeSpeed) -> None:
        self._speed = speed
        self._windows = RecentBytes(_CACHE_BYTES)
        self._read_from: OrderedDict[bytes, None] = OrderedDict()
        self._locks: WeakValueDictionary[bytes, anyio.Lock] = WeakValueDictionary()

    async def read(self, pack: Pack, index: int, offset: int, length: int, payload: int, read: Read) -> bytes:
        """Bytes of a fragment that has `payload` of them. Raises what `read` raises."""
        fragment = pack.id + bytes([index])
        number = offset // WINDOW
        begin = number * WINDOW
        key = fragment + number.to_bytes(4, "big")
        window = self._windows.get(key)
        if window is None:
            is_inside = offset + length <= begin + WINDOW
            if not self._is_worth_it(fragment, pack.nodes[index]) or not is_inside:
                return await read(offset, length)
            window = await self._window(key, begin, min(WINDOW, payload - begin), read)
        found = window[offset - begin : offset - begin + length]
        return found if len(found) == length else await read(offset, length)

    async def _window(self, key: bytes, begin: int, length: int, read: Read) -> bytes:
        async with self._locks.setdefault(key, anyio.Lock()):
            window = self._windows.get(key)
            if window is None:
                window = await read(begin, length)
                self._windows.put(key, window)
            return window

    def forget(self, pack_id: bytes) -> None:
        """Drop what is kept of the pack."""
        self._windows.forget(pack_id)

    def _is_worth_it(self, fragment: bytes, node: str) -> bool:
        was_read = fragment in self._read_from
        self._read_from[fragment] = None
        self._read_from.move_to_end(fragment)
        if len(self._read_from) > _FRAGMENTS:
            self._read_from.popitem(last=False)
        one = self._speed.usual(node, 0)
        return was_read and one > NEAR and self._speed.usual(node, WINDOW) <= TIMES * one

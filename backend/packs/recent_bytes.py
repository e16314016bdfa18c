"""The bytes that were read last, up to a number of bytes in all."""

from __future__ import annotations

from collections import OrderedDict


class RecentBytes:
    """By key. What was not asked for longest goes first. One thread."""

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._size = 0
        self._found: OrderedDict[bytes, bytes] = OrderedDict()

    def get(self, key: bytes) -> bytes | None:
        """None if it is not here."""
        data = self._found.get(key)
        if data is not None:
            self._found.move_to_end(key)
        return data

    def put(self, key: bytes, data: bytes) -> None:
        """Keep this for the key, as long as there is room."""
        self._drop(key)
        self._found[key] = data
        self._size += len(data)
        while self._size > self._capacity:
            _, oldest = self._found.popitem(last=False)
            self._size -= len(oldest)

    def forget(self, start: bytes) -> None:
        """Drop what has a key that begins so."""
        for key in [key for key in self._found if key.startswith(start)]:
            self._drop(key)

    def _drop(self, key: bytes) -> None:
        self._size -= len(self._found.pop(key, b""))

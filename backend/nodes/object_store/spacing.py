"""The time between two writes of one object: Google and Cloudflare's R2 take one a second, and refuse others
with 429 or 503.

Invariants:
1. Where that is known of a store, or was met there, a write of an object begins a second after the last one
   of this process ended: the store cannot have taken both within one.
2. What was refused is written a second later at the earliest: somebody else may have written.

Any thread; `turn` blocks.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final, TypeVar

from backend.nodes.object_store.errors import BusyError

SECONDS: Final = 1.05
"""A second of the store's clock is a little longer by some others."""
TRIES: Final = 4
"""Together they take less than the patience with a voter."""
_REMEMBERED: Final = 256

Result = TypeVar("Result")


class Spacing:
    """Of one store. `is_known`: it takes one write of an object a second."""

    def __init__(self, *, is_known: bool) -> None:
        self._is_needed = is_known
        self._ended: dict[str, float] = {}
        self._refused: set[str] = set()
        self._lock = threading.Lock()

    @contextmanager
    def turn(self, key: str) -> Iterator[None]:
        """The block writes the object, when it is time. It raises `BusyError` if the store refused."""
        time.sleep(max(self._until(key) - time.monotonic(), 0))
        try:
            yield
        except BusyError:
            self._note(key, refused=True)
            raise
        self._note(key, refused=False)

    def _until(self, key: str) -> float:
        with self._lock:
            is_spaced = self._is_needed or key in self._refused
            return self._ended.get(key, 0.0) + SECONDS if is_spaced else 0.0

    def _note(self, key: str, *, refused: bool) -> None:
        now = time.monotonic()
        with self._lock:
            if refused:
                self._is_needed = self._is_needed or now - self._ended.get(key, 0.0) < SECONDS
                self._refused.add(key)
            else:
                self._refused.discard(key)
            self._ended[key] = now
            if len(self._ended) > _REMEMBERED:
                self._forget(now)

    def _forget(self, now: float) -> None:
        self._ended = {key: ended for key, ended in self._ended.items() if now - ended < SECONDS}
        self._refused &= self._ended.keys()


def patiently(call: Callable[[], Result]) -> Result:
    """The result of a call that may be made again where the store refused it as busy: `Spacing` lets it wait.
    `BusyError` after so many tries."""
    for _ in range(TRIES - 1):
        try:
            return call()
        except BusyError:
            continue
    return call()

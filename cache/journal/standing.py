"""Standing still: changes wait while a state is made that is to follow on the present one.

A change that cannot wait is accepted, and the state was made for nothing (`cache.journal.rebasing`).
Event-loop thread only.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import trio


class Standing:
    """See the module."""

    def __init__(self) -> None:
        self._still: trio.Event | None = None
        """set when changes go on"""

    @property
    def is_still(self) -> bool:
        """Whether changes are to wait."""
        return self._still is not None

    @contextmanager
    def still(self) -> Iterator[None]:
        """While it lasts `is_still` holds. One at a time."""
        self._still = still = trio.Event()
        try:
            yield
        finally:
            self._still = None
            still.set()

    async def moving(self) -> None:
        """Return in a turn in which changes need not wait; at once if that is now."""
        while self._still is not None:
            await self._still.wait()

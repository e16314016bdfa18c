"""What tools may ask of a running drive by name, beyond POSIX: one table, served on the control socket.

A call takes a JSON object and gives one. It runs on the event-loop thread, like every other use of the
drive, and raises `DriveError` or `FileSystemError` with one line for a person.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from cache.drive import Drive
from cache.services.health_calls import health_calls
from cache.services.history_calls import HistoryCalls
from cache.services.space_calls import SpaceCalls

Call = Callable[[Mapping[str, Any]], Awaitable[Mapping[str, Any]]]


def calls_of(drive: Drive) -> dict[str, Call]:
    """All calls on `drive`, by name."""
    return {**HistoryCalls(drive).table(), **health_calls(drive), **SpaceCalls(drive).by_name()}

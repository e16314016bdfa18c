"""The call about what happened on a running drive: `ACTIVITY` of `cache.messages.history`.

Nothing is published first: what others and this device have published is told without the upstream too.
"""

from __future__ import annotations

from typing import Any, Final
from urllib.parse import quote, unquote_to_bytes

import trio

from cache.drive import Drive
from cache.errors import InvalidArgumentError
from cache.history import Happened, PointActivity, activity
from cache.messages import ACTIVITY, Activity, HappenedShown, PathAsked, PointShown, Service

PAGE: Final = 100
"""Points that are looked at in one go."""
MOST_CHANGES: Final = 1000
"""Of one point; more are counted."""


class ActivityCalls:
    """See the module."""

    def __init__(self, drive: Drive) -> None:
        self._drive = drive

    def services(self) -> list[Service[Any, Any]]:
        """See the module."""
        return [Service(ACTIVITY, self.activity)]

    async def activity(self, asked: PathAsked) -> Activity:
        """The newest points at which something changed below a path, as it was called then."""
        if asked.limit < 1:
            raise InvalidArgumentError("the limit must be a number from 1 on")
        folder = unquote_to_bytes(asked.path).strip(b"/")
        shown: list[PointShown] = []
        before = self._drive.past.head + 1
        while len(shown) < asked.limit:
            points = await self._points(before)
            if not points:
                break
            before = points[-1].commit
            shown += filter(None, (self._shown(point, folder) for point in points))
        return Activity(tuple(shown[: asked.limit]))

    async def _points(self, before: int) -> list[PointActivity]:
        self._drive.ledger.save()
        path = self._drive.ledger.namespace.path
        return await trio.to_thread.run_sync(activity, path, before, PAGE)

    def _shown(self, point: PointActivity, folder: bytes) -> PointShown | None:
        """None: nothing changed below the folder, or retention has dropped the point since."""
        changes = [change for change in point.changes if _is_below(change, folder)]
        uncounted = point.uncounted if not folder else 0
        past = self._drive.past
        if not (changes or uncounted) or not past.time_of(point.commit):
            return None
        writer = past.history.writer_at(point.commit)
        return PointShown(
            point.commit,
            past.name_of(point.commit),
            past.time_of(point.commit),
            tuple(map(_happened, changes[:MOST_CHANGES])),
            more=len(changes[MOST_CHANGES:]) + uncounted,
            device=None if writer is None else writer.device,
            host=None if writer is None else quote(writer.host),
        )


def _is_below(change: Happened, folder: bytes) -> bool:
    """Whether it is the path itself, or below it, or was."""
    places = (change.path, change.before)
    return not folder or any(place == folder or place.startswith(folder + b"/") for place in places)


def _happened(change: Happened) -> HappenedShown:
    before = quote(change.before) if change.before else None
    return HappenedShown(change.kind, quote(change.path), before, change.inside or None)

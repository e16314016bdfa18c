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
"""Points that are looked at in one go, at most."""


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
        before, count = self._drive.past.head + 1, min(asked.limit, PAGE)
        while len(shown) < asked.limit and (points := await self._points(folder, before, count)):
            before, count = points[-1].commit, PAGE
            shown += filter(None, map(self._shown, points))
        return Activity(tuple(shown[: asked.limit]))

    async def _points(self, folder: bytes, before: int, count: int) -> list[PointActivity]:
        self._drive.ledger.save()
        path = self._drive.ledger.namespace.path
        return await trio.to_thread.run_sync(activity, path, folder, before, count)

    def _shown(self, point: PointActivity) -> PointShown | None:
        """None: nothing changed, or retention has dropped the point since."""
        past = self._drive.past
        if not (point.changes or point.more) or not past.time_of(point.commit):
            return None
        writer = past.history.writer_at(point.commit)
        return PointShown(
            point.commit,
            past.name_of(point.commit),
            past.time_of(point.commit),
            tuple(map(_happened, point.changes)),
            point.more,
            device=None if writer is None else writer.device,
            host=None if writer is None else quote(writer.host),
        )


def _happened(change: Happened) -> HappenedShown:
    before = quote(change.before) if change.before else None
    return HappenedShown(change.kind, quote(change.path), before, change.inside or None)

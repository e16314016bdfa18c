"""A watch: others' changes of a folder and all below it, by path, as they become visible here.

Others are other devices of the drive, and other doors of this machine (S3, restore, clone, undo). The changes
by programs on this mount are not told: inotify(7) sees those, and does not see the others.

Invariants:
1. The first line says `rescan`: all that changes after it is told. So does a line after changes were lost,
   as more than `MOST` waited for a slow reader.
2. What other devices do with files (`cache.presence`) is told when it begins, and when it has ended.
3. A watch never holds up the drive or another listener: what waits is kept here, each change once.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Final
from urllib.parse import quote

import trio

from cache.drive import Drive
from cache.errors import NotDirectoryError
from cache.history import ChangedPath, changed_paths
from cache.messages import ATTRIBUTES, CONTENT, EDITING, ENDED, NAME, RESCAN, UPLOADING, Watched
from cache.presence import Activity, Present
from cache.sync import AttributesChanged, Change, ContentChanged, Missed, NameChanged

MOST: Final = 10_000
_KINDS: Final = {AttributesChanged: ATTRIBUTES, ContentChanged: CONTENT}
_DOES: Final = {Activity.EDITING: EDITING, Activity.UPLOADING: UPLOADING}
_ALL: Final = Watched(RESCAN, "", here=False)

Tell = Callable[[Sequence[Watched]], Awaitable[None]]


class Watch:
    """See the module. Of the folder `root`; `NotDirectoryError`, `StaleError`: it is none."""

    def __init__(self, drive: Drive, root: int) -> None:
        if not drive.live_row(root).is_directory:
            raise NotDirectoryError("is no folder")
        self._drive = drive
        self._root = root
        self._waiting: dict[Change, None] = {}
        self._doing: dict[tuple[Activity, int, int], Present] = {}
        """what was told of others that has not ended"""
        self._is_missed = True
        self._news = trio.Event()
        self._news.set()

    async def run(self, tell: Tell) -> None:
        """Until cancelled, or the folder is gone. Raises what `tell` raises."""
        async with trio.open_nursery() as nursery:
            await nursery.start(self._drive.changes.serve, "a watch", self._note)
            with self._hearing_of_presences():
                while await self._tell_news(tell):
                    pass
            nursery.cancel_scope.cancel()

    @contextmanager
    def _hearing_of_presences(self) -> Iterator[None]:
        listeners = [] if self._drive.presence is None else self._drive.presence.listeners
        hear = self._wake
        listeners.append(hear)
        try:
            yield
        finally:
            listeners.remove(hear)

    def _wake(self) -> None:
        self._news.set()

    async def _note(self, changes: Sequence[Change]) -> None:
        self._waiting |= dict.fromkeys(changes)
        if len(self._waiting) > MOST or any(isinstance(change, Missed) for change in changes):
            self._waiting.clear()
            self._is_missed = True
        self._news.set()

    async def _tell_news(self, tell: Tell) -> bool:
        """Tell what waits, or will; whether the folder is still there."""
        await self._news.wait()
        self._news = trio.Event()
        if self._is_missed:
            self._is_missed = False
            await tell([_ALL])
        waiting = [*self._waiting]
        self._waiting.clear()
        lines = await self._lines(waiting)
        if lines:
            await tell(lines)
        return lines is not None

    async def _lines(self, changes: Sequence[Change]) -> list[Watched] | None:
        """None: the folder is gone."""
        names = [(change.parent, change.name) for change in changes if isinstance(change, NameChanged)]
        inodes = [c.inode for c in changes if isinstance(c, AttributesChanged | ContentChanged)]
        while (synced := self._drive.ledger.rebase_synced) is not None:  # until then nothing of it is saved
            await synced.wait()
        self._drive.ledger.save()
        path = self._drive.ledger.namespace.path
        found = await trio.to_thread.run_sync(changed_paths, path, self._root, names, inodes)
        if found.root is None:
            return None
        lines: list[Watched] = []
        for change in changes:
            if isinstance(change, NameChanged):
                with suppress(KeyError):  # its folder is gone, which is told by the name of that
                    lines += self._inside(NAME, [found.names[change.parent, change.name]], found.root)
            elif isinstance(change, AttributesChanged | ContentChanged):
                lines += self._inside(_KINDS[type(change)], found.inodes.get(change.inode, []), found.root)
        return [*lines, *self._presences(found.root)]

    def _presences(self, root: bytes) -> Iterator[Watched]:
        now = [] if self._drive.presence is None else self._drive.presence.now()
        doing = {
            (present.activity, present.device, present.inode): present
            for present in now
            if not root or present.path.startswith(root + b"/")
        }
        before, self._doing = self._doing, doing
        for key, present in doing.items():
            if key not in before:
                yield _of_presence(_DOES[present.activity], present)
        for key, present in before.items():
            if key not in doing:
                yield _of_presence(ENDED, present)

    def _inside(self, kind: str, places: Sequence[ChangedPath], root: bytes) -> Iterator[Watched]:
        for place in places:
            if not root or place.path.startswith(root + b"/"):
                device = self._device(place.commit)
                is_here = device == self._drive.ledger.namespace.device
                yield Watched(kind, quote(place.path), is_here, device)

    def _device(self, commit: int) -> int | None:
        namespace = self._drive.ledger.namespace
        if commit > namespace.head().number:
            return namespace.device
        return namespace.writers.of(commit) if commit else None


def _of_presence(change: str, present: Present) -> Watched:
    return Watched(change, quote(present.path), here=False, device=present.device)

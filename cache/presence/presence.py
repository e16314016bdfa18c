"""The presence of this device, shown to others, and theirs.

Invariants:
1. Nobody waits for it. It is sent by a task of its own; while the hub is away, or where it refuses, it is not
   sent, and nothing else differs.
2. Without another device that may write the drive nothing is sent and nothing is asked for.
3. What lasts less than a `TICK` is not shown, nor is an upload of less than `UPLOAD_SECONDS`.

Event-loop thread only.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from itertools import chain, islice
from math import inf
from typing import Final, NamedTuple

import trio

from backend.errors import DriveError
from backend.system import Environment
from backend.upstream import MAX_PRESENCES, PresenceBoard, SealedPresence
from cache.contact import Contact
from cache.errors import FileSystemError
from cache.history import changed_paths
from cache.journal import Ledger
from cache.namespace import ROOT_INODE, folder_path, sqlite_errors
from cache.presence.form import Activity, PresenceCodec, Present
from cache.presence.others import Others

TICK: Final = 1.0
RENEWAL: Final = 20.0
UPLOAD_SECONDS: Final = 2.0
PATIENCE: Final = 10.0
"""Seconds that the hub may take for an answer."""

log = logging.getLogger(__name__)


class Writing(NamedTuple):
    """A file that is open for writing, with one of its names: in the folder `parent`."""

    inode: int
    parent: int
    name: bytes


class Presence:
    """See the module. `host`: the name of this machine."""

    def __init__(
        self,
        ledger: Ledger,
        board: PresenceBoard,
        contact: Contact,
        codec: PresenceCodec,
        host: bytes,
        environment: Environment,
    ) -> None:
        self._ledger = ledger
        self._board = board
        self._contact = contact
        self._codec = codec
        self._host = host
        self._environment = environment
        self._others = Others(codec, environment, self._is_other)
        self._told: list[tuple[Activity, int, int]] = []
        self._doing: dict[tuple[Activity, int], int] = {}
        """the activities of this device at the last tick, and since when"""
        self._shown: frozenset[tuple[Activity, int]] | None = frozenset()
        """those that the hub shows; None: it is not known, as the last answer did not come"""
        self._has_others = False
        self._due = -inf
        self._time_ns = 0
        self._paths: dict[int, bytes] = {}
        self.writing: Callable[[], Iterable[Writing]] = tuple
        """the files that a door has open for writing"""
        self.listeners: list[Callable[[], None]] = []
        """called when others do something else; none may raise"""
        board.listen(self.is_wanted)

    def _is_other(self, device: int) -> bool:
        row = self._ledger.namespace.devices.of(device)
        return device != self._ledger.namespace.device and row is not None and not row.is_revoked

    def is_wanted(self) -> bool:
        """Whether there is another device. Where the disk refuses to say it, as before."""
        namespace = self._ledger.namespace
        with suppress(DriveError, FileSystemError, OSError), sqlite_errors(namespace.path):
            others = (row for row in namespace.devices.all() if row.number != namespace.device)
            self._has_others = any(not row.is_revoked for row in others)
        return self._has_others

    def now(self) -> list[Present]:
        """The activities of other devices, as far as they are known here."""
        return self._others.now()

    async def run(self) -> None:
        """Show and hear, for ever. The contact must be running."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._hear)
            while True:
                await trio.sleep(TICK)
                self._tell()
                await self._show()

    # Others

    async def _hear(self) -> None:
        while True:
            with trio.move_on_after(RENEWAL if self._others.are_shown else inf):
                await self._board.wait_for_news()
            while not await self._look():
                await trio.sleep(RENEWAL)
            self._tell()

    async def _look(self) -> bool:
        """Whether it was answered."""
        await self._contact.there()
        try:
            with trio.fail_after(PATIENCE), sqlite_errors(self._ledger.namespace.path):
                self._others.take(await self._board.of_others())
        except (DriveError, FileSystemError, OSError, trio.TooSlowError) as error:
            log.info("what other devices do is not known now: %s", error)
            return False
        return True

    def _tell(self) -> None:
        told = [(present.activity, present.device, present.inode) for present in self.now()]
        if told != self._told:
            self._told = told
            for listener in self.listeners:
                listener()

    # This device

    async def _show(self) -> None:
        """Show the activities of this device, if they are others than those shown, or are to be renewed. Not
        while a rebase is made aside: to look for names writes the database, which would end it."""
        if self._ledger.standing.is_aside:
            return
        try:
            with trio.fail_after(PATIENCE), sqlite_errors(self._ledger.namespace.path):
                self._look_here()
                doing = self._doing
                if not self._is_due():
                    return
                await self._find_paths({inode for _, inode in doing})
                self._shown = None
                await self._board.show(self._sealed(doing))
        except (DriveError, FileSystemError, OSError, trio.TooSlowError) as error:
            log.info("others do not hear what is done here: %s", error)
            await trio.sleep(RENEWAL)
            return
        self._shown, self._due = frozenset(doing), trio.current_time() + RENEWAL

    def _is_due(self) -> bool:
        if self._contact.is_lost:
            return False
        is_new = self._doing.keys() != self._shown
        return is_new or (bool(self._doing) and trio.current_time() >= self._due)

    def _look_here(self) -> None:
        """Note the activities of this device, no more than are shown, and forget the names of other files."""
        self._doing = dict(islice(self._activities(), MAX_PRESENCES)) if self.is_wanted() else {}
        inodes = {inode for _, inode in self._doing}
        self._paths = {inode: path for inode, path in self._paths.items() if inode in inodes}

    def _activities(self) -> Iterator[tuple[tuple[Activity, int], int]]:
        """With which file, since when. A file that is being uploaded can come twice, the second time with the
        time that counts."""
        now, edited = self._environment.wall_clock(), set[int]()
        for file in self.writing():
            self._name(file)
            edited.add(file.inode)
            yield (key := (Activity.EDITING, file.inode)), self._doing.get(key, now)
        for inode, since in self._uploads():
            if since + UPLOAD_SECONDS * 1e9 <= now and inode not in edited:
                yield (Activity.UPLOADING, inode), since

    def _name(self, file: Writing) -> None:
        """Its path, as it was called when it was opened."""
        if file.inode not in self._paths:
            folder = folder_path(self._ledger.namespace.synced_connection(), file.parent)
            if folder is not None:
                self._paths[file.inode] = folder + b"/" + file.name if folder else file.name

    def _uploads(self) -> Iterator[tuple[int, int]]:
        """Files with content that is not published, and when it was first written."""
        dirty = self._ledger.dirty
        layers = chain(dirty.tops(), dirty.frozen()) if len(dirty) else ()
        return ((inode, layer.first_ns) for inode, layer in layers if layer.writes)

    async def _find_paths(self, inodes: set[int]) -> None:
        """Of files whose names no door has said. That reads all names of the drive."""
        if lacking := inodes - self._paths.keys():
            self._ledger.save()
            path = self._ledger.namespace.path
            found = await trio.to_thread.run_sync(changed_paths, path, ROOT_INODE, (), lacking)
            self._paths |= {inode: places[0].path for inode, places in found.inodes.items()}

    def _sealed(self, doing: Mapping[tuple[Activity, int], int]) -> list[SealedPresence]:
        self._time_ns = max(self._time_ns + 1, self._environment.wall_clock())
        return [self._codec.seal(self._present(*each, since)) for each, since in doing.items()]

    def _present(self, activity: Activity, inode: int, since_ns: int) -> Present:
        return Present(
            activity,
            self._ledger.namespace.device,
            inode,
            since_ns,
            self._time_ns,
            self._size(inode),
            self._host,
            self._paths.get(inode, b""),
        )

    def _size(self, inode: int) -> int:
        row, top = self._ledger.namespace.inode(inode), self._ledger.dirty.top(inode)
        size = 0 if row is None else row.size
        return size if top is None else top.size(size)

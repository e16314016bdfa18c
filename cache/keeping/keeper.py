"""Folders that this machine keeps whole: their blocks are fetched to its disk, and stay there.

Invariants:
1. A block is kept only after its tag was verified: with the nodes away a kept folder reads as it is.
2. The kept blocks follow the namespace. A file that comes into a kept folder is fetched after its commit. A
   block that no kept folder names any more becomes an ordinary block of the disk cache, which goes when it
   was not used for longest.
3. Nobody waits for the keeper. A block that cannot be had now, as nodes are away or the disk is full, is
   tried again every `RETRY` seconds, and the status says why it lacks.
4. The list of folders changes by a person's word, and when a folder is gone for good. A folder that a rebase
   gave another number (others made one of that name, too, or removed it) is kept under the new number.

Event-loop thread; the namespace is read in threads, and its blocks are gone through there.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator
from functools import partial
from typing import Final
from urllib.parse import quote

import trio

from backend.buffer import Buffer
from backend.errors import DriveError
from backend.system import each
from backend.upstream import BlockId
from cache.blocks import BlockCodec, fetch_right
from cache.disk import CachedBlocks
from cache.errors import InvalidArgumentError, NotDirectoryError
from cache.journal import Ledger
from cache.keeping.kept_folders import KeptFolder, KeptFolders
from cache.keeping.kept_trees import KeptTrees, trees_of
from cache.messages import KeepingStatus, KeptShown
from cache.sync import Replaced

LOOK_EVERY: Final = 5.0
"""Seconds between two looks for something to do."""
RETRY: Final = 30.0
CHECK_EVERY: Final = 600.0
"""Seconds after which all is compared in any case: another mount may have made room on the disk."""
_SHARE: Final = 20
"""Reading the namespace takes at most this part of the time."""
_AT_ONCE: Final = 2
_MOST_FAILURES: Final = 8
"""After so many in a row the nodes are taken for away."""
_UNUSABLE: Final = "the disk cache cannot be used now"
_NO_ROOM: Final = "this machine's disk has no room for more"

log = logging.getLogger(__name__)


class Keeper:
    """See the module. `blocks`: None if this machine's disk keeps none."""

    def __init__(
        self,
        folders: KeptFolders,
        ledger: Ledger,
        blocks: CachedBlocks | None,
        codec: BlockCodec,
        limiter: trio.CapacityLimiter,
    ) -> None:
        self._folders = folders
        self._ledger = ledger
        self._blocks = blocks
        self._codec = codec
        self._limiter = limiter
        self._wanted = trio.Event()
        self._wanted.set()
        self._head = 0
        self._given_up = 0
        self._not_before = self._check_at = 0.0
        self._asked = self._done = 0
        self._became: dict[int, int] = {}
        """by inode, the ones that rebases have put in their place since the last look"""
        self._ended = trio.Event()
        self._bytes = self._here = self._failures = 0
        self._problem = ""

    def status(self) -> KeepingStatus | None:
        """As of the last look; None if no disk keeps anything."""
        if self._blocks is None:
            return None
        return KeepingStatus(
            folders=len(self._folders()),
            bytes=self._bytes,
            here=self._here,
            problem=self._folders.problem or self._problem,
        )

    def before(self) -> None:
        """See `cache.sync.Onlooker`."""

    def after(self, replaced: Replaced) -> None:
        """See `cache.sync.Onlooker`."""
        if self._blocks is not None and self._folders():
            known = {old: replaced.became.get(new, new) for old, new in self._became.items()}
            self._became = {**replaced.became, **known}

    def keep(self, inode: int) -> None:
        """Keep the folder from now on. Idempotent. `InvalidArgumentError`, `NotDirectoryError`, `OSError`."""
        if self._blocks is None:
            raise InvalidArgumentError("this mount has no disk cache to keep anything in: see cache_disk=")
        folder = self._folder(inode)
        self._ledger.save()  # what reads the database would take a new folder for one that is gone
        self._folders.add(folder)
        self._want()

    def unkeep(self, inode: int) -> None:
        """Keep the folder no more. `InvalidArgumentError` if it is not kept; `NotDirectoryError`,
        `OSError`."""
        folder = self._folder(inode)
        if folder not in self._folders():
            raise InvalidArgumentError("this folder itself is not kept here")
        self._folders.remove([folder])
        self._want()

    async def shown(self) -> list[KeptShown]:
        """The folders, and how much of each is here."""
        if self._blocks is None:
            return []
        self._ledger.save()
        found, here = await self._look(), await self._blocks.kept() or set()
        return await trio.to_thread.run_sync(_shown, found, here)

    async def complete(self) -> None:
        """Returns when all that is wanted now is here, or cannot be had now."""
        self._ledger.save()
        self._want()
        asked = self._asked
        while self._done < asked:
            await self._ended.wait()

    async def run(self) -> None:
        """Fetch and release, until cancelled."""
        if self._blocks is None:
            return
        while True:
            if self._is_due():
                await self._compare(self._blocks)
            with trio.move_on_after(LOOK_EVERY):
                await self._wanted.wait()

    def _folder(self, inode: int) -> KeptFolder:
        row = self._ledger.namespace.inode(inode)
        if row is None or not row.is_directory:
            raise NotDirectoryError("only a folder of the drive as it is now can be kept")
        return KeptFolder(inode, row.btime_ns)

    def _want(self) -> None:
        self._asked += 1
        self._wanted.set()

    def _is_due(self) -> bool:
        now = trio.current_time()
        if self._wanted.is_set() or now >= self._check_at:
            return True
        changed = self._ledger.head.number != self._head and bool(self._folders())
        return now >= self._not_before and (changed or self._gone_since())

    def _gone_since(self) -> bool:
        return self._blocks is not None and self._blocks.given_up != self._given_up

    async def _compare(self, blocks: CachedBlocks) -> None:
        """One turn: what is here with what should be."""
        asked = self._asked
        self._wanted = trio.Event()
        self._problem, self._failures, self._given_up = "", 0, blocks.given_up
        self._check_at = math.inf
        try:
            await self._bring_here(blocks)
        except (DriveError, OSError) as error:
            self._problem = str(error)
        self._check_at = trio.current_time() + (RETRY if self._problem else CHECK_EVERY)
        if self._problem or not self._is_due():
            self._done = asked
            self._ended.set()
            self._ended = trio.Event()

    async def _look(self) -> KeptTrees:
        """The trees to be kept. Folders that are gone are taken from the list."""
        self._move_folders()
        path, folders = self._ledger.namespace.path, self._folders()
        found = await trio.to_thread.run_sync(trees_of, path, folders)
        gone = [folder for folder in found.gone if folder.inode not in self._became]
        if gone:
            log.info("%d folders that were kept here are gone", len(gone))
            self._folders.remove(gone)
        return found

    def _move_folders(self) -> None:
        """Keep under their new numbers the folders that rebases gave some."""
        moves: dict[KeptFolder, KeptFolder] = {}
        for folder in self._folders():
            row = self._ledger.namespace.inode(self._became.get(folder.inode, 0))
            if row is not None and row.is_directory:
                moves[folder] = KeptFolder(self._became[folder.inode], row.btime_ns)
        if moves:
            self._ledger.save()  # as in `keep`
            self._folders.move(moves)
        self._became.clear()

    async def _bring_here(self, blocks: CachedBlocks) -> None:
        began = trio.current_time()
        found, here = await self._look(), await blocks.kept()
        self._head = found.head
        difference = await trio.to_thread.run_sync(found.difference, here or set())
        self._not_before = began + max(LOOK_EVERY, _SHARE * (trio.current_time() - began))
        if here is None:
            self._problem = _UNUSABLE
            return
        if not self._folders.problem:  # the list is not known: nothing may be given back
            await blocks.release(difference.needless)
        self._bytes, self._here = difference.bytes, difference.here
        lacking = iter(difference.lacking)
        await each(partial(self._fetch_all, blocks), [lacking] * _AT_ONCE)

    async def _fetch_all(self, blocks: CachedBlocks, lacking: Iterator[tuple[BlockId, int]]) -> None:
        """Until nothing is left, or something else is to be done first."""
        for block, named in lacking:
            if self._failures >= _MOST_FAILURES or self._is_due():
                return
            try:
                sealed, _ = await fetch_right(blocks, self._open, block)
            except DriveError as error:
                self._problem = str(error)
                self._failures += 1
                continue
            self._failures = 0
            kept = await blocks.keep(block, sealed)
            if not kept:
                self._problem = _UNUSABLE if kept is None else _NO_ROOM
                return
            self._here += named

    async def _open(self, block: BlockId, sealed: Buffer) -> Buffer:
        return await trio.to_thread.run_sync(self._codec.open, block, sealed, limiter=self._limiter)


def _shown(found: KeptTrees, here: set[BlockId]) -> list[KeptShown]:
    return [KeptShown(quote(tree.path), *tree.sizes(here)) for tree in found.trees]

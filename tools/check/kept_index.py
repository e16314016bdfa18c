"""This machine's block index, beside the one that a check has just made of the packs.

A wrong index is deleted: all of it can be made from the packs again, except the notes of bad fragments. So
the bad fragments that a check found are noted here too, before the check's own index is deleted.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Final

from backend.blocks import BlockIndex, PackedBlockStore, SqliteBlockIndex
from backend.care import IndexCheck
from backend.coding import Profile
from backend.errors import CorruptError, FormatError
from backend.packs import PackStore
from backend.system import THIS_MACHINE, at_rest
from tools.check.check_state import copy_database
from tools.closing import closed_at_end
from tools.compose import INDEX_FILE, UnlockedDrive, open_index

_BATCH: Final = 1000


class KeptIndex:
    """That in `folder`. `fresh`: the check's own; `store_on` makes a store on an index, of which it has the
    closing. Blocks, but for the coroutines."""

    def __init__(
        self,
        drive: UnlockedDrive,
        folder: Path,
        fresh: SqliteBlockIndex,
        packs: PackStore,
        store_on: Callable[[BlockIndex], PackedBlockStore],
    ) -> None:
        self._file = drive.file
        self._path = folder / INDEX_FILE
        self._fresh = fresh
        self._packs = packs
        self._store_on = store_on

    @property
    def exists(self) -> bool:
        return self._path.exists()

    async def differences(self, needed: set[bytes], copy: Path | None) -> list[str]:
        """The faults in it, one line each; with `copy` it is copied to there first and left untouched.
        `needed`: blocks that have to be in it."""
        source = self._path if copy is None else copy_database(self._path, copy)
        try:
            if at_rest.is_damaged(str(self._path)):
                raise CorruptError("it has changed since it was closed")
            kept = self._open(source)
            try:
                return await IndexCheck(kept, self._fresh, self._packs, needed).differences()
            finally:
                kept.close()
        except (CorruptError, FormatError) as error:
            return [str(error)]

    def remove(self) -> None:
        """The next mount makes it anew."""
        at_rest.remove_database(str(self._path), THIS_MACHINE.disk)

    async def tell_of_new_packs(self) -> None:
        """It learns of the packs that were just written, if it is there."""
        if self.exists:
            await self._complete(self._open(self._path))

    async def keep_what_is_broken(self) -> None:
        """It learns which fragments are bad, also one that has to be made anew: else the next mount would
        take them for good, and rely on what is lost."""
        if self._path.parent.exists() and self._fresh.packs.to_repair(1):
            await self._complete(open_index(self._path, self._file))

    async def _complete(self, kept: BlockIndex) -> None:
        """Bring the index up to what is on the nodes and is known of it, and close it."""
        store, skip = self._store_on(kept), 0
        async with closed_at_end(store):
            await store.reconcile()
            while batch := self._fresh.packs.to_repair(_BATCH, skip):
                skip += len(batch)
                for pack in batch:
                    kept.packs.want_repair(pack.id, pack.missing)

    def _open(self, path: Path) -> SqliteBlockIndex:
        return SqliteBlockIndex(str(path), self._file.id, Profile.parse(self._file.profile).m)

"""Renumbering: other inode numbers for what a device made and has not published.

A copy of a device's state gives the numbers that its original gives, to other files. It becomes a device of
its own, and what it made gets numbers of that one before anything is compared.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from typing import Final

from cache.namespace import DEVICE_SHIFT, InodeRow
from cache.rebase.net_changes import NetChanges, Pair


class Renumbering:
    """Of one rebase. `changes`, `dirty`: of the device, with the numbers that they have. `device` is the one
    that `number` gives new numbers of: its own stay."""

    def __init__(
        self, changes: NetChanges, dirty: Collection[int], device: int, number: Callable[[], int]
    ) -> None:
        made = {inode for inode, pair in changes.inodes.items() if pair.before is None}
        others = sorted(inode for inode in made if inode >> DEVICE_SHIFT != device)
        self._numbers: Final = {inode: number() for inode in others}
        self._given: Final = frozenset(self._numbers.values())
        self._dirty: Final = dirty
        self.changes: Final = self._renumbered(changes)
        """with the new numbers"""
        self.dirty: Final = frozenset(map(self._to, dirty))
        """with the new numbers"""

    def _to(self, inode: int) -> int:
        return self._numbers.get(inode, inode)

    def _renumbered(self, changes: NetChanges) -> NetChanges:
        return NetChanges(
            {self._to(inode): self._pair(pair) for inode, pair in changes.inodes.items()},
            {
                (self._to(folder), name): Pair(pair.before, self._to(pair.after))
                for (folder, name), pair in changes.names.items()
            },
            {(self._to(inode), name): pair for (inode, name), pair in changes.xattrs.items()},
            {self._to(inode): pair for inode, pair in changes.extents.items()},
        )

    def _pair(self, pair: Pair[InodeRow | None]) -> Pair[InodeRow | None]:
        row = pair.after
        if row is None:
            return pair
        return Pair(pair.before, replace(row, inode=self._to(row.inode), parent=self._to(row.parent)))

    def became(self, became: Mapping[int, int]) -> dict[int, int]:
        """By the number that an inode has here, the one that it has in the end; 0: none. `became` says so by
        the new numbers."""
        others = {inode: to for inode, to in became.items() if inode not in self._given}
        return others | {inode: became.get(number, number) for inode, number in self._numbers.items()}

    def moved(self, moved: Mapping[int, int]) -> dict[int, int]:
        """As `became`, of the inodes with dirty content."""
        return {inode: to for inode, to in self.became(moved).items() if inode in self._dirty}

"""The cut rule: which dirty files a commit takes.

Invariants:
1. A commit takes the content of every dirty file that is settled (closed or renamed). So nobody sees "write
   new, rename over" as an empty file. (What was fsynced is in the journal in any case.)
2. A file that stays open is taken in four cases: it was fsynced, but then at most once within `version`; it
   has been dirty for that long; the journal fills; or somebody waits in `sync`.
3. A file without a name is taken only to make room, but a version of a conflict (`cache.rebase.versions`) at
   once. One that is set apart is never taken while it waits.
4. While a commit is prepared all dirty files are looked at once, and after that only those whose layer or
   name has changed. A file that becomes due by its age alone meanwhile is taken by the next commit.

Event-loop thread.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import trio

from cache import defaults
from cache.journal import Layer, Ledger
from cache.publish.pressure import Pressure
from cache.rebase import is_version


@dataclass(frozen=True, slots=True)
class Intervals:
    """Seconds. `commit`: at most this long between acceptance and the cut. `version`: a file that
    stays open and dirty gets a version at most this often. `shared`: where others write the drive too, the
    next cut comes so long after the first acceptance since the last one."""

    commit: float = defaults.COMMIT_INTERVAL
    version: float = defaults.VERSION_INTERVAL
    shared: float = defaults.SHARED_INTERVAL


class CutRule:
    """See the module."""

    def __init__(self, ledger: Ledger, version_interval: float, pressure: Pressure) -> None:
        self._ledger = ledger
        self._interval = version_interval
        self._pressure = pressure
        self._taken: dict[int, float] = {}
        """when an open file was last taken; of the last `version_interval` only"""
        self._taking: dict[int, float] = {}
        """the same, of the last cut, which may be taken back"""

    @contextmanager
    def choosing(self, everything: bool) -> Iterator[Choice]:
        """Around the preparation of one commit. `everything`: for somebody who waits for it."""
        recent = trio.current_time() - self._interval
        self._taken = {inode: taken for inode, taken in self._taken.items() if taken >= recent}
        with self._ledger.dirty.noting() as changed:
            yield Choice(self, everything, changed)

    def select(self, inodes: Iterable[int], everything: bool, full: bool) -> Iterator[tuple[int, Layer]]:
        """Those of the inodes that a cut takes now, with the layer. `full`: to make room."""
        ledger, now = self._ledger, trio.current_time()
        for inode in inodes:
            layer = ledger.dirty.top(inode)
            if layer is None:
                continue
            row = ledger.namespace.inode(inode)
            assert row is not None
            is_kept = row.nlink == 0 and is_version(ledger.namespace, inode)
            due = full or everything or layer.settled or is_kept or self._is_old_enough(inode, layer, now)
            if due and (full or row.nlink > 0 or is_kept) and not ledger.set_apart.waits(inode, layer, now):
                yield inode, layer

    def dirty(self) -> list[int]:
        """All files with something that no cut took."""
        return [inode for inode, _ in self._ledger.dirty.tops()]

    def is_pressed(self) -> bool:
        """Whether room has to be made."""
        return self._pressure.calls_for_cut

    def note_cut(self, chosen: Iterable[tuple[int, Layer]]) -> None:
        """The cut takes these now."""
        now = trio.current_time()
        self._taking = {inode: now for inode, layer in chosen if not layer.settled}

    def note_stored(self) -> None:
        """Note that what the last cut took is stored, so that it stands."""
        self._taken |= self._taking

    def _is_old_enough(self, inode: int, layer: Layer, now: float) -> bool:
        """Whether an open file is due for a version."""
        if now - layer.began > self._interval:
            return True
        return layer.synced and now - self._taken.get(inode, -self._interval - 1) > self._interval


class Choice:
    """The files of one commit while it is prepared. `changed` gets the inodes to be looked at anew."""

    def __init__(self, rule: CutRule, everything: bool, changed: set[int]) -> None:
        self._rule = rule
        self._everything = everything
        self._changed = changed
        self._full: bool | None = None
        """None before the first look"""
        self._chosen: dict[int, Layer] = {}

    def look(self) -> list[tuple[int, Layer]]:
        """Choose; of those chosen, what was not looked at since it changed."""
        full = self._rule.is_pressed()
        if full is not self._full:
            self._full = full
            self._chosen.clear()
            anew: Collection[int] = self._rule.dirty()
        else:
            anew = tuple(self._changed)
        self._changed.clear()
        for inode in anew:
            self._chosen.pop(inode, None)
        found = list(self._rule.select(anew, self._everything, full))
        self._chosen.update(found)
        return found

    def leave_out(self, inodes: Iterable[int]) -> None:
        """These cannot be taken as they are. One that changes is looked at anew."""
        for inode in inodes:
            self._chosen.pop(inode, None)

    def take(self) -> list[int]:
        """The inodes for the cut, which is to be made before anything else happens."""
        self.look()
        self._rule.note_cut(self._chosen.items())
        return list(self._chosen)

"""Names of a rebase: which of the local changes of names stand on the published state (docs/conflicts.md).

The order of the steps matters. What leaves its name is decided first, then which folders may move, then which
removed folders go. Only then it is known which names are free for what comes.
"""

from __future__ import annotations

from cache.rebase.net_changes import Key
from cache.rebase.placing import Placing
from cache.rebase.plan import Plan, Row, Situation, is_alive, made_of
from cache.rebase.saves import saves
from cache.rebase.units import Units


class Names:
    """The steps. `run` once; the plan has the result."""

    def __init__(self, situation: Situation, plan: Plan) -> None:
        self._s = situation
        self._plan = plan
        s = situation
        self._their_saves = saves(s.theirs, s.base, s.head)
        self.our_saves = saves(s.ours, s.base, s.local)
        """files that this device saved anew, with the inodes that took their names"""
        self._new_of = {new: old for old, new in self.our_saves.items()}
        self._claims: dict[int, set[Key]] = {}
        """names that inodes which are there are to get"""
        self._removed: list[int] = []
        """directories that were removed here and are there still"""
        self.placing = Placing(situation, plan)
        self.units = Units(situation, plan, self.placing)

    def run(self) -> None:
        self.units.find()
        exchanged = self._exchanges() | self.units.decided
        for inode in sorted((self._s.ours.gone.keys() | self._s.ours.come.keys()) - exchanged):
            if self._s.base.inode(inode) is not None:
                self._existing(inode)
        self._drop_cycles()
        self._remove_folders()
        self._place()
        self._end_orphans()

    def _end_orphans(self) -> None:
        for inode, pair in sorted(self._s.ours.inodes.items()):
            is_ended = pair.before is not None and pair.before.nlink == 0 and pair.after is None
            if is_ended and self._s.head.inode(inode) is not None and not is_alive(self._s.head, inode):
                self._plan.ended.append(inode)

    def _exchanges(self) -> set[int]:
        """Inodes whose exchange is dropped."""
        dropped: set[int] = set()
        for key, pair in sorted(self._s.ours.names.items()):
            first, second = pair.before, pair.after
            others = self._s.ours.come.get(first, set()) & self._s.ours.gone.get(second, set())
            is_decided = not self.units.decided.isdisjoint((first, second))
            is_exchange = bool(first and second and others) and first not in dropped and not is_decided
            if is_exchange and (self._is_touched(first) or self._is_touched(second)):
                dropped |= {first, second}
                self._plan.decide(Row.EXCHANGE, first, key)
        return dropped

    def _is_touched(self, inode: int) -> bool:
        """Whether others changed a file, or its names."""
        theirs, pair = self._s.theirs, self._s.theirs.inodes.get(inode)
        if inode in theirs.gone or inode in theirs.come or theirs.is_content_changed(inode):
            return True
        if inode in theirs.xattrs_of or not is_alive(self._s.head, inode):
            return True
        if pair is None or pair.before is None or pair.after is None:
            return False
        was, now = pair.before, pair.after
        return (was.mode, was.uid, was.gid) != (now.mode, now.uid, now.gid)

    def _existing(self, inode: int) -> None:
        come = self._s.ours.come.get(inode, set())
        if not is_alive(self._s.head, inode):
            self._deleted_there(inode, come)
        elif come or is_alive(self._s.local, inode):
            self._renamed(inode, come)
        else:
            self._unlinked(inode)

    # It is there still

    def _unlinked(self, inode: int) -> None:
        row = self._s.head.inode(inode)
        assert row is not None
        if row.is_directory:
            self._removed.append(inode)
        elif self._s.theirs.is_content_changed(inode):
            if inode not in self.our_saves:
                self._plan.decide(Row.UNLINK_CONTENT, inode, min(self._s.ours.gone[inode]))
        elif inode in self.our_saves:
            for key in self._names_at_head(inode):
                self._plan.vacated[key] = inode  # its successor comes there: the folder does not get emptier
        else:
            self._vacate(inode, self._s.ours.gone[inode])
            if not self._held_names(inode) and inode in self._s.theirs.gone:
                self._plan.decide(Row.UNLINK_MOVED, inode, min(self._s.ours.gone[inode]))

    def _renamed(self, inode: int, come: set[Key]) -> None:
        """It lives on both sides."""
        s = self._s
        gone = s.ours.gone.get(inode, set())
        both = sorted(gone & s.theirs.gone.get(inode, set()))
        wanted = sorted(come)
        dropped, kept = wanted[: len(both)], wanted[len(both) :]
        for key in dropped:
            is_same = key in s.theirs.come.get(inode, set())
            self._plan.decide(Row.SAME if is_same else Row.RENAME_RENAME, inode, key)
        kept = [key for key in kept if s.head.entry(key) != inode]
        if kept:
            self._claims[inode] = set(kept)
            for key in sorted(gone):
                if s.head.entry(key) == inode:
                    self._plan.vacate(key, inode)
        else:
            self._vacate(inode, gone)

    def _vacate(self, inode: int, keys: set[Key]) -> None:
        """Take names away, but not the last one of what lives here, nor out of a folder that stays whole."""
        row = self._s.head.inode(inode)
        assert row is not None
        going = [key for key in sorted(keys) if self._s.head.entry(key) == inode]
        if going and is_alive(self._s.local, inode) and not row.is_directory and row.nlink == len(going):
            self._plan.decide(Row.UNLINK_LAST, inode, going.pop())
        for key in going:
            if not self._is_moved_whole(key[0]):
                self._plan.vacate(key, inode)

    def _is_moved_whole(self, folder: int) -> bool:
        """Whether the folder was removed here with all its content, and moved by others, or lay in such a
        one."""
        s = self._s
        while True:
            row = s.base.inode(folder)
            if row is None or is_alive(s.local, folder):
                return False
            if is_alive(s.head, folder) and folder in s.theirs.gone:
                return True
            folder = row.parent

    def _held_names(self, inode: int) -> set[Key]:
        return {key for key in self._s.ours.gone[inode] if self._s.head.entry(key) == inode}

    def _names_at_head(self, inode: int) -> list[Key]:
        """The names of a file that this device saved anew: those that it still has, else where others moved
        it."""
        return sorted(self._held_names(inode)) or sorted(self._s.theirs.come.get(inode, ()))[:1]

    # It was deleted there

    def _deleted_there(self, inode: int, come: set[Key]) -> None:
        s, gone = self._s, self._s.ours.gone.get(inode, set())
        successor = self._their_saves.get(inode)
        is_changed = s.is_changed_here(inode) and is_alive(s.local, inode)
        if successor is not None:
            self._renamed_saved(inode, successor, come)
        elif come and not gone and not is_changed:
            self._revive(inode, come, Row.LINK_DELETE)
        elif come and not is_changed and {key[0] for key in come} - {key[0] for key in gone}:
            self._revive(inode, come, Row.RENAME_DELETE)
        elif come and not is_changed:
            self._plan.decide(Row.RENAME_GONE, inode, min(come))

    def _renamed_saved(self, inode: int, successor: int, come: set[Key]) -> None:
        """Others saved it anew: the successor is what was renamed, or removed, here."""
        gone = {key for key in self._s.ours.gone.get(inode, ()) if self._s.head.entry(key) == successor}
        if come:
            self._claims.setdefault(successor, set()).update(come)
            for key in sorted(gone):
                self._plan.vacate(key, successor)
            self._plan.decide(Row.RENAME_SAVE, inode, min(come))
        elif inode not in self.our_saves:
            self._plan.decide(Row.UNLINK_CONTENT, inode, min(self._s.ours.gone[inode]))

    def _revive(self, inode: int, keys: set[Key], row: Row) -> None:
        """It comes back as a new inode; a folder with all that was in it and was deleted with it."""
        self._plan.decide(row, inode, min(keys))
        waiting = [(inode, keys)]
        while waiting:
            each, names = waiting.pop()
            number = self._s.number()
            self.placing.numbers[each] = number
            self._plan.made[number] = made_of(self._s.local, each, number)
            self._claims[number] = names
            if self._plan.made[number].row.is_directory:
                for name, child in sorted(self._s.local.entries(each).items()):
                    is_lost = self._s.base.inode(child) is not None and not is_alive(self._s.head, child)
                    if is_lost and child not in self._s.ours.come and not self._s.is_changed_here(child):
                        waiting.append((child, {(each, name)}))

    # Folders

    def _drop_cycles(self) -> None:
        """Folders that would lie in themselves are not moved."""
        stands = False
        while not stands:
            stands = True
            for inode in sorted(self._claims):
                if self._lies_in_itself(inode):
                    key = min(self._claims.pop(inode))
                    self._plan.decide(Row.CYCLE, inode, key)
                    self._unvacate(inode)
                    stands = False

    def _unvacate(self, inode: int) -> None:
        for key in [key for key, each in self._plan.vacated.items() if each == inode]:
            del self._plan.vacated[key]
            self._plan.vacated_in[key[0]] -= 1

    def _lies_in_itself(self, inode: int) -> bool:
        row = self._s.head.inode(inode)
        if row is None or not row.is_directory:
            return False
        seen: set[int] = set()
        above = inode
        while above not in seen:
            seen.add(above)
            above = self._above(above)
            if above == inode:
                return True
        return False

    def _above(self, folder: int) -> int:
        """The directory of a directory, as it will be."""
        claimed = self._claims.get(folder)
        row = self._s.head.inode(folder)
        if claimed:
            return min(claimed)[0]
        if row is not None and row.nlink > 0:
            return row.parent
        return self.placing.key_of(folder)[0]

    def _remove_folders(self) -> None:
        """Those that were removed here, the deepest first, as far as nothing is left in them."""
        depth = {inode: self._depth(inode) for inode in self._removed}
        for inode in sorted(self._removed, key=lambda each: (-depth[each], each)):
            row, (key,) = self._s.head.inode(inode), self._s.ours.gone[inode]
            assert row is not None
            if self._s.head.entry(key) != inode:
                self._plan.decide(Row.FOLDER_MOVED, inode, key)
            elif self._is_moved_whole(key[0]):
                continue
            elif row.size > self._plan.vacated_in[inode]:
                self._plan.decide(Row.FOLDER_KEPT, inode, key)
            else:
                self._plan.vacate(key, inode)

    def _depth(self, inode: int) -> int:
        depth, row = 0, self._s.base.inode(inode)
        while row is not None and row.parent != row.inode:
            depth, row = depth + 1, self._s.base.inode(row.parent)
        return depth

    # What comes

    def _place(self) -> None:
        s = self._s
        new = [inode for inode in s.ours.come if s.base.inode(inode) is None]
        rows = {inode: row for inode in new if (row := s.local.inode(inode)) is not None}
        for inode in sorted(rows):
            if rows[inode].is_directory:
                self.placing.number_of(inode)
        for inode in sorted(self._claims):
            for key in sorted(self._claims[inode]):
                self.placing.place(inode, key)
        self.units.place()
        for inode in sorted(rows):
            if not rows[inode].is_directory and inode not in self.units.decided:
                self._place_new(inode)

    def _place_new(self, inode: int) -> None:
        old = self._new_of.get(inode)
        keys = sorted(self._s.ours.come[inode])
        if old is None:
            self.placing.place_new(inode, keys)
        elif not is_alive(self._s.head, old):
            self._placed_save(
                inode, keys, Row.SAVE_CONTENT if old in self._their_saves else Row.CONTENT_DELETE
            )
        elif self._s.theirs.is_content_changed(old):
            self._placed_save(inode, self._names_at_head(old)[:1], Row.SAVE_CONTENT)
        else:
            published = self._names_at_head(old)
            is_moved = not self._held_names(old)
            self.placing.place_new(inode, published if is_moved else keys)
            if is_moved:
                self._plan.decide(Row.SAVE_RENAME, old, published[0])

    def _placed_save(self, inode: int, keys: list[Key], row: Row) -> None:
        self.placing.place_new(inode, keys)
        if inode in self._plan.made:
            self._plan.decide(row, inode, keys[0])

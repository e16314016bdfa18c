"""Contents and attributes of a rebase: the local ones that go on the published inodes, and the contents that
become files of their own (docs/conflicts.md). They are decided after the names."""

from __future__ import annotations

from dataclasses import replace
from stat import S_ISGID, S_ISUID, S_IXGRP
from typing import Final

from cache.attributes import CHANGED, CLAIM
from cache.namespace import ACCESS, InodeRow, RemoveXattr, SetAttributes, SetXattr
from cache.rebase.names import Names
from cache.rebase.net_changes import Key
from cache.rebase.plan import Plan, Row, Situation, is_alive, made_of

CAPABILITY: Final = b"security.capability"
_OF_CONTENT: Final = (CAPABILITY, CLAIM, CHANGED)
"""Attributes that say something of the bytes: on others' bytes they would be wrong."""


class Contents:
    """The steps. `run` once; the plan has the result."""

    def __init__(self, situation: Situation, plan: Plan, names: Names) -> None:
        self._s = situation
        self._plan = plan
        self._placing = names.placing
        self._saves = names.our_saves
        self._decided = names.units.decided

    def run(self) -> None:
        changed = sorted({*self._s.ours.extents, *self._s.ours.inodes, *self._s.dirty} - self._decided)
        self._settle_orphans(changed)
        self._settle_removed()
        both: list[int] = []
        for inode in changed:
            is_here = self._s.is_changed_here(inode) and inode not in self._placing.numbers
            if is_here and self._decide(inode):
                both.append(inode)
        names = self._s.head.names_of([inode for inode in both if is_alive(self._s.head, inode)])
        for inode in both:
            self._copy(inode, names.get(inode, []))
        for inode, pair in sorted(self._s.ours.inodes.items()):
            if pair.before is not None and pair.after is not None and inode not in self._decided:
                self._merge_fields(inode, pair.before, pair.after)
        for old, new in sorted(self._saves.items()):
            if old not in self._decided:
                self._inherit(old, new)

    def _settle_orphans(self, changed: list[int]) -> None:
        """Files that were made and lost their name here, and that somebody may have open."""
        for inode in changed:
            row = self._s.local.inode(inode)
            if (
                self._s.base.inode(inode) is None
                and row is not None
                and not row.nlink
                and not row.is_directory
            ):
                self._plan.made[inode] = made_of(self._s.local, inode, inode)

    def _settle_removed(self) -> None:
        """Files that were written here, then removed from a unit that others changed: theirs stays whole."""
        for inode in sorted(self._decided):
            if self._s.is_changed_here(inode) and not is_alive(self._s.local, inode):
                self._keep_open(inode)

    def _decide(self, inode: int) -> bool:
        """Decide what becomes of the content that was changed here; whether it becomes a file of its own."""
        s, plan = self._s, self._plan
        is_other = s.theirs.is_content_changed(inode) and not s.is_same_content(inode, inode)
        if not is_alive(s.local, inode):
            if s.local.inode(inode) is None or is_other or s.head.inode(inode) is None:
                self._keep_open(inode)
            else:
                plan.contents.append(inode)
            return False
        if not is_alive(s.head, inode) or is_other:
            return True
        if not s.theirs.is_content_changed(inode):
            plan.contents.append(inode)
        else:
            plan.decide(Row.SAME, inode)
        return False

    def _keep_open(self, inode: int) -> None:
        """The content has no name here: it goes on without one if somebody has it open, else it has gone."""
        s, plan = self._s, self._plan
        if s.local.inode(inode) is None or not s.held(inode):
            plan.moved[inode] = 0
            return
        number = plan.moved[inode] = s.number()
        plan.made[number] = made_of(s.local, inode, number)

    def _copy(self, inode: int, published: list[Key]) -> None:
        """All of the local content becomes a new inode: beside the published one, or under its own name."""
        s, plan, number = self._s, self._plan, self._s.number()
        plan.made[number] = made_of(s.local, inode, number)
        plan.moved[inode] = number
        if is_alive(s.head, inode):
            placed = sorted(plan.names.get(inode, ()))
            key = (placed or [key for key in published if key not in plan.vacated])[0]
            plan.decide(Row.CONTENT_CONTENT, inode, key)
            self._placing.place_copy(number, key)
            return
        self._placing.numbers[inode] = number
        keys = s.ours.come.get(inode, set()) | (
            s.theirs.gone.get(inode, set()) - s.ours.gone.get(inode, set())
        )
        plan.decide(Row.CONTENT_DELETE, inode, min(keys))
        for key in sorted(keys):
            self._placing.place(number, key)

    # Attributes

    def _merge_fields(self, inode: int, was: InodeRow, mine: InodeRow) -> None:
        head = self._s.head.inode(inode)
        if head is None:
            return
        is_content_theirs = self._s.theirs.is_content_changed(inode)
        is_content_ours = inode in self._plan.contents
        set_here = SetAttributes(
            inode,
            mode=self._mode(
                was, mine, head, is_content_theirs=is_content_theirs, is_content_ours=is_content_ours
            ),
            uid=self._field(inode, was.uid, mine.uid, head.uid),
            gid=self._field(inode, was.gid, mine.gid, head.gid),
            mtime_ns=self._mtime(was, mine, head, is_content_theirs=is_content_theirs),
        )
        if set_here != SetAttributes(inode):
            self._plan.fields[inode] = replace(set_here, ctime_ns=max(mine.ctime_ns, head.ctime_ns))
        self._merge_xattrs(
            inode, mine, is_content_theirs=is_content_theirs, is_mode_ours=was.mode != mine.mode
        )
        if is_content_ours:
            self._end_claims(inode, mine)

    def _end_claims(self, inode: int, mine: InodeRow) -> None:
        """Statements of others about the bytes that this device changed do not stand."""
        values = {**self._s.local.xattrs(inode), CAPABILITY: None}
        for name in sorted(set(_OF_CONTENT) & {*self._s.theirs.xattrs_of.get(inode, ())}):
            self._set_xattr(inode, name, values.get(name), mine.ctime_ns)

    def _field(self, inode: int, was: int, mine: int, head: int) -> int | None:
        if mine in (was, head):
            return None
        if head != was:
            self._plan.decide(Row.FIELD, inode)
        return mine

    def _mode(
        self, was: InodeRow, mine: InodeRow, head: InodeRow, *, is_content_theirs: bool, is_content_ours: bool
    ) -> int | None:
        """The mode to be set. Bits that give a program rights are not for a content that their setter did not
        know."""
        mode = self._field(mine.inode, was.mode, mine.mode, head.mode)
        if mode is not None and is_content_theirs:
            return without_rights(mode)
        if (
            mode is None
            and is_content_ours
            and head.mode != was.mode
            and without_rights(head.mode) != head.mode
        ):
            return without_rights(head.mode)
        return mode

    def _mtime(self, was: InodeRow, mine: InodeRow, head: InodeRow, *, is_content_theirs: bool) -> int | None:
        if mine.mtime_ns in (was.mtime_ns, head.mtime_ns) or head.is_directory:
            return None
        if is_content_theirs:
            if not self._s.is_changed_here(mine.inode):
                self._plan.decide(Row.TIMES, mine.inode)
            return None
        return mine.mtime_ns

    def _merge_xattrs(
        self, inode: int, mine: InodeRow, *, is_content_theirs: bool, is_mode_ours: bool
    ) -> None:
        values = self._s.local.xattrs(inode)
        names = {*self._s.ours.xattrs_of.get(inode, ()), *([ACCESS] if is_mode_ours else [])}
        for name in sorted(names):
            if name not in _OF_CONTENT or not is_content_theirs:
                self._set_xattr(inode, name, values.get(name), mine.ctime_ns)

    def _set_xattr(self, inode: int, name: bytes, value: bytes | None, time_ns: int) -> None:
        """The published inode is to have that value, or none."""
        there = self._s.head.xattrs(inode).get(name)
        if there == value:
            return
        if there != self._s.base.xattrs(inode).get(name):
            self._plan.decide(Row.FIELD, inode)
        if value is None:
            self._plan.xattrs.append(RemoveXattr(inode, name, time_ns))
        else:
            self._plan.xattrs.append(SetXattr(inode, name, value, time_ns))

    def _inherit(self, old: int, new: int) -> None:
        """A file that was saved anew gets the mode and owner that others gave it meanwhile."""
        was, head, made = self._s.base.inode(old), self._s.head.inode(old), self._plan.made.get(new)
        if was is None or head is None or made is None or not head.nlink:
            return
        row = made.row
        mode = without_rights(head.mode) if (row.mode, head.mode) != (was.mode, was.mode) else row.mode
        self._plan.made[new] = replace(
            made,
            row=replace(
                row,
                mode=mode if row.mode == was.mode else row.mode,
                uid=head.uid if row.uid == was.uid else row.uid,
                gid=head.gid if row.gid == was.gid else row.gid,
            ),
        )


def without_rights(mode: int) -> int:
    """The mode without the bits that the kernel takes away when a file is written (chmod(2))."""
    mode &= ~S_ISUID
    return mode & ~S_ISGID if mode & S_IXGRP else mode

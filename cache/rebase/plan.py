"""The plan of a rebase: the local net changes that are to be made on the published state, and the reasons.

`situation` is what is compared, `plan` what was decided; `cache.rebase.emission` makes operations of it.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Collection
from dataclasses import dataclass, field, replace
from enum import Enum

from cache.namespace import Extent, InodeRow, RemoveXattr, SetAttributes, SetXattr
from cache.rebase.net_changes import Key, NetChanges, places
from cache.rebase.views import NamespaceView, Overlay, View


class Row(Enum):
    """The rows of the table in docs/conflicts.md."""

    SAME = "the same was done on both sides"
    CONTENT_CONTENT = "both changed the content: the local one is a copy"
    CONTENT_DELETE = "the content was changed here and deleted there: kept"
    SAVE_CONTENT = "a file was saved anew here and changed there: the local one is a copy"
    SAVE_RENAME = "a file was saved anew here and renamed there: both"
    UNLINK_CONTENT = "removed here, changed there: it stays"
    UNLINK_LAST = "each side removed another name of it: the last one stays"
    UNLINK_MOVED = "removed here, moved there: it stays"
    RENAME_RENAME = "both renamed it: the published place stays"
    RENAME_SAVE = "renamed here, saved anew there: both"
    RENAME_DELETE = "moved into another folder here, deleted there: kept"
    RENAME_GONE = "renamed in its folder here, deleted there: it is gone"
    CYCLE = "a folder would be moved into itself: not moved"
    EXCHANGE = "exchanged here, changed there: not exchanged"
    NAME_TAKEN = "the name was taken: a conflict name"
    FOLDERS_MERGED = "both made the folder: one folder"
    FOLDER_KEPT = "the folder was removed here, something new is in it: it stays"
    FOLDER_MOVED = "removed here with its content, moved there: it stays whole"
    FOLDER_AGAIN = "something is here in a folder that was deleted there: the folder is made again"
    FIELD = "both changed the same field: the later one"
    TIMES = "the times were set here, the content changed there: not set"
    VERSION = "no copy is shown here: the local content is a version, pinned for thirty days"
    UNIT = "both changed a database or what lies beside it: the local ones are copies"
    PIN_MOVED = "the pinned commit is no point any more: the nearest one is pinned"
    LINK_DELETE = "a name was added here, the file deleted there: it comes back"


@dataclass(frozen=True, slots=True)
class Decision:
    """A conflict and its end. `key`: the name that it is about, as it is on this device or was."""

    row: Row
    inode: int
    key: Key | None = None


@dataclass(frozen=True, slots=True)
class Made:
    """An inode that is to be made, with all that it is to have."""

    row: InodeRow
    xattrs: dict[bytes, bytes]
    extents: list[Extent]


@dataclass(frozen=True, slots=True)
class Situation:
    """The states that are compared. `commit`: the number of the base, with which both sides began. `ours`:
    what this device changed since; `theirs`: what was published since. `dirty`: inodes with content that is
    in no extent yet. `held`: whether somebody has an inode open. `number` gives inode numbers that were never
    used. `host`: this device's name, for people."""

    commit: int
    head: NamespaceView
    ours: NetChanges
    theirs: NetChanges
    dirty: Collection[int]
    held: Callable[[int], bool]
    number: Callable[[], int]
    host: bytes
    base: View = field(init=False)
    local: View = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "base", Overlay(self.head, self.theirs, is_after=False))
        object.__setattr__(self, "local", Overlay(self.base, self.ours, is_after=True))

    def is_changed_here(self, inode: int) -> bool:
        """Whether the content of an inode that the base has was changed on this device."""
        return self.ours.is_content_changed(inode) or (
            inode in self.dirty and self.base.inode(inode) is not None
        )

    def is_same_content(self, inode: int, other: int) -> bool:
        """Whether the local content of `inode`, all of it in extents, is that of `other` at the head."""
        mine, theirs = self.local.inode(inode), self.head.inode(other)
        if mine is None or theirs is None or inode in self.dirty:
            return False
        kind = (mine.mode & 0o170000, mine.size, mine.rdev, mine.target)
        if mine.is_directory or kind != (theirs.mode & 0o170000, theirs.size, theirs.rdev, theirs.target):
            return False
        return places(self.local.extents(inode)) == places(self.head.extents(other))


def is_alive(view: View, inode: int) -> bool:
    """Whether the inode has a name there."""
    row = view.inode(inode)
    return row is not None and row.nlink > 0


@dataclass(slots=True)
class Plan:
    """Decisions so far. Inodes of `placed` are those of the head, or are in `made`."""

    vacated: dict[Key, int] = field(default_factory=dict)
    """names of the head that go, with their inodes"""
    vacated_in: Counter[int] = field(default_factory=Counter)
    """how many, by directory"""
    placed: dict[Key, int] = field(default_factory=dict)
    """names that come, with their inodes"""
    names: defaultdict[int, list[Key]] = field(default_factory=lambda: defaultdict(list))
    """by inode, the names that come"""
    made: dict[int, Made] = field(default_factory=dict)
    ended: list[int] = field(default_factory=list)
    """inodes of the head without a name that this device had open, and has no more"""
    contents: list[int] = field(default_factory=list)
    """inodes of the head whose content becomes that of this device"""
    fields: dict[int, SetAttributes] = field(default_factory=dict)
    """by inode of the head, the attributes that are set"""
    xattrs: list[SetXattr | RemoveXattr] = field(default_factory=list)
    moved: dict[int, int] = field(default_factory=dict)
    """where the dirty content of an inode goes: 0: it is dropped"""
    decisions: list[Decision] = field(default_factory=list)

    def vacate(self, key: Key, inode: int) -> None:
        self.vacated[key] = inode
        self.vacated_in[key[0]] += 1

    def place(self, key: Key, inode: int) -> None:
        self.placed[key] = inode
        self.names[inode].append(key)

    def decide(self, row: Row, inode: int, key: Key | None = None) -> None:
        self.decisions.append(Decision(row, inode, key))

    def entry(self, head: View, key: Key) -> int:
        """The inode that will have that name, as far as it is decided."""
        placed = self.placed.get(key)
        if placed is not None:
            return placed
        return 0 if key in self.vacated else head.entry(key)


def made_of(view: View, inode: int, number: int) -> Made:
    """An inode of another number with all that `inode` has there."""
    row = view.inode(inode)
    assert row is not None
    return Made(replace(row, inode=number), view.xattrs(inode), view.extents(inode))

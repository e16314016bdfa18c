"""Changes: of a path from state to state (its log), and of a tree between two states (its diff).

Both only look at recorded commits, and give the loop back now and then: what they read does not change.
Paths are raw bytes relative to the drive's root, without a leading slash.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from stat import S_IFMT, S_ISDIR
from typing import Final, NamedTuple

import trio

from cache.errors import NoEntryError, NotDirectoryError
from cache.history.past import PastTree
from cache.namespace import ROOT_INODE, DentryRow, InodeRow

_PAGE: Final = 256
_ABSENT: Final = InodeRow(0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, b"", 0, 0, 0, 0)


class Change(NamedTuple):
    """`kind`: A added, D deleted, M another content, P other attributes, T another type."""

    kind: str
    path: bytes


@dataclass(frozen=True, slots=True)
class LogEntry:
    """From `commit` on the path was this. `what`: the changes, in words; `row` None: it was not there."""

    commit: int
    what: tuple[str, ...]
    row: InodeRow | None


def split(path: bytes) -> tuple[bytes, bytes]:
    """(the directory's path, the last name) of a path that is not the root's."""
    directory, _, name = path.strip(b"/").rpartition(b"/")
    return directory, name


def log_of(past: PastTree, parent: int, name: bytes) -> list[LogEntry]:
    """All that happened to the name in the directory (an inode), the newest first: every recorded state that
    differs from the one before in content or attributes, or in whether there is anything."""
    entries: list[LogEntry] = []
    before = _ABSENT
    for commit in past.changes_of_name(parent, name):
        entry = past.history.entry_at(parent, name, commit)
        now = _ABSENT if entry is None else past.row(entry.inode, commit)
        what = _what(before, now)
        if what:
            entries.append(LogEntry(commit, what, now if now.inode else None))
        before = now
    return entries[::-1]


def _content_of(row: InodeRow) -> tuple[int, int, bytes]:
    """Equal for two rows of an inode if its bytes are."""
    return row.content_commit, row.size, row.target


def _what(before: InodeRow, now: InodeRow) -> tuple[str, ...]:
    if before.inode == 0 or now.inode == 0:
        return () if before.inode == now.inode else ("deleted" if now.inode == 0 else "created",)
    changed = {
        "replaced": before.inode != now.inode,
        "content": _content_of(before) != _content_of(now) and not now.is_directory,
        "names": now.is_directory and before.mtime_ns != now.mtime_ns,
        "mode": before.mode != now.mode,
        "owner": (before.uid, before.gid) != (now.uid, now.gid),
        "links": before.nlink != now.nlink and not now.is_directory,
        "time": before.mtime_ns != now.mtime_ns and not now.is_directory,
    }
    found = tuple(word for word, is_so in changed.items() if is_so)
    if found == ("content", "time"):
        return ("content",)
    return found or (("attributes",) if before.ctime_ns != now.ctime_ns else ())


async def differences(past: PastTree, path: bytes, first: int, second: int) -> AsyncIterator[Change]:
    """The differences in the tree at `path` as of the commit `second` from what it was as of `first`,
    sorted within each directory; a whole tree that came or went is one change. `NoEntryError` if the path was
    there at neither."""
    old, new = _at(past, path, first), _at(past, path, second)
    if old is None and new is None:
        raise NoEntryError("the path was there at neither time")
    waiting: list[tuple[bytes, InodeRow | None, InodeRow | None]] = [(path.strip(b"/"), old, new)]
    while waiting:
        here, old, new = waiting.pop()
        kind = _kind(old, new)
        if kind:
            yield Change(kind, here)
        if old is None or new is None or not (old.is_directory and new.is_directory):
            continue
        inner = _pairs(past, here, (old.inode, first), (new.inode, second))
        waiting += reversed(inner)
        await trio.lowlevel.checkpoint()


def _at(past: PastTree, path: bytes, commit: int) -> InodeRow | None:
    try:
        return past.walk(path, commit)
    except (NoEntryError, NotDirectoryError):
        return None


def _kind(old: InodeRow | None, new: InodeRow | None) -> str:
    if old is None or new is None:
        return "A" if old is None else "D"
    if S_IFMT(old.mode) != S_IFMT(new.mode):
        return "T"
    if old.born == new.born and old.inode == new.inode:
        return ""
    if not S_ISDIR(new.mode) and (
        (*_content_of(old), old.rdev) != (*_content_of(new), new.rdev)
        or (old.inode != new.inode and old.is_regular)
    ):
        return "M"
    same = (old.mode, old.uid, old.gid) == (new.mode, new.uid, new.gid)
    times = old.mtime_ns == new.mtime_ns or new.is_directory
    return "" if same and times else "P"


def _pairs(
    past: PastTree, path: bytes, old: tuple[int, int], new: tuple[int, int]
) -> list[tuple[bytes, InodeRow | None, InodeRow | None]]:
    """The names of both directories (inode, commit), sorted; of the same files only those with a new row."""
    before, after = _names(past, *old), _names(past, *new)
    pairs = []
    for name in sorted(before.keys() | after.keys()):
        rows = tuple(
            None if entry is None else past.row(entry.inode, commit)
            for entry, commit in ((before.get(name), old[1]), (after.get(name), new[1]))
        )
        pairs.append((path + b"/" + name if path else name, rows[0], rows[1]))
    return pairs


def _names(past: PastTree, directory: int, commit: int) -> dict[bytes, DentryRow]:
    found: dict[bytes, DentryRow] = {}
    cookie = 0
    while page := past.entries(directory, commit, cookie, _PAGE):
        found.update((entry.name, entry) for entry in page)
        cookie = page[-1].cookie
    return found


def directory_of(past: PastTree, path: bytes) -> tuple[int, bytes]:
    """(inode, last name) of a path, through the newest state in which its directory was there: deleted
    ones too. `NoEntryError`."""
    inode, names = ROOT_INODE, [name for name in path.split(b"/") if name]
    for name in names[:-1]:
        inode = past.newest_directory(inode, name)
    return inode, names[-1]

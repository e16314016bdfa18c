"""File content in the namespace: extents, written through to SQL, read through a cache of windows.

Invariants (event loop thread only):
1. Only `replace` (SetExtents) and `remove_all` (Delete) touch extents, for one inode strictly in the
   order of commits. So content that arrives late, when later operations are already applied,
   is versioned with the commit that it belongs to.
2. The inode's `content_commit` and `allocated` change with its extents and nowhere else. A late change of
   them reaches the row that was true at its commit and every later one, so that afterwards all rows
   are as if the content had come in time.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any, Final

from cache.namespace.operations import MAX_SIZE, SetExtents
from cache.namespace.refusals import OutOfDateError
from cache.namespace.row_store import RowStore, insert
from cache.namespace.rows import MAX_EXTENT, PAST_INODE_COLUMNS, Extent, InodeRow

WINDOW: Final = 64 << 20
"""Reads of a hot file meet extents in windows of this many bytes."""
_WINDOWS_PER_FILE: Final = 32

_COLUMNS: Final = ("inode", "offset", "length", "block", "block_offset", "born")
_PUT: Final = insert("extent", _COLUMNS)
_PUT_PAST: Final = insert("past_extent", (*_COLUMNS, "died"))
_DROP: Final = "DELETE FROM extent WHERE inode = ? AND offset = ?"
_FIND: Final = (
    "SELECT offset, length, block, block_offset, born FROM extent"
    " WHERE inode = ? AND offset > ? AND offset < ? AND offset + length > ? ORDER BY offset"
)
_SMALL: Final = "SELECT block FROM extent WHERE inode IN ({}) AND offset = 0 AND length <= ?"
_KEEP_ALL: Final = (
    "INSERT INTO past_extent SELECT inode, offset, length, block, block_offset, born, ?"
    " FROM extent WHERE inode = ? AND born < ?"
)
_VALID_PAST: Final = "SELECT born FROM past_inode WHERE inode = ? AND born <= ? ORDER BY born DESC LIMIT 1"
_SET: Final = ("content", "allocated", "born")
_COPIED: Final = ", ".join(name for name in PAST_INODE_COLUMNS if name not in _SET)
_SPLIT_LATER: Final = (
    f"INSERT INTO past_inode ({_COPIED}, content, allocated, born, died)"
    f" SELECT {_COPIED}, content, allocated, ?, died FROM past_inode WHERE inode = ? AND born = ?"
)
_SPLIT_EARLIER: Final = "UPDATE past_inode SET died = ? WHERE inode = ? AND born = ?"
_CONTENT_FROM: Final = "UPDATE past_inode SET content = ?, allocated = ? WHERE inode = ? AND born >= ?"


class _Window:
    """The extents that touch one window, with their offsets for bisection."""

    __slots__ = ("extents", "offsets")

    def __init__(self, extents: list[Extent]) -> None:
        self.extents = extents
        self.offsets = [extent.offset for extent in extents]

    def find(self, start: int, end: int) -> list[Extent]:
        first = bisect_right(self.offsets, start) - 1
        if first < 0 or self.extents[first].offset + self.extents[first].length <= start:
            first += 1
        return self.extents[first : bisect_left(self.offsets, end)]


class ExtentStore:
    """The tables `extent` and `past_extent`."""

    def __init__(self, store: RowStore, limit: int) -> None:
        self._store = store
        self._limit = limit
        self._files: OrderedDict[int, dict[int, _Window]] = OrderedDict()

    def find(self, inode: int, start: int, end: int) -> list[Extent]:
        """The live extents that touch [start, end), whole, by offset."""
        if start >= end:
            return []
        number = start // WINDOW
        if (end - 1) // WINDOW != number:
            return self._query(inode, start, end)
        windows = self._windows(inode)
        window = windows.get(number)
        if window is None:
            if len(windows) >= _WINDOWS_PER_FILE:
                windows.clear()
            windows[number] = window = _Window(self._query(inode, number * WINDOW, (number + 1) * WINDOW))
        return window.find(start, end)

    def small_blocks(self, inodes: Sequence[int], most: int) -> list[bytes]:
        """The blocks of the extents of up to `most` bytes that these files begin with."""
        marks = ", ".join("?" * len(inodes))
        found = self._store.connection.execute(_SMALL.format(marks), (*inodes, most))
        return [block for (block,) in found]

    def _windows(self, inode: int) -> dict[int, _Window]:
        windows = self._files.get(inode)
        if windows is not None:
            self._files.move_to_end(inode)
            return windows
        if len(self._files) >= self._limit:
            self._files.popitem(last=False)
        self._files[inode] = windows = {}
        return windows

    def _query(self, inode: int, start: int, end: int) -> list[Extent]:
        # The last window ends behind the largest integer that SQLite has.
        bindings = (inode, start - MAX_EXTENT, min(end, MAX_SIZE), start)
        return [Extent(*row) for row in self._store.connection.execute(_FIND, bindings)]

    def replace(self, row: InodeRow, operation: SetExtents, commit: int) -> int:
        """Apply a `SetExtents` that belongs to `commit`; by how much `allocated` grew. Validates before
        it changes anything (`OutOfDateError`)."""
        _check(row, operation, commit)
        since = self._true_since(row, commit)
        removed = sum(self._clear(row.inode, start, end, commit) for start, end in operation.cleared)
        rows = [(row.inode, *extent, commit) for extent in operation.extents]
        if rows:
            self._store.write(_PUT, rows)
        self._files.pop(row.inode, None)
        growth = sum(extent[1] for extent in operation.extents) - removed
        self._set_content(row, since, row.allocated + growth, commit)
        return growth

    def _clear(self, inode: int, start: int, end: int, commit: int) -> int:
        """Take [start, end) out; what only touches it is cut. The number of bytes taken out."""
        found = self._query(inode, start, end)
        if not found:
            return 0
        past = [(inode, *extent, commit) for extent in found if extent.born != commit]
        if past:
            self._store.write(_PUT_PAST, past)
        self._store.write(_DROP, [(inode, extent.offset) for extent in found])
        pieces = _pieces(inode, found[0], found[-1], start, end, commit)
        if pieces:
            self._store.write(_PUT, pieces)
        kept = sum(int(piece[2]) for piece in pieces)
        return sum(extent.length for extent in found) - kept

    def _true_since(self, row: InodeRow, commit: int) -> int:
        """The commit since which the row that is true at `commit` was. `OutOfDateError`: there is none."""
        if row.born <= commit:
            return row.born
        self._store.write_inodes()
        found = self._store.connection.execute(_VALID_PAST, (row.inode, commit)).fetchone()
        if found is None:
            raise OutOfDateError(f"content of commit {commit} for inode {row.inode}, which is younger")
        return int(found[0])

    def _set_content(self, row: InodeRow, since: int, allocated: int, commit: int) -> None:
        """`since`: as of `_true_since`."""
        if row.born <= commit:
            self._store.version(row, commit)
        else:
            self._set_past_content(row.inode, since, allocated, commit)
            self._store.inodes.dirty[row.inode] = row
        row.content_commit = commit
        row.allocated = allocated

    def _set_past_content(self, inode: int, since: int, allocated: int, commit: int) -> None:
        """The live row is of a later commit: split the row that was true at `commit` there, and let
        it and all later past rows have the new content."""
        if since < commit:
            self._store.write(_SPLIT_LATER, [(commit, inode, since)])
            self._store.write(_SPLIT_EARLIER, [(commit, inode, since)])
        self._store.write(_CONTENT_FROM, [(commit, allocated, inode, commit)])

    def remove_all(self, row: InodeRow) -> None:
        """The inode ends in the open commit."""
        self._files.pop(row.inode, None)
        if not row.content_commit:
            return
        commit = self._store.commit
        self._store.put_off(_KEEP_ALL, (commit, row.inode, commit))
        self._store.put_off("DELETE FROM extent WHERE inode = ?", (row.inode,))

    def forget(self) -> None:
        """Drop the cache."""
        self._files.clear()


def _pieces(
    inode: int, first: Extent, last: Extent, start: int, end: int, commit: int
) -> list[tuple[Any, ...]]:
    """The pieces that stick out of [start, end) on both sides, as rows born in `commit`."""
    pieces: list[tuple[Any, ...]] = []
    if first.offset < start:
        length = start - first.offset
        pieces.append((inode, first.offset, length, first.block, first.block_offset, commit))
    over = last.offset + last.length - end
    if over > 0:
        skipped = last.block_offset + last.length - over
        pieces.append((inode, end, over, last.block, skipped, commit))
    return pieces


def _check(row: InodeRow, operation: SetExtents, commit: int) -> None:
    if not row.is_regular:
        raise OutOfDateError(f"content for inode {row.inode}, which is no regular file")
    if row.content_commit > commit:
        raise OutOfDateError(
            f"content of commit {commit} for inode {row.inode} after that of {row.content_commit}"
        )
    if row.content_commit != operation.replaces:
        raise OutOfDateError(
            f"content for inode {row.inode} that was made on that of commit {operation.replaces}, "
            f"while it has that of {row.content_commit}"
        )

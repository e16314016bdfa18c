"""Dirty files: what has been written and is not in the namespace's extents yet.

Invariants:
1. A file's bytes are: the top layer's pieces; where it says nothing, the frozen layer's; where that
   says nothing, the namespace's extents; else zeros; all of it up to the file's size.
2. The state of a `DirtyFiles` is a function of the journal's records from the oldest kept on:
   live calls and replay use the same methods.
3. `freeze` belongs to a cut: the top layer becomes the frozen one, whose content belongs to that
   commit. There is at most one frozen layer a file, because commits are published one at a time.
4. Extents are changed by a frozen layer's `SetExtents` only, so in commit order.

Used on the event-loop thread only.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Final

import trio

from cache.journal.pieces import Data, Hole, Piece, PieceMap, Stored, clip
from cache.namespace import (
    MAX_SIZE,
    Delete,
    Link,
    Operation,
    RemoveXattr,
    Rename,
    RenameLeavingWhiteout,
    SetAttributes,
    SetXattr,
    Unlink,
)

_CHANGES: Final = (Link, Unlink, Rename, RenameLeavingWhiteout, SetXattr, RemoveXattr)
"""They set change times."""


@dataclass(eq=False, slots=True)
class Layer:
    """The dirty data of a file that one commit will take."""

    oldest: int
    """position of the first journal record that is in here"""
    began: float
    """when it became dirty (monotonic clock), for the age rule of the cut"""
    first_ns: int
    """the time of its first write"""
    truncated_to: int | None = None
    """the size that the last truncate set"""
    written_to: int = 0
    """the highest end of a write since the last truncate"""
    mtime_ns: int | None = None
    """time of the last write, None if an operation set it since"""
    ctime_ns: int | None = None
    """the same for the change time"""
    settled: bool = False
    """closed or renamed since the last write: the content is worth a commit"""
    synced: bool = False
    """fsynced since the last write: worth one too, but not each time (`Intervals.version`)"""
    data_bytes: int = 0
    """bytes written here (overwritten ones count again): an upper bound of what it holds"""
    writes: int = 0
    """writes and truncates in here"""
    sealed_to: int = 0
    """how far sealing ahead of a sequential writer has come"""
    pieces: PieceMap = field(default_factory=PieceMap)
    sealing: trio.Lock = field(default_factory=trio.Lock)
    """held by whoever turns this layer's data into blocks"""

    @property
    def has_data(self) -> bool:
        """Whether anything in here is not in a block yet."""
        return Data in map(type, self.pieces)

    def blocks(self) -> set[bytes]:
        """The blocks that its bytes are in."""
        return {piece.block for piece in self.pieces if isinstance(piece, Stored)}

    def size(self, before: int) -> int:
        """The file's size, if it was `before` when this layer began."""
        return max(before if self.truncated_to is None else self.truncated_to, self.written_to)

    def take_under(self, older: Layer) -> None:
        """Take over what `older` says and this does not, as if all of it had been written into one layer."""
        pieces = PieceMap()
        for piece in (*older.pieces, *self.pieces):
            pieces.put(piece)
        self.pieces = pieces
        if self.truncated_to is None:
            self.truncated_to = older.truncated_to
            self.written_to = max(self.written_to, older.written_to)
        self.oldest, self.began, self.first_ns = older.oldest, older.began, older.first_ns
        self.data_bytes += older.data_bytes
        self.writes += older.writes


@dataclass(eq=False, slots=True)
class DirtyFile:
    inode: int
    top: Layer | None = None
    frozen: Layer | None = None

    def pieces(self, start: int, end: int) -> list[Piece]:
        """The pieces of both layers in [start, end): sorted, disjoint, with gaps where they say nothing."""
        top = self.top.pieces.overlapping(start, end) if self.top else []
        if self.frozen is None:
            return top
        if not top:
            return self.frozen.pieces.overlapping(start, end)
        merged = PieceMap()
        for piece in self.frozen.pieces.overlapping(start, end):
            merged.put(piece)
        for piece in top:
            merged.put(piece)
        return list(merged)

    @property
    def data_bytes(self) -> int:
        return sum(layer.data_bytes for layer in (self.top, self.frozen) if layer is not None)


class DirtyFiles:
    """All dirty files by inode."""

    def __init__(self) -> None:
        self._files: dict[int, DirtyFile] = {}
        self.open_writes = 0
        """writes and truncates in all top layers"""
        self._noted: set[int] | None = None

    @contextmanager
    def noting(self) -> Iterator[set[int]]:
        """While it lasts, the answer gets the inodes of which the top layer changed (a write, a truncate,
        closed, synced, gone), or a name. One at a time."""
        self._noted = set()
        try:
            yield self._noted
        finally:
            self._noted = None

    def _note(self, inode: int) -> None:
        if self._noted is not None:
            self._noted.add(inode)

    def get(self, inode: int) -> DirtyFile | None:
        return self._files.get(inode)

    def top(self, inode: int) -> Layer | None:
        """The layer that takes writes, if the file has one."""
        file = self._files.get(inode)
        return None if file is None else file.top

    def has(self, inode: int, layer: Layer) -> bool:
        """Whether the layer is one of the file's still."""
        file = self._files.get(inode)
        return file is not None and (file.top is layer or file.frozen is layer)

    def inodes(self) -> set[int]:
        """All that have dirty content."""
        return {*self._files}

    def __len__(self) -> int:
        return len(self._files)

    def tops(self) -> list[tuple[int, Layer]]:
        """(inode, layer) of each file with a top layer."""
        return [(file.inode, file.top) for file in self._files.values() if file.top is not None]

    def frozen(self) -> list[tuple[int, Layer]]:
        """(inode, layer) of each file with a frozen layer."""
        return [(file.inode, file.frozen) for file in self._files.values() if file.frozen is not None]

    def data_bytes(self) -> int:
        """Bytes accepted and not yet in extents."""
        return sum(file.data_bytes for file in self._files.values())

    def oldest_position(self) -> int | None:
        """The oldest journal position that a layer still needs."""
        oldest = [layer.oldest for _, layer in self.tops()] + [layer.oldest for _, layer in self.frozen()]
        return min(oldest, default=None)

    def oldest_top(self, otherwise: int) -> int:
        """The oldest journal position that a top layer needs; `otherwise` if there is none."""
        return min((layer.oldest for _, layer in self.tops()), default=otherwise)

    def write(
        self, inode: int, offset: int, length: int, position: int, data_position: int, time_ns: int
    ) -> Layer:
        """`length` bytes at `offset` are at `data_position`, in the journal record at `position`."""
        layer = self._writable(inode, position, time_ns)
        end = offset + length
        layer.pieces.put(Data(offset, end, data_position))
        layer.written_to = max(layer.written_to, end)
        layer.data_bytes += length
        return layer

    def truncate(self, inode: int, size: int, position: int, time_ns: int) -> Layer:
        """The size is set; all behind it is a hole until it is written."""
        layer = self._writable(inode, position, time_ns)
        if size < MAX_SIZE:
            layer.pieces.put(Hole(size, MAX_SIZE))
        layer.truncated_to = size
        layer.written_to = 0
        return layer

    def _writable(self, inode: int, position: int, time_ns: int) -> Layer:
        file = self._files.get(inode)
        if file is None:
            file = self._files[inode] = DirtyFile(inode)
        layer = file.top
        if layer is None:
            layer = file.top = Layer(position, trio.current_time(), time_ns)
        layer.mtime_ns = layer.ctime_ns = time_ns
        layer.settled = layer.synced = False
        layer.writes += 1
        self.open_writes += 1
        self._note(inode)
        return layer

    def set_times(self, inode: int, mtime_ns: int, ctime_ns: int) -> None:
        """Those of all that is in the top layer; nothing if there is none."""
        layer = self.top(inode)
        if layer is not None:
            layer.mtime_ns, layer.ctime_ns = mtime_ns, ctime_ns

    def settle(self, inode: int) -> bool:
        """Closed or renamed: the next cut takes it. True if it was dirty."""
        layer = self.top(inode)
        if layer is None:
            return False
        layer.settled = True
        self._note(inode)
        return True

    def sync(self, inode: int) -> None:
        """Fsynced: the next cut takes it, unless it took the file a short while ago."""
        layer = self.top(inode)
        if layer is not None:
            layer.synced = True
            self._note(inode)

    def observe(self, operation: Operation) -> None:
        """Note what an accepted operation means for dirty files. Whatever set a time last stands."""
        if not self._files:
            return
        if type(operation) is SetAttributes:
            self._told_times(operation)
        elif type(operation) is Delete:
            file = self._files.pop(operation.inode, None)
            if file is not None and file.top is not None:
                self.open_writes -= file.top.writes
            self._note(operation.inode)
        elif isinstance(operation, _CHANGES):
            self._changed(operation.inode)
            if isinstance(operation, Rename | RenameLeavingWhiteout):
                self._changed(operation.replaced)

    def _told_times(self, operation: SetAttributes) -> None:
        layer = self.top(operation.inode)
        if layer is not None:
            layer.mtime_ns = layer.mtime_ns if operation.mtime_ns is None else None
            layer.ctime_ns = layer.ctime_ns if operation.ctime_ns is None else None

    def _changed(self, inode: int) -> None:
        """An operation set the change time; it may have been one on a name."""
        self._note(inode)
        layer = self.top(inode)
        if layer is not None:
            layer.ctime_ns = None

    def freeze(self, inode: int) -> None:
        """The cut: the top layer belongs to the commit now."""
        file = self._files.get(inode)
        if file is not None and file.top is not None:
            self.open_writes -= file.top.writes
            file.frozen, file.top = file.top, None

    def take_back(self, stated: Iterable[SetAttributes], later: Iterable[Operation]) -> None:
        """The cut did not happen: what it froze is in the top layers again. `stated` is what the cut said of
        the files, `later` what was accepted since."""
        untouched = {each.inode for each in stated if self._unfreeze(each)}
        for operation in later:
            if type(operation) is SetAttributes and operation.inode in untouched:
                self._told_times(operation)
            elif isinstance(operation, _CHANGES):
                for inode in untouched & {operation.inode, getattr(operation, "replaced", 0)}:
                    self._changed(inode)

    def _unfreeze(self, stated: SetAttributes) -> bool:
        """Whether nothing was written since it was frozen: then its times are those that were stated."""
        file = self._files[stated.inode]
        frozen, file.frozen = file.frozen, None
        assert frozen is not None
        self.open_writes += frozen.writes
        if file.top is not None:
            file.top.take_under(frozen)
            return False
        frozen.mtime_ns, frozen.ctime_ns = stated.mtime_ns, stated.ctime_ns
        file.top = frozen
        return True

    def rebase(self, moved: Mapping[int, int]) -> None:
        """No commit has what was frozen, and none is pending: it is in the top layers again. Their files go
        where `moved` says (0: nobody can read them); others stay. The journal may have let go of what one of
        `moved` had, which was published since."""
        for file in self._files.values():
            self._melt(file)
        taken = {inode: self._files.pop(inode) for inode in moved if inode in self._files}
        for inode, file in taken.items():
            file.inode = moved[inode]
            if file.inode:
                self._files[file.inode] = file
            elif file.top is not None:
                self.open_writes -= file.top.writes

    def _melt(self, file: DirtyFile) -> None:
        """The row has the times that the cut stated, or later ones."""
        frozen, file.frozen = file.frozen, None
        if frozen is None:
            return
        self.open_writes += frozen.writes
        if file.top is not None:
            file.top.take_under(frozen)
        else:
            frozen.mtime_ns = frozen.ctime_ns = None
            file.top = frozen

    def thaw(self, inode: int) -> None:
        """The frozen layer's content is in the extents now."""
        file = self._files.get(inode)
        if file is not None:
            file.frozen = None
            if file.top is None:
                del self._files[inode]


def replace_data(layer: Layer, start: int, end: int, stored: Stored | None, sources: list[Data]) -> None:
    """Let the block `stored` (None: zeros), which holds [start, end), stand for the parts of
    `sources` in that range that nothing has overwritten since."""
    for source in sources:
        if source.start >= end or source.end <= start:
            continue
        for piece in layer.pieces.overlapping(max(source.start, start), min(source.end, end)):
            if isinstance(piece, Data) and piece.position - piece.start == source.position - source.start:
                layer.pieces.put(
                    Hole(piece.start, piece.end) if stored is None else clip(stored, piece.start, piece.end)
                )

"""Reading what was set aside: a journal and a namespace that the drive has gone past. Nothing in it is
changed.

The namespace, with the journal replayed after it, is the drive as this machine had it. Bytes that were not
stored are in the journal. All others are in blocks on the nodes, as long as retention keeps them.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Set
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from stat import S_ISDIR, S_ISLNK, S_ISREG
from typing import Final

from backend.errors import NotFoundError
from backend.system import Environment, at_rest
from backend.upstream import BlockId, KeyEpoch
from cache.blocks import BlockCache, Content
from cache.journal import Custody, Journal, JournalRecovery, Ledger
from cache.local.local_state import JOURNAL, NAMESPACE_FILE, STALE
from cache.namespace import ROOT_INODE, InodeRow, Namespace, Operation, Unlink
from cache.publish import blocks_named
from cache.slow_waits import SlowWaits

BROUGHT_IN: Final = "brought-in"
"""The empty file in a state of which the drive has all."""
PART: Final = 4 << 20
_NAMES: Final = (
    "SELECT dentry.parent, dentry.name, dentry.inode, inode.mode FROM dentry JOIN inode USING (inode)"
)


@dataclass(frozen=True, slots=True)
class SetAside:
    """One state. `size`: bytes on the disk; `time_ns`: of its newest file. `is_brought_in`: the drive has all
    of it."""

    name: str
    folder: Path
    size: int
    time_ns: int
    is_brought_in: bool


def found(state_folder: Path) -> list[SetAside]:
    """All that was set aside in a drive's state folder, the oldest first. Blocks."""
    return [_described(path) for path in sorted((state_folder / STALE).glob("*")) if path.is_dir()]


def note_brought_in(state: SetAside, environment: Environment) -> None:
    """Durably: the drive has all of that state. Blocks."""
    environment.disk.write_file(str(state.folder / BROUGHT_IN), [])


def _described(folder: Path) -> SetAside:
    mark = folder / BROUGHT_IN
    files = [path.stat() for path in folder.rglob("*") if path.is_file() and path != mark]
    size = sum(each.st_blocks * 512 for each in files)
    newest = max((each.st_mtime_ns for each in files), default=0)
    return SetAside(folder.name, folder, size, newest, mark.exists())


@dataclass(frozen=True, slots=True)
class Unstored:
    """Something that was not stored. `path`: from the root, without a slash before it; `is_content`: it has
    content that is in the journal only."""

    path: bytes
    row: InodeRow
    is_content: bool


class StaleState:
    """A state as it was. Close it. `work` is an empty private folder on the disk of `folder`. Only
    `unfinished_blocks` may be called before `replay`."""

    def __init__(self, folder: Path, work: Path) -> None:
        """`NotFoundError`: there is no namespace, so that nothing can be said of what the journal holds.
        Within trio; blocks."""
        if not (folder / NAMESPACE_FILE).exists():
            raise NotFoundError(f"{folder}: there is no namespace, without which a journal cannot be shown")
        self._resources = ExitStack()
        try:
            _copy(folder, work)
            self._namespace = Namespace(str(work / NAMESPACE_FILE))
            self._resources.callback(self._namespace.close)
            self._journal = Journal(work / JOURNAL)
            self._resources.callback(self._journal.close)
            self._ledger = Ledger(self._journal, self._namespace, Custody(work))
            self._recovery = JournalRecovery(self._ledger)
            self._unfinished = self._recovery.unfinished()
        except BaseException:
            self.close()
            raise
        self._operations = list[Operation]()

    def replay(self, gone: Set[BlockId] = frozenset()) -> None:
        """Have all that the journal says, once. `gone`: blocks that are not stored any more; the bytes that
        unfinished commits have in them are read from the journal. `CorruptError`: the journal does not fit
        the namespace. Blocks."""
        for each in self._unfinished:
            if gone & blocks_named(each.extents):
                self._recovery.take_back_extents(each.number)
                break
        self._operations = self._recovery.look()

    def unstored(self) -> list[Unstored]:
        """The files and folders that were made or changed since the newest commit that was known to be
        published, by path."""
        dirty = {inode for inode, _ in [*self._ledger.dirty.tops(), *self._ledger.dirty.frozen()]}
        changed = dirty | set(_inodes(self._operations))
        items = []
        for inode, path in self._paths(changed):
            row = self._namespace.inode(inode)
            if row is not None and inode != ROOT_INODE:
                items.append(Unstored(path, row, inode in dirty))
        return sorted(items, key=lambda each: each.path)

    def removed(self) -> int:
        """The number of names that were removed since."""
        return sum(isinstance(operation, Unlink) for operation in self._operations)

    def key_epochs(self) -> list[KeyEpoch]:
        """Those of the blocks that it names."""
        return self._namespace.epochs.until(self._namespace.head().number)

    def unfinished_blocks(self) -> set[BlockId]:
        """Those of commits that are not known to be published: nothing at the upstream may have kept them."""
        return {block for each in self._unfinished for block in blocks_named(each.extents)}

    @property
    def namespace(self) -> Namespace:
        """As this machine had it; a copy, which may be changed."""
        return self._namespace

    def dirty(self) -> set[int]:
        """The inodes with content that is in the journal only."""
        return self._ledger.dirty.inodes()

    def content_of(self, blocks: BlockCache) -> Content:
        """For reading files; `blocks` reads what the nodes have."""
        return Content(self._namespace, self._ledger.dirty, self._journal, blocks, SlowWaits())

    def size_of(self, item: Unstored) -> int:
        """Bytes of the file, with what is in the journal only."""
        return self.size(item.row)

    def size(self, row: InodeRow) -> int:
        """The same of any file."""
        layer = self._ledger.dirty.top(row.inode)
        return row.size if layer is None else layer.size(row.size)

    def _paths(self, wanted: set[int]) -> Iterator[tuple[int, bytes]]:
        """Each of them that has a name, under its first."""
        names: dict[int, tuple[int, bytes]] = {}
        for parent, name, inode, mode in self._namespace.synced_connection().execute(_NAMES):
            if S_ISDIR(mode) or inode in wanted:
                names.setdefault(inode, (parent, name))
        for inode in wanted & names.keys():
            parts, at = [], inode
            while at != ROOT_INODE:
                at, name = names[at]
                parts.append(name)
            yield inode, b"/".join(reversed(parts))

    def close(self) -> None:
        """Let go of the files. Idempotent."""
        self._resources.close()


def _copy(folder: Path, work: Path) -> None:
    """SQLite and the journal's replay write where they read; segments have a second name here only."""
    for suffix in at_rest.SUFFIXES:
        if (folder / (NAMESPACE_FILE + suffix)).exists():
            shutil.copyfile(folder / (NAMESPACE_FILE + suffix), work / (NAMESPACE_FILE + suffix))
    (work / JOURNAL).mkdir(mode=0o700)
    for path in (folder / JOURNAL).glob("*"):
        if path.is_file():
            os.link(path, work / JOURNAL / path.name)


def _inodes(operations: list[Operation]) -> Iterator[int]:
    for operation in operations:
        inode = getattr(operation, "inode", None)
        if isinstance(inode, int):
            yield inode


async def restore(state: StaleState, item: Unstored, content: Content, target: Path) -> None:
    """Write one file, folder or link as it was at `target`, which must not be there (a folder may); the
    folders above it are made. `OSError`, or what reading raises: nothing is left of that file."""
    target.parent.mkdir(parents=True, exist_ok=True)
    row = item.row
    if S_ISDIR(row.mode):
        target.mkdir(exist_ok=True)
    elif S_ISLNK(row.mode):
        os.symlink(row.target, target)
    elif S_ISREG(row.mode):
        await _restore_file(state, item, content, target)


async def _restore_file(state: StaleState, item: Unstored, content: Content, target: Path) -> None:
    row, size = item.row, state.size_of(item)
    with open(target, "xb") as file:
        try:
            for offset in range(0, size, PART):
                end = min(offset + PART, size)
                file.write(await content.read(row.inode, offset, end, size))
        except BaseException:
            target.unlink()
            raise
    os.chmod(target, row.mode & 0o777)
    os.utime(target, ns=(row.atime_ns, row.mtime_ns))

"""What the metadata of history costs: python -m bench.history_cost [FILES] [EDITS]

A tree of 5,000 files is edited 100 times, 60 changes each: contents, "write new, rename over", renames,
modes, files deleted and made. Then: the bytes of the rows that were changed, as SQLite encodes them (each
changed row is kept once, as it was); the pages that these rows and all their indexes take in the namespace
database, with the table of commits; and the payloads of the edits' commits in the log.
"""

from __future__ import annotations

import random
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from stat import S_IFDIR, S_IFREG

from cache.namespace.namespace import Namespace
from cache.namespace.operations import (
    ROOT_INODE,
    Create,
    Delete,
    Operation,
    Rename,
    SetAttributes,
    SetExtents,
    Unlink,
    encode,
)
from cache.namespace.schema import open_database
from cache.publish.commit_payload import seal_operations

CHANGES = 60
_BEGIN = 1_700_000_000 * 10**9
_PAGES = (
    "SELECT coalesce(sum(pgsize), 0) FROM dbstat"
    " WHERE name GLOB 'past_*' OR name IN ('commits', 'commits_time', 'forgetting')"
)
_ROWS = (
    "SELECT coalesce(sum(payload), 0) FROM dbstat"
    " WHERE name IN ('past_inode', 'past_dentry', 'past_xattr', 'past_extent')"
)


@dataclass(frozen=True, slots=True)
class Cost:
    """Bytes."""

    rows: int
    database: int
    log: int


class EditedTree:
    """A namespace whose tree is edited at random, and the operations of the open commit."""

    def __init__(self, path: str, files: int, seed: int = 1) -> None:
        self.namespace = Namespace(path, device=1)
        self.log_bytes = 0
        self._random = random.Random(seed)
        self._time = _BEGIN
        self._operations: list[bytes] = []
        self._places: dict[int, tuple[int, bytes]] = {}
        self._made = 0
        above = [self._create(ROOT_INODE, b"d%d" % number, S_IFDIR | 0o755) for number in range(7)]
        self._folders = [
            self._create(folder, b"e%d" % number, S_IFDIR | 0o755) for folder in above for number in range(3)
        ]
        for _ in range(files):
            self._make()
        self.commit()
        self.log_bytes = 0

    def _now(self) -> int:
        self._time += self._random.randrange(10**6, 10**8)
        return self._time

    def _apply(self, operation: Operation) -> None:
        self.namespace.apply(operation)
        self._operations.append(encode(operation))

    def commit(self) -> None:
        """Publish the open commit."""
        number = self.namespace.commit
        self.log_bytes += len(seal_operations(bytes(32), self._operations, b""))
        self._operations.clear()
        self.namespace.record_commit(number, self._random.randbytes(32), self._now())
        self.namespace.begin_commit(number + 1)

    def _create(self, parent: int, name: bytes, mode: int) -> int:
        inode = self.namespace.allocate_inode()
        self._apply(Create(parent, name, inode, mode, 1000, 1000, 0, b"", self._now()))
        return inode

    def _make(self) -> None:
        parent, name = self._new_place()
        inode = self._create(parent, name, S_IFREG | 0o644)
        self._places[inode] = (parent, name)
        self._write(inode)

    def _new_place(self) -> tuple[int, bytes]:
        self._made += 1
        return self._random.choice(self._folders), b"file%d.txt" % self._made

    def _write(self, inode: int) -> None:
        row = self.namespace.inode(inode)
        assert row is not None
        before, size = row.size, self._random.choice((10, 3_000, 60_000))
        self._apply(SetAttributes(inode, size=size, mtime_ns=self._now(), ctime_ns=self._time))
        extents = ((0, size, self._random.randbytes(32), 0),)
        self._apply(SetExtents(inode, row.content_commit, ((0, max(size, before)),), extents))

    def edit(self, changes: int) -> None:
        """One commit of so many changes."""
        kinds: list[Callable[[int], None]] = [
            *(self._write, self._write, self._replace, self._move, self._chmod, self._remake)
        ]
        for inode in self._random.sample(sorted(self._places), changes):
            self._random.choice(kinds)(inode)
        self.commit()

    def _replace(self, inode: int) -> None:
        parent, name = self._places.pop(inode)
        new = self._create(parent, b"temporary", S_IFREG | 0o644)
        self._write(new)
        self._apply(Rename(parent, b"temporary", parent, name, new, inode, False, self._now()))
        self._apply(Delete(inode))
        self._places[new] = (parent, name)

    def _move(self, inode: int) -> None:
        old, new = self._places[inode], self._new_place()
        self._apply(Rename(*old, *new, inode, 0, False, self._now()))
        self._places[inode] = new

    def _chmod(self, inode: int) -> None:
        mode = self._random.choice((0o600, 0o644, 0o755))
        self._apply(SetAttributes(inode, mode=mode, ctime_ns=self._now()))

    def _remake(self, inode: int) -> None:
        self._apply(Unlink(*self._places.pop(inode), inode, self._now()))
        self._apply(Delete(inode))
        self._make()


def measure(folder: Path, files: int, edits: int, changes: int = CHANGES) -> Cost:
    """The cost of so many edits of a tree; a database is made in `folder`."""
    path = str(folder / "namespace.db")
    tree = EditedTree(path, files)
    tree.namespace.save(1)
    before = _bytes(path, _PAGES)
    for _ in range(edits):
        tree.edit(changes)
    tree.namespace.save(2)
    tree.namespace.close()
    return Cost(_bytes(path, _ROWS), _bytes(path, _PAGES) - before, tree.log_bytes)


def _bytes(path: str, sql: str) -> int:
    connection = open_database(path, read_only=True)
    try:
        ((found,),) = connection.execute(sql)
        return int(found)
    finally:
        connection.close()


def main(files: int = 5000, edits: int = 100) -> None:
    """Print it."""
    with tempfile.TemporaryDirectory() as folder:
        cost = measure(Path(folder), files, edits)
    print(f"{edits} edits of {CHANGES} changes each, of a tree of {files} files")
    print(f"rows that were changed: {cost.rows} bytes")
    print(f"they take in the database: {cost.database} bytes, {cost.database / cost.rows:.2f} times that")
    print(f"the edits' commits: {cost.log} bytes of payload, {cost.log / cost.rows:.2f} times that")


if __name__ == "__main__":
    main(*(int(text) for text in sys.argv[1:]))

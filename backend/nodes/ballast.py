"""The ballast of a directory node: allocated bytes that are given up where a small write finds no room.

Other programs may fill the node's file system to the last byte. Then nothing could be deleted either: a
deletion is a commit, and to hold the lease takes a record. So each node keeps a file of allocated blocks (the
field's word: CockroachDB's "automatic ballast files").

Invariants:
1. Nothing but what the drive cannot do without takes from it, so new data, which can wait, takes none.
2. It is given up in pieces, each as large as the write and a little more, and none for a write that all of it
   would not help: what is given may be taken by anybody.
3. It counts for the blocks that it has, not for its length, and is made whole again only where as much room
   is left besides. A file system that allocates nothing ahead (ZFS: fallocate(2) succeeds there, and only
   makes the file longer) gives it none: then there is no ballast, and who asks is told so.
4. What is not a file of this node alone (a link, a pipe, a second name of another file) is never opened to
   write, and counts as no ballast.

All functions block, and may be called by many threads and processes at once. `root` is the path of the
node's folder, `folder` a descriptor of it.
"""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Final

from backend.failpoints import declare
from backend.nodes import files as node_files
from backend.nodes.files import ForeignFileError
from backend.system import Durable, Environment

FILE_NAME: Final = ".ballast"
GIVEN: Final = declare("node.ballast-given", "ballast is given up; the write that needs it is still to come")
MADE: Final = declare("node.ballast-made", "the ballast has its blocks; its name may not be durable")
FULL: Final = (errno.ENOSPC, errno.EDQUOT)
"""There is no room."""

SMALLEST: Final = 512 << 10
LARGEST: Final = 4 << 20
PIECE: Final = 64 << 10
"""Beside the object a write takes blocks of folders, and of the file system's own."""
_FLAGS: Final = os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY


def size_on(total: int) -> int:
    """The size of a whole ballast on a file system of `total` bytes. Six of them, if all nodes are there, are
    still less than the reserve (`backend.coding.capacity`), which they are a part of."""
    return min(max(total >> 9, SMALLEST), LARGEST, total >> 5)


def held(folder: int) -> int:
    """The bytes that are there to be given up."""
    found = _own(folder)
    return 0 if found is None else _allocated(found)


def is_hollow(folder: int) -> bool:
    """Whether there is one without its blocks: none was given where it was made."""
    found = _own(folder)
    return found is not None and _allocated(found) < found.st_size


def give(root: str, folder: int, need: int, environment: Environment) -> bool:
    """Give up as much as a write of `need` bytes takes, or what is left; False if nothing is, if it is too
    little, or if it is not bytes that the file system lacks, but inodes."""
    opened = _opened(root, folder, _FLAGS, environment.disk)
    with suppress(FileNotFoundError, ForeignFileError), opened as file:
        found = os.fstatvfs(folder)
        if found.f_files and not found.f_favail:
            return False
        # A file that somebody has made longer than it can be gives no more.
        size = min(_allocated(os.fstat(file)), size_on(found.f_blocks * found.f_frsize))
        if size and size + found.f_bavail * found.f_frsize >= need:
            environment.disk.truncate(file, max(size - need - PIECE, 0))
            # Some file systems have freed the blocks only when that is durable.
            environment.disk.sync(file)
            environment.failpoints.reached(GIVEN)
            return True
    return False


def keep(root: str, folder: int, environment: Environment) -> bool:
    """Make it whole, if there is room, and nobody else is about it. False if it was made just now and has not
    its blocks: to try again is in vain."""
    found = os.fstatvfs(folder)
    wanted = size_on(found.f_blocks * found.f_frsize)
    missing = wanted - held(folder)
    if missing > 0 and found.f_bavail * found.f_frsize >= missing + wanted:
        # Who has the lock gives of it or makes it whole. A write that is done does not wait for that.
        opened = _opened(root, folder, _FLAGS | os.O_CREAT, environment.disk, fcntl.LOCK_NB)
        with suppress(ForeignFileError, BlockingIOError), opened as file:
            _extend(file, wanted, environment.disk)
            environment.failpoints.reached(MADE)
            environment.disk.sync_folder(root, folder=folder)
            return not is_hollow(folder)
    return True


def _extend(file: int, wanted: int, disk: Durable) -> None:
    """Make the file longer. Where a quota or a limit ends before the file system does, it stays as it was."""
    size = os.fstat(file).st_size
    try:
        disk.preallocate(file, wanted)
    except OSError as error:
        if error.errno not in (*FULL, errno.EFBIG):
            raise
        disk.truncate(file, size)
    disk.sync(file)


@contextmanager
def _opened(root: str, folder: int, flags: int, disk: Durable, how: int = 0) -> Iterator[int]:
    """The file, with a lock on it (flock(2)); `how` LOCK_NB: `BlockingIOError` if another has it.
    `FileNotFoundError`, `ForeignFileError`."""
    with suppress(FileNotFoundError):
        _require_own(os.stat(FILE_NAME, dir_fd=folder, follow_symlinks=False))
    file = disk.open(os.path.join(root, FILE_NAME), flags, folder=folder)
    try:
        _require_own(os.fstat(file))
        fcntl.flock(file, fcntl.LOCK_EX | how)
        yield file
    finally:
        os.close(file)


def _own(folder: int) -> os.stat_result | None:
    """None if there is none, or it is not this node's alone."""
    try:
        found = os.stat(FILE_NAME, dir_fd=folder, follow_symlinks=False)
        _require_own(found)
    except (FileNotFoundError, ForeignFileError):
        return None
    return found


def _allocated(found: os.stat_result) -> int:
    return min(found.st_size, found.st_blocks * 512)


def _require_own(found: os.stat_result) -> None:
    node_files.require_regular(found, FILE_NAME)
    if found.st_nlink != 1:
        raise ForeignFileError(FILE_NAME)

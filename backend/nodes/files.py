"""Files below a node's folder, which others may write to as well: no link is followed, only files are opened.

Invariants:
1. Below the root each folder is opened by its name in the one above (openat(2) with O_NOFOLLOW), and a file
   is opened, made or removed by its name in its folder: a link that is there, or is put there meanwhile,
   leads nowhere.
2. A name is looked at before it is opened, and what was opened is looked at again. So nobody waits for the
   other end of a pipe, and no device is touched.
3. Nothing is read beyond what the caller says.

The root itself is the person's choice, and may be a link. All functions block.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from stat import S_ISREG
from typing import Final

_FOLDER: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_FILE: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
_NO_FOLDER: Final = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP)
_DEEPEST: Final = 8
"""Folders below each other that are listed; keys have three parts at most."""


class ForeignFileError(OSError):
    """A name leads to something that is no regular file."""

    def __init__(self, name: str) -> None:
        super().__init__(errno.EINVAL, "it is no regular file but a link, folder, pipe or device", name)


@contextmanager
def opened_folder(root: str, below: str = "") -> Iterator[int]:
    """A descriptor of the folder `below` (names joined by `/`) in the folder `root`. `NotADirectoryError`
    where something else is on the way."""
    descriptor = os.open(root, _FOLDER)
    try:
        for name in filter(None, below.split("/")):
            descriptor = _entered(descriptor, name)
        yield descriptor
    finally:
        os.close(descriptor)


def _entered(folder: int, name: str) -> int:
    """The folder inside, instead of `folder`, which is closed then."""
    inside = os.open(name, _FOLDER | os.O_NOFOLLOW, dir_fd=folder)
    os.close(folder)
    return inside


def open_regular(name: str, folder: int | None = None, flags: int = _FILE) -> int:
    """A descriptor of the regular file `name` in `folder` (None: of the path `name`); `ForeignFileError`."""
    require_regular(os.stat(name, dir_fd=folder, follow_symlinks=False), name)
    descriptor = os.open(name, flags, dir_fd=folder)
    try:
        require_regular(os.fstat(descriptor), name)
    except ForeignFileError:
        os.close(descriptor)
        raise
    return descriptor


def require_regular(found: os.stat_result, name: str) -> None:
    """`ForeignFileError` if it is none."""
    if not S_ISREG(found.st_mode):
        raise ForeignFileError(name)


def open_below(root: str, key: str) -> int:
    """A descriptor of the regular file `key` (names joined by `/`) below the folder `root`."""
    below, _, name = key.rpartition("/")
    with opened_folder(root, below) as folder:
        return open_regular(name, folder)


def read_at_most(root: str, key: str, limit: int) -> bytes:
    """The first `limit` bytes of the file, or all of it."""
    with open(open_below(root, key), "rb") as file:
        return file.read(limit)


def walk(folder: int, below: str = "", depth: int = _DEEPEST) -> Iterator[tuple[str, int, list[str]]]:
    """Each folder from `folder` down: its path, a descriptor until the next is asked for, and the names of
    the regular files in it."""
    with os.scandir(folder) as found:
        entries = list(found)
    yield below, folder, [entry.name for entry in entries if entry.is_file(follow_symlinks=False)]
    for entry in entries if depth else ():
        if entry.is_dir(follow_symlinks=False):
            with opened_inside(folder, entry.name) as inside:
                if inside is not None:
                    yield from walk(inside, f"{below}{entry.name}/", depth - 1)


@contextmanager
def opened_inside(folder: int, name: str) -> Iterator[int | None]:
    """A descriptor of the folder `name` in `folder`; None if there is none any more: it is gone, or something
    else has its name. No link is followed."""
    try:
        descriptor = os.open(name, _FOLDER | os.O_NOFOLLOW, dir_fd=folder)
    except OSError as error:
        if error.errno not in _NO_FOLDER:
            raise
        yield None
        return
    try:
        yield descriptor
    finally:
        os.close(descriptor)

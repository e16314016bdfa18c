"""Paths of inodes, read from a namespace database. Read-only; on any connection, on its thread."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from backend.errors import DriveError
from cache.namespace.operations import ROOT_INODE
from cache.namespace.schema import Connection, sqlite_errors

_NAME: Final = (
    "SELECT i.parent, d.name FROM inode AS i CROSS JOIN dentry AS d ON d.parent = i.parent"
    " WHERE i.inode = ? AND d.inode = i.inode"
)


def folder_path(connection: Connection, folder: int) -> bytes | None:
    """The path of a live directory from the root, without a slash before it; None if it is none. Looks at all
    names of the directories above it."""
    parts: list[bytes] = []
    while folder != ROOT_INODE:
        found = connection.execute(_NAME, (folder,)).fetchone()
        if found is None:
            return None
        folder, name = found
        parts.append(name)
    return b"/".join(reversed(parts))


def readable_folder_path(path: str, connection: Callable[[], Connection], folder: int) -> bytes | None:
    """As `folder_path`, and None too where the database `path` cannot be read: for who would rather say a
    name without its folder than nothing."""
    try:
        with sqlite_errors(path):
            return folder_path(connection(), folder)
    except DriveError:
        return None

"""Paths of inodes, read from a namespace database. Read-only; on any connection, on its thread."""

from __future__ import annotations

from typing import Final

from cache.namespace.operations import ROOT_INODE
from cache.namespace.schema import Connection

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

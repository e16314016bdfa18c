"""The files that have an extended attribute now, by path. Blocks: any thread.

Reads the whole table of extended attributes, and all names if some file has it.
"""

from __future__ import annotations

import json
from typing import Final, NamedTuple

from cache.namespace import folder_path, open_database, sqlite_errors

_VALUES: Final = "SELECT inode, value FROM xattr WHERE name = ?"
_NAMES: Final = (
    "SELECT d.parent, d.name, d.inode, i.mtime_ns FROM dentry AS d JOIN inode AS i USING (inode)"
    " WHERE d.inode IN (SELECT value FROM json_each(?)) ORDER BY d.parent, d.name"
)


class Marked(NamedTuple):
    """A name in the directory `parent`, whose path is `folder`, of a file with that value."""

    parent: int
    folder: bytes
    name: bytes
    inode: int
    mtime_ns: int
    value: bytes

    @property
    def path(self) -> bytes:
        """From the drive's root, without a slash before it."""
        return self.folder + b"/" + self.name if self.folder else self.name


def marked_files(path: str, attribute: bytes) -> list[Marked]:
    """All of the namespace at `path`, as it was last saved, sorted by path."""
    with sqlite_errors(path):
        connection = open_database(path, read_only=True)
        try:
            values = dict(connection.execute(_VALUES, (attribute,)))
            if not values:
                return []
            rows = [*connection.execute(_NAMES, (json.dumps([*values]),))]
            folders = {parent: folder_path(connection, parent) for parent, *_ in rows}
        finally:
            connection.close()
    found = [
        Marked(parent, folder, name, inode, mtime_ns, values[inode])
        for parent, name, inode, mtime_ns in rows
        if (folder := folders[parent]) is not None
    ]
    return sorted(found, key=lambda marked: marked.path)

"""Versions of a conflict: contents that lost, and of which no copy is shown.

The rebase makes an inode without a name that has the content, and a mark that says of which path. It is
published so, once. Then the commit is pinned, and the inode deleted, in one batch: the content is a version
of the past from there on, and nobody ever saw a name of it.
"""

from __future__ import annotations

from cache.namespace import DEVICE_SHIFT, Namespace
from cache.rebase.conflict_mark import COPY_OF, decode_mark


def is_version(namespace: Namespace, inode: int) -> bool:
    """Whether the inode, which has no name, is a version: it must not go before it is pinned."""
    value = namespace.xattr(inode, COPY_OF)
    mark = None if value is None else decode_mark(value)
    return mark is not None and mark.folder is not None


def published_versions(namespace: Namespace) -> list[int]:
    """Those that this device made, that are as they will be in the newest commit, and are not pinned yet."""
    head, found = namespace.head().number, []
    for inode in namespace.orphans():
        row = namespace.inode(inode)
        assert row is not None
        is_published = row.born <= head and row.content_commit <= head
        if is_published and inode >> DEVICE_SHIFT == namespace.device and is_version(namespace, inode):
            found.append(inode)
    return found

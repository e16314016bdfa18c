"""Saves: a file's new content that came as another inode under its name.

Editors write a new file and rename it over the old one, or remove the old one and make it anew. To people
that is new content of the same file.
"""

from __future__ import annotations

from cache.rebase.net_changes import NetChanges
from cache.rebase.plan import is_alive
from cache.rebase.views import View


def saves(changes: NetChanges, before: View, after: View) -> dict[int, int]:
    """The inodes of files that were saved so, each with the new one that took its place."""
    found: dict[int, int] = {}
    for _, pair in sorted(changes.names.items()):
        if (
            pair.before
            and pair.after
            and pair.before not in found
            and _is_save(pair.before, pair.after, before, after)
        ):
            found[pair.before] = pair.after
    return found


def _is_save(old: int, new: int, before: View, after: View) -> bool:
    was, now = before.inode(old), after.inode(new)
    is_new = before.inode(new) is None and not is_alive(after, old)
    return is_new and was is not None and now is not None and was.is_regular and now.is_regular

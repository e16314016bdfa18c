"""Listing a folder's objects in the order of their keys, from any key on.

Memory: the names of as many files of one folder as are asked for, and the names of the folders on the way.
Not even the largest folder is held whole. All functions block.
"""

from __future__ import annotations

import heapq
import os
from collections.abc import Iterator
from itertools import islice
from typing import Final

from backend.nodes import files as node_files
from backend.nodes.node import is_key

_DEEPEST: Final = 8
"""Folders below each other that are listed; keys have three parts at most."""


def list_keys(root: str, prefix: str, after: str, limit: int) -> list[str]:
    """Up to `limit` keys above `after` in the folder `prefix` of `root`, sorted. `FileNotFoundError`,
    `OSError` as of `backend.nodes.files`."""
    with node_files.opened_folder(root, prefix) as top:
        return list(islice(_keys(top, prefix, after, limit, _DEEPEST), limit))


def _keys(folder: int, below: str, after: str, limit: int, depth: int) -> Iterator[str]:
    for name in names_in(folder, below, after, limit):
        if not name.endswith("/"):
            yield below + name
        elif depth:
            with node_files.opened_inside(folder, name[:-1]) as inside:
                # A folder that went meanwhile has no keys; those of the others are listed all the same.
                if inside is not None:
                    yield from _keys(inside, below + name, after, limit, depth - 1)


def names_in(folder: int, below: str, after: str, limit: int) -> list[str]:
    """The names of the objects, and of the folders with a "/" behind, which gives the order of the keys."""
    folders: list[str] = []

    def files(entries: Iterator[os.DirEntry[str]]) -> Iterator[str]:
        for entry in entries:
            key = below + entry.name
            if entry.is_dir(follow_symlinks=False):
                if f"{key}/" > after or after.startswith(f"{key}/"):
                    folders.append(f"{entry.name}/")
            elif key > after and is_key(key) and entry.is_file(follow_symlinks=False):
                yield entry.name

    with os.scandir(folder) as entries:
        first = heapq.nsmallest(limit, files(entries))
    return sorted([*first, *folders])

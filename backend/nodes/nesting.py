"""Nodes in folders of nodes: none is made there, and the clearing of the outer one spares the inner one.

A folder is a node if an identity is in it. Below the folder that is looked at no link is followed. Blocks;
`OSError` where it cannot be told.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress

from backend.errors import UsageError
from backend.nodes import files as node_files
from backend.nodes.node import IDENTITY_KEY
from backend.system import Durable


def require_outside(path: str) -> None:
    """`UsageError` if the folder `path`, which need not be there, lies in a node."""
    inside = os.path.realpath(path)
    while (above := os.path.dirname(inside)) != inside:
        if _has_identity(above):
            raise UsageError(f"{path}: lies in the node {above}: choose a folder outside of it")
        inside = above


def _has_identity(folder: str) -> bool:
    try:
        os.lstat(os.path.join(folder, IDENTITY_KEY))
    except (FileNotFoundError, NotADirectoryError):
        return False
    return True


def nodes_within(path: str) -> Iterator[str]:
    """The nodes in the folder, by their paths in it; not those within these."""
    with node_files.opened_folder(path) as folder:
        yield from _within(folder, "")


def _within(folder: int, below: str) -> Iterator[str]:
    for entry in filter(_is_folder, _entries(folder)):
        with node_files.opened_inside(folder, entry.name) as inside:
            if inside is None:
                continue
            if IDENTITY_KEY in os.listdir(inside):
                yield f"{below}{entry.name}"
            else:
                yield from _within(inside, f"{below}{entry.name}/")


def clear(path: str, disk: Durable) -> None:
    """Take away all that is in the folder, but nodes and the folders that they are in. Its identity, which
    says whose the rest is, goes when the rest is gone for good."""
    with node_files.opened_folder(path) as folder:
        for entry in sorted(_entries(folder), key=lambda entry: entry.name == IDENTITY_KEY):
            if entry.name == IDENTITY_KEY:
                disk.sync_folder(path, folder=folder)
            _removed(folder, entry)


def _clear(folder: int) -> bool:
    """Whether nothing is left."""
    return all([_removed(folder, entry) for entry in _entries(folder)])


def _removed(folder: int, entry: os.DirEntry[str]) -> bool:
    if not _is_folder(entry):
        with suppress(FileNotFoundError):
            os.unlink(entry.name, dir_fd=folder)
        return True
    with node_files.opened_inside(folder, entry.name) as inside:
        if inside is None or IDENTITY_KEY in os.listdir(inside) or not _clear(inside):
            return False
    os.rmdir(entry.name, dir_fd=folder)
    return True


def _entries(folder: int) -> list[os.DirEntry[str]]:
    with os.scandir(folder) as found:
        return list(found)


def _is_folder(entry: os.DirEntry[str]) -> bool:
    return entry.is_dir(follow_symlinks=False)

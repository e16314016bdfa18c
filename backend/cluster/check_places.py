"""Obstacles on a node: a link, pipe or folder in the place of a file, a file or link in the place of a
folder, a commit, root or lease that is larger than any can be.

drivefs never makes an obstacle, never follows or opens one, and does not write where one is. `move_aside`
mends it.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from stat import S_ISDIR, S_ISREG
from typing import Final

from backend.cluster.drive_file import FILE_NAME
from backend.commits import KEY as LEASE
from backend.commits import MAX_SIZE, MAX_STORED
from backend.nodes import IDENTITY_FILE, OWN_FILES
from backend.nodes import files as node_files
from backend.system import THIS_MACHINE

_FILES: Final = (IDENTITY_FILE, FILE_NAME, LEASE, *OWN_FILES)
_FOLDERS: Final = {"packs": re.compile(r"[0-9a-f]{2}"), "commits": None, "roots": None}
"""With the names of the folders in them; None: there are only files."""
_OBJECTS: Final = ("commits", "roots")
_ASIDE: Final = ".foreign-"
_LEFT: Final = (_ASIDE, ".tmp-")
"""What was moved aside, or was left by a write that was interrupted."""


def in_the_way(place: str) -> list[str]:
    """The paths below the node's folder, sorted. `OSError` if it cannot be read."""
    with node_files.opened_folder(place) as top:
        found = [name for name in _FILES if not _is(top, name, regular=True)]
        if LEASE not in found and _is_larger(top, LEASE, MAX_SIZE):
            found.append(LEASE)
        for name, inner in _FOLDERS.items():
            if not _is(top, name, regular=False):
                found.append(name)
            elif name in os.listdir(top):
                found += _within(place, name, inner)
    return sorted(found)


def foreign_in(place: str) -> list[str]:
    """The names in the node's folder that are not drivefs', sorted. `OSError` if it cannot be read."""
    own = {*_FILES, *_FOLDERS, "lost+found"}
    return sorted(name for name in os.listdir(place) if name not in own and not name.startswith(_LEFT))


def _within(place: str, below: str, folders: re.Pattern[str] | None) -> Iterator[str]:
    with node_files.opened_folder(place, below) as folder, os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith(".") or (folders and not folders.fullmatch(entry.name)):
                continue
            if not (entry.is_dir if folders else entry.is_file)(follow_symlinks=False):
                yield f"{below}/{entry.name}"
            elif folders:
                yield from _within(place, f"{below}/{entry.name}", None)
            elif below in _OBJECTS and _is_larger(folder, entry.name, MAX_STORED):
                yield f"{below}/{entry.name}"


def _is(folder: int, name: str, *, regular: bool) -> bool:
    """Whether it is a regular file, or a folder, or is not there."""
    try:
        mode = os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode
    except FileNotFoundError:
        return True
    return S_ISREG(mode) if regular else S_ISDIR(mode)


def _is_larger(folder: int, name: str, limit: int) -> bool:
    """Whether it is there, and has more bytes than `limit`."""
    try:
        return os.stat(name, dir_fd=folder, follow_symlinks=False).st_size > limit
    except FileNotFoundError:
        return False


def move_aside(place: str, path: str) -> str:
    """Out of the way, durably; the new path. `OSError`."""
    below, name = os.path.split(path)
    aside = os.path.join(below, f"{_ASIDE}{os.urandom(4).hex()}-{name.lstrip('.')}")
    with node_files.opened_folder(place, below) as folder:
        io = THIS_MACHINE.disk
        io.rename(os.path.join(place, path), os.path.join(place, aside), folder=folder)
        io.sync_folder(os.path.join(place, below), folder=folder)
    return aside

"""A conflict copy of a file that others replaced or removed while a program here had it open for writing.

What is made at a rebase (`cache.rebase`) is a copy of what was written here already. This is for what is
written afterwards, to the content that the program opened.
"""

from __future__ import annotations

from collections.abc import Callable

from cache.drive import Drive
from cache.errors import ExistsError, NoEntryError, StaleError
from cache.namespace import ROOT_INODE
from cache.rebase import COPY_OF, Mark, conflict_name, encode_mark, is_read_by_ending
from cache.services.clone import Clone, ignore


async def make_conflict_copy(
    drive: Drive, inode: int, commit: int, parent: int, name: bytes, accepted: Callable[[int], None] = ignore
) -> None:
    """Make the file as of `commit` once more, by a conflict name beside `name` in the directory `parent` (in
    the root if that is gone). `accepted` is told its inode before anybody else can see it. Errors as of
    `Clone.perform`."""
    mark = {COPY_OF: encode_mark(Mark(name, commit, drive.publisher.host))}
    while True:
        folder = parent if _is_there(drive, parent) else ROOT_INODE
        copy = Clone(drive, commit, inode, folder, _free_name(drive, inode, commit, folder, name), mark)
        try:
            await copy.perform(replace=False, accepted=accepted)
        except ExistsError:
            continue  # somebody took the name meanwhile
        return


def _is_there(drive: Drive, folder: int) -> bool:
    try:
        return drive.attributes(folder).nlink > 0
    except StaleError:
        return False


def _free_name(drive: Drive, inode: int, commit: int, folder: int, name: bytes) -> bytes:
    row = drive.past.row(inode, commit)

    def is_taken(candidate: bytes) -> bool:
        try:
            drive.lookup(folder, candidate)
        except NoEntryError:
            return False
        return True

    is_last = is_read_by_ending(_name_of(drive, folder), row.mode)
    return conflict_name(name, drive.publisher.host, drive.now(), is_last=is_last, is_taken=is_taken)


def _name_of(drive: Drive, folder: int) -> bytes:
    """The name of a directory; empty for the root."""
    above = drive.parent(folder).inode
    names = drive.entries_by_name(above, b"", b"\xff" * 256, 1 << 62) if folder != ROOT_INODE else []
    return next((entry.name for entry in names if entry.inode == folder), b"")

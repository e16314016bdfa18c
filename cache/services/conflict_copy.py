"""A conflict copy of a file that others replaced or removed while a program here had it open for writing.

A rebase (`cache.rebase`) makes a copy of the bytes that were written here before the rebase. The copy of this
module takes the bytes that a program writes after the rebase, to the content that the program has open.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from cache.drive import Drive
from cache.errors import ExistsError, NoEntryError, StaleError
from cache.namespace import ROOT_INODE, folder_path, readable_folder_path
from cache.notices import Kind, noted_path
from cache.rebase import COPY_OF, Mark, conflict_name, encode_mark, is_read_by_ending
from cache.services.clone import Clone, ignore

WRITTEN_ON: Final = "others replaced or removed it, a program here wrote on what it had open: that is a copy"


async def make_conflict_copy(
    drive: Drive, inode: int, commit: int, parent: int, name: bytes, accepted: Callable[[int], None] = ignore
) -> None:
    """Make the file as of `commit` once more, by a conflict name beside `name` in the directory `parent` (in
    the root if that is gone). `accepted` is told its inode before anybody else can see it. Errors as of
    `Clone.perform`."""
    mark = {COPY_OF: encode_mark(Mark(name, commit, drive.publisher.host))}
    while True:
        folder, path = parent, folder_path(drive.ledger.namespace.synced_connection(), parent)
        if path is None:
            folder, path = ROOT_INODE, b""
        free = _free_name(drive, drive.past.row(inode, commit).mode, folder, path, name)
        copy = Clone(drive, commit, inode, folder, free, mark)
        try:
            await copy.perform(replace=False, accepted=accepted)
        except ExistsError:
            continue  # somebody took the name meanwhile
        except (NoEntryError, StaleError):
            if folder == ROOT_INODE:
                raise
            parent = ROOT_INODE  # somebody removed the folder meanwhile
            continue
        return


async def copy_for_writer(
    drive: Drive, inode: int, commit: int, parent: int, name: bytes, accepted: Callable[[int], None]
) -> None:
    """As `make_conflict_copy`, for a program that writes on what others have replaced or removed: people are
    told by a notice."""
    await make_conflict_copy(drive, inode, commit, parent, name, accepted)
    namespace = drive.ledger.namespace
    folder = readable_folder_path(namespace.path, namespace.synced_connection, parent)
    drive.kept_notices.add(Kind.CONFLICT, [(noted_path(folder, name), WRITTEN_ON)], commit)
    await drive.kept_notices.store()


def _free_name(drive: Drive, mode: int, folder: int, path: bytes, name: bytes) -> bytes:
    def is_taken(candidate: bytes) -> bool:
        try:
            drive.lookup(folder, candidate)
        except NoEntryError:
            return False
        return True

    is_last = is_read_by_ending(path.rpartition(b"/")[2], mode)
    return conflict_name(name, drive.publisher.host, drive.now(), is_last=is_last, is_taken=is_taken)

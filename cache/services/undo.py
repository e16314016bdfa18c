"""Undoing a mass deletion: what is gone since a pinned state comes back where it was, by references.

What is there now is left as it is, and a folder gets what it lacks; what was moved is no deletion. A file
comes back as a new one: with its content, attributes and extended attributes, and without the hard links that
it had to others.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import trio

from cache.drive import Drive
from cache.errors import (
    DirectoryError,
    ExistsError,
    InvalidArgumentError,
    NoEntryError,
    NotDirectoryError,
    NotEmptyError,
)
from cache.history import Deleted, deleted_since
from cache.namespace import Create, InodeRow, Operation, SetXattr
from cache.notices import Kind
from cache.retention import mass_deletion_pins
from cache.services.clone import Clone, require_folder

_NAMED: Final = 10
"""So many files are named at most in an error."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """`made`: files and folders. `in_the_way`: names that something else has now."""

    pin: bytes
    commit: int
    made: int
    in_the_way: int


class Undo:
    """`perform` once."""

    def __init__(self, drive: Drive) -> None:
        self._drive = drive
        self._commit = 0
        self._made = 0
        self._in_the_way = 0
        self._too_much: list[bytes] = []

    async def perform(self, pin: bytes | None) -> Outcome:
        """Bring back what is gone since the pinned state; None: since that before the last mass deletion.
        `NoEntryError`: there is no such pin. `InvalidArgumentError`: all is back but files that are too much
        for one step. After other errors some of it is back: to be called again."""
        pin, self._commit = self._pinned(pin)
        self._drive.ledger.save()
        path = self._drive.ledger.namespace.path
        for gone in await trio.to_thread.run_sync(deleted_since, path, self._commit):
            await self._bring_back(gone)
        if self._too_much:
            names = b", ".join(self._too_much[:_NAMED]).decode("utf-8", "backslashreplace")
            raise InvalidArgumentError(
                f"all is back but {len(self._too_much)} files, each too much for one step: {names}"
            )
        self._drive.kept_notices.remove(
            lambda notice: notice.kind is Kind.MASS_DELETION and notice.commit == self._commit
        )
        await self._drive.kept_notices.store()
        return Outcome(pin, self._commit, self._made, self._in_the_way)

    def _pinned(self, pin: bytes | None) -> tuple[bytes, int]:
        pins = self._drive.retention.pins()
        if pin is None:
            pin = max(mass_deletion_pins(pins), default=b"")
            if not pin:
                raise NoEntryError("no mass deletion is known of the last thirty days")
        if pin not in pins:
            raise NoEntryError("there is no pin of that name")
        return pin, pins[pin]

    async def _bring_back(self, gone: Deleted) -> None:
        clone = Clone(self._drive, self._commit, gone.inode, gone.parent, gone.name)
        try:
            self._made += await clone.perform(replace=False)
        except NotEmptyError:  # a folder that somebody made anew, or that an undo did which was cut off
            await self._bring_back_in_steps(gone)
        except InvalidArgumentError:  # too much for one step
            if self._drive.past.row(gone.inode, self._commit).is_directory:
                await self._bring_back_in_steps(gone)
            else:
                self._too_much.append(gone.name)
        except (DirectoryError, ExistsError, NotDirectoryError):
            self._in_the_way += 1

    async def _bring_back_in_steps(self, gone: Deleted) -> None:
        """A folder, if it is not there, and then what it lacks, one by one."""
        past, after = self._drive.past, 0
        folder = await self._folder(gone)
        while entries := past.entries(gone.inode, self._commit, after, 256):
            for entry in entries:
                await self._bring_back(Deleted(folder, entry.name, entry.inode))
            after = entries[-1].cookie

    async def _folder(self, gone: Deleted) -> int:
        try:
            return self._drive.lookup(gone.parent, gone.name).inode
        except NoEntryError:
            pass
        try:
            return await self._make_folder(self._drive.past.directory(gone.inode, self._commit), gone)
        except ExistsError:  # somebody was quicker
            return self._drive.lookup(gone.parent, gone.name).inode

    async def _make_folder(self, row: InodeRow, gone: Deleted) -> int:
        drive, past, now = self._drive, self._drive.past, self._drive.now()
        inode = drive.allocate_number()
        made = Create(gone.parent, gone.name, inode, row.mode, row.uid, row.gid, 0, b"", now)
        names = past.xattr_names(row.inode, self._commit)
        xattrs = {name: past.get_xattr(row.inode, name, self._commit) for name in names}

        def make() -> list[Operation]:
            require_folder(drive, gone.parent)
            if drive.ledger.namespace.entry(gone.parent, gone.name) is not None:
                raise ExistsError("the name was taken meanwhile")
            return [made, *(SetXattr(inode, name, value, now) for name, value in xattrs.items())]

        await drive.accept_together(make)
        await drive.tell_of_name(gone.parent, gone.name, 0)
        self._made += 1
        return inode

"""Conflict copies of a running drive: which there are, and having one decided.

A copy is a file with the mark of one (`cache.rebase`): also one that another device made, and one that was
moved since. A database and what lies beside it are decided together.

Invariant: a decision is one batch: after a crash too all of it is there, or nothing. No content is lost by
it: what gives way stays in the past, as all that is replaced or removed.
"""

from __future__ import annotations

from collections.abc import Set
from dataclasses import dataclass
from enum import Enum
from urllib.parse import unquote_to_bytes

import trio

from cache.drive import Drive
from cache.errors import DirectoryError, InvalidArgumentError, NoEntryError
from cache.history import Marked, PastVersion, marked_files, past_versions
from cache.namespace import ROOT_INODE, Operation, RemoveXattr, Rename, Unlink
from cache.notices import Kind
from cache.rebase import COMPANIONS, COPY_OF, Mark, base_of, decode_mark
from cache.services.clone import Clone
from cache.services.conflict_copy import make_conflict_copy
from cache.sync import AttributesChanged


class Keep(Enum):
    """Of a decision: the content of the copy, that of the file, or both."""

    MINE = "mine"
    THEIRS = "theirs"
    BOTH = "both"


@dataclass(frozen=True, slots=True)
class Copy:
    """A conflict copy, and what its mark says."""

    file: Marked
    mark: Mark

    @property
    def original(self) -> bytes:
        """The path of the file that it is a copy of, if neither was moved."""
        folder = self.file.folder
        return folder + b"/" + self.mark.of if folder else self.mark.of


async def conflict_copies(drive: Drive) -> list[Copy]:
    """All, by path. What is not accepted yet when this is called may not be among them."""
    drive.ledger.save()
    found = await trio.to_thread.run_sync(marked_files, drive.ledger.namespace.path, COPY_OF)
    marks = [(file, decode_mark(file.value)) for file in found]
    return [Copy(file, mark) for file, mark in marks if mark is not None and mark.folder is None]


@dataclass(frozen=True, slots=True)
class Version:
    """A content that lost a conflict and of which no copy is shown: the file as of a pinned commit. `path`:
    of the file that it would be a copy of, as it was then."""

    file: PastVersion
    mark: Mark
    path: bytes


async def conflict_versions(drive: Drive) -> list[Version]:
    """All that are pinned, by path, the oldest first. Saved state, as `conflict_copies`."""
    drive.ledger.save()
    found = await trio.to_thread.run_sync(past_versions, drive.ledger.namespace.path, COPY_OF)
    versions: list[Version] = []
    for file in found:
        mark = decode_mark(file.value)
        if mark is not None and mark.folder is not None:
            path = mark.folder + b"/" + mark.of if mark.folder else mark.of
            versions.append(Version(file, mark, path))
    return sorted(versions, key=lambda version: (version.path, version.file.commit))


async def resolve_version(drive: Drive, path: bytes, keep: Keep) -> list[Version]:
    """Decide on the newest version of the file at `path`: it takes the file's place, or is shown as a copy.
    `NoEntryError`: there is none, or its folder is gone. `InvalidArgumentError`: nothing is to be done."""
    versions = [version for version in await conflict_versions(drive) if version.path == path]
    if not versions:
        raise NoEntryError(f"{_shown(path)}: is no conflict copy, and there is none of it")
    if keep is Keep.THEIRS:
        raise InvalidArgumentError(
            f"{_shown(path)}: is as published; the other content is a version that goes by itself"
        )
    version = versions[-1]
    commit, source, name = version.file.commit, version.file.inode, version.mark.of
    folder = _folder(drive, version.mark.folder or b"")
    if keep is Keep.BOTH:
        await make_conflict_copy(drive, source, commit, folder, name)
    else:
        await Clone(drive, commit, source, folder, name, {COPY_OF: None}).perform(replace=True)
    await _remove_notices(drive, {path})
    return [version]


def _folder(drive: Drive, path: bytes) -> int:
    folder = ROOT_INODE
    for name in filter(None, path.split(b"/")):
        folder = drive.lookup(folder, name).inode
    return folder


async def copies_of(drive: Drive, path: bytes) -> list[Copy]:
    """The copy at `path`, or the only copy of the file there, with those that belong with it; none if
    there is none. `InvalidArgumentError`: there are several."""
    copies = await conflict_copies(drive)
    here = [copy for copy in copies if copy.file.path == path]
    of_it = here or [copy for copy in copies if copy.original == path]
    if len(of_it) > 1:
        names = ", ".join(_shown(copy.file.name) for copy in of_it)
        raise InvalidArgumentError(f"{_shown(path)}: there are several copies of it, name one: {names}")
    return _unit_of(of_it[0], copies) if of_it else []


async def resolve_conflict(drive: Drive, unit: list[Copy], keep: Keep) -> list[Copy]:
    """Decide on copies that belong together (`copies_of`); these. `NoEntryError`: somebody has changed them
    meanwhile. `DirectoryError`: a folder has the file's name now."""
    names: list[tuple[int, bytes]] = []
    unnamed: list[int] = []

    def make() -> list[Operation]:
        batch = _Batch(drive, keep)
        for copy in unit:
            batch.add(copy)
        if keep is Keep.MINE:
            batch.remove_other_companions(unit)
        names.extend(batch.names)
        unnamed.extend(batch.unnamed)
        return batch.operations

    await drive.accept_together(make)
    for copy in unit:
        await drive.settle(copy.file.inode)
    await drive.tell_of_names(names, unnamed)
    await drive.changes.tell([AttributesChanged(copy.file.inode) for copy in unit])
    await _remove_notices(drive, {copy.original for copy in unit})
    return unit


async def _remove_notices(drive: Drive, paths: Set[bytes]) -> None:
    """Of files on which somebody has decided."""
    drive.kept_notices.remove(
        lambda notice: notice.kind is Kind.CONFLICT and unquote_to_bytes(notice.path) in paths
    )
    await drive.kept_notices.store()


def _shown(path: bytes) -> str:
    return path.decode("utf-8", "backslashreplace")


def _unit_of(chosen: Copy, copies: list[Copy]) -> list[Copy]:
    """The copy, and those that belong to one database with it."""
    base, of = base_of(chosen.file.name), base_of(chosen.mark.of)
    members = {base + ending: of + ending for ending in (b"", *COMPANIONS)}
    if members.get(chosen.file.name) != chosen.mark.of:
        return [chosen]
    return [
        copy
        for copy in copies
        if copy.file.parent == chosen.file.parent and members.get(copy.file.name) == copy.mark.of
    ]


class _Batch:
    """The operations of one decision, on the state of the moment."""

    def __init__(self, drive: Drive, keep: Keep) -> None:
        self._namespace = drive.ledger.namespace
        self._keep = keep
        self._now = drive.now()
        self.operations: list[Operation] = []
        self.names: list[tuple[int, bytes]] = []
        self.unnamed: list[int] = []

    def add(self, copy: Copy) -> None:
        """Decide on one copy."""
        parent, name, inode = copy.file.parent, copy.file.name, copy.file.inode
        entry = self._namespace.entry(parent, name)
        if entry is None or entry.inode != inode or self._namespace.xattr(inode, COPY_OF) != copy.file.value:
            raise NoEntryError(f"{_shown(copy.file.path)}: somebody else has changed it meanwhile")
        if self._keep is Keep.THEIRS:
            self._unlink(parent, name, inode)
            return
        self.operations.append(RemoveXattr(inode, COPY_OF, self._now))
        if self._keep is Keep.MINE and name != copy.mark.of:
            self._rename(parent, name, copy.mark.of, inode)

    def _rename(self, parent: int, name: bytes, to: bytes, inode: int) -> None:
        there = self._namespace.entry(parent, to)
        replaced = 0 if there is None else there.inode
        row = self._namespace.inode(replaced)
        if row is not None and row.is_directory:
            raise DirectoryError(f"{_shown(to)}: is a folder now")
        self.operations.append(Rename(parent, name, parent, to, inode, replaced, False, self._now))
        self.names += [(parent, name), (parent, to)]
        if replaced:
            self.unnamed.append(replaced)

    def _unlink(self, parent: int, name: bytes, inode: int) -> None:
        self.operations.append(Unlink(parent, name, inode, self._now))
        self.names.append((parent, name))
        self.unnamed.append(inode)

    def remove_other_companions(self, unit: list[Copy]) -> None:
        """Take away the companions of a database that gives way: they fit no other."""
        parent, names = unit[0].file.parent, {copy.mark.of for copy in unit}
        base = base_of(unit[0].mark.of)
        if len(unit) < 2 and base not in names:
            return
        for ending in COMPANIONS:
            entry = self._namespace.entry(parent, base + ending)
            if entry is not None and base + ending not in names:
                self._unlink(parent, base + ending, entry.inode)

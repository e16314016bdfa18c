"""The calls about the past of a running drive, as `cache.messages.history` has them."""

from __future__ import annotations

from typing import Any, Final
from urllib.parse import quote, unquote_to_bytes

from cache.drive import Drive
from cache.errors import (
    DirectoryError,
    ExistsError,
    InvalidArgumentError,
    NoEntryError,
    NoSpaceLeftError,
    NotDirectoryError,
    NotEmptyError,
)
from cache.history import LogEntry, PastTree, differences, directory_of, log_of, split
from cache.messages import (
    CLONE,
    DIFF,
    LOG,
    NOW,
    RESTORE,
    Cloned,
    CloneWanted,
    Difference,
    DifferenceAsked,
    PathAsked,
    PathLog,
    PathState,
    Restored,
    RestoreWanted,
    Service,
)
from cache.namespace import ROOT_INODE
from cache.services.clone import Clone

MOST_CHANGES: Final = 100_000

_REFUSALS: Final = (
    DirectoryError,
    ExistsError,
    InvalidArgumentError,
    NoSpaceLeftError,
    NotDirectoryError,
    NotEmptyError,
)


class HistoryCalls:
    """See the module. All publish first what the drive has accepted, so that the past reaches to now."""

    def __init__(self, drive: Drive) -> None:
        self._drive = drive

    @property
    def _past(self) -> PastTree:
        return self._drive.past

    def services(self) -> list[Service[Any, Any]]:
        """See the module."""
        return [
            Service(LOG, self.log),
            Service(DIFF, self.diff),
            Service(RESTORE, self.restore),
            Service(CLONE, self.clone),
        ]

    async def log(self, asked: PathAsked) -> PathLog:
        """A path's states, the newest first; of a folder those at which anything in its tree changed."""
        path = _path(asked.path)
        if asked.limit < 1:
            raise InvalidArgumentError("the limit must be a number from 1 on")
        await self._drive.sync()
        if not path:
            entries = await self._tree_log(ROOT_INODE)
        else:
            directory, name = directory_of(self._past, path)
            entries = log_of(self._past, directory, name)
            if not entries:
                raise NoEntryError(f"{_shown(path)}: there never was such a file or folder")
            entries = await self._with_tree(entries)
        return PathLog(tuple(self._state(entry) for entry in entries[: asked.limit]))

    async def _with_tree(self, entries: list[LogEntry]) -> list[LogEntry]:
        newest = next(entry.row for entry in entries if entry.row is not None)
        if not newest.is_directory:
            return entries
        known = {entry.commit for entry in entries}
        below = [entry for entry in await self._tree_log(newest.inode) if entry.commit not in known]
        return sorted(entries + below, key=lambda entry: -entry.commit)

    async def _tree_log(self, directory: int) -> list[LogEntry]:
        points = await self._past.points(directory)
        rows = ((point.commit, self._past.history.inode_at(directory, point.commit)) for point in points)
        return [LogEntry(commit, ("below",), row) for commit, row in rows if row is not None]

    def _state(self, entry: LogEntry) -> PathState:
        writer, row = self._past.history.writer_at(entry.commit), entry.row
        return PathState(
            entry.commit,
            self._past.name_of(entry.commit),
            self._past.time_of(entry.commit),
            tuple(entry.what),
            device=None if writer is None else writer.device,
            host=None if writer is None else quote(writer.host),
            size=None if row is None else row.size,
            uid=None if row is None else row.uid,
            gid=None if row is None else row.gid,
            mode=None if row is None else row.mode,
            mtime_ns=None if row is None else row.mtime_ns,
        )

    async def diff(self, asked: DifferenceAsked) -> Difference:
        """The differences between two states of a tree."""
        path = _path(asked.path)
        await self._drive.sync()
        first, second = self._commit(asked.first), self._commit(asked.second)
        found: list[tuple[str, str]] = []
        async for change in differences(self._past, path, first, second):
            if len(found) == MOST_CHANGES:
                return Difference(tuple(found), more=True)
            found.append((change.kind, quote(change.path)))
        return Difference(tuple(found), more=False)

    def _commit(self, text: str) -> int:
        return self._past.head if text == NOW else self._past.commit_named(text)

    async def restore(self, wanted: RestoreWanted) -> Restored:
        """A path as it was, back where it was (a file that is there now becomes an earlier version), or `to`
        a place where nothing is, or an empty folder."""
        path, to = _path(wanted.path), _path(wanted.to)
        await self._drive.sync()
        commit = self._commit(wanted.at)
        if not path:
            raise InvalidArgumentError("the root of the drive can only be restored folder by folder")
        source = self._source(path, commit)
        made = await self._graft(commit, source, to or path, replace=not to)
        return Restored(made, commit)

    def _source(self, path: bytes, commit: int) -> int:
        try:
            return self._past.walk(path, commit).inode
        except NoEntryError:
            raise NoEntryError(f"{_shown(path)}: was not there at {self._past.name_of(commit)}") from None

    async def clone(self, wanted: CloneWanted) -> Cloned:
        """A file or tree as it is now, once more."""
        source, target = _path(wanted.source), _path(wanted.target)
        await self._drive.sync()
        if not source or not target:
            raise InvalidArgumentError("the root of the drive is neither a source nor a target")
        commit = self._past.head
        if not commit:
            raise NoEntryError(f"{_shown(source)}: no such file or folder")
        return Cloned(await self._graft(commit, self._source(source, commit), target, replace=False))

    async def _graft(self, commit: int, source: int, target: bytes, *, replace: bool) -> int:
        directory, name = split(target)
        parent = ROOT_INODE
        try:
            for part in filter(None, directory.split(b"/")):
                parent = self._drive.lookup(parent, part).inode
        except NoEntryError:
            raise NoEntryError(f"{_shown(directory)}: no such folder now") from None
        try:
            return await Clone(self._drive, commit, source, parent, name).perform(replace=replace)
        except _REFUSALS as error:
            raise type(error)(f"{_shown(target)}: {error}; nothing was changed") from None


def _path(text: str) -> bytes:
    """Without slashes at its ends; empty for the root."""
    path = unquote_to_bytes(text).strip(b"/")
    if any(part in (b".", b"..") for part in path.split(b"/")):
        raise InvalidArgumentError(f"{text}: a path has no . and .. here")
    return path


def _shown(path: bytes) -> str:
    return path.decode("utf-8", "backslashreplace") or "/"

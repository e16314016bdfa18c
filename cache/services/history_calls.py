"""The calls `log`, `diff`, `restore` and `clone`: what `drivefs` asks a running mount about the past.

Paths are relative to the drive's root and percent-encoded (RFC 3986; names are bytes, JSON is text). Moments
are names as `cache.past_names` has them. Commits and times are numbers; times in nanoseconds.

| call | arguments | answer |
|---|---|---|
| log | path, limit | entries: commit, name, time_ns, what, and more |
| diff | path, first, second (empty: now) | changes: [kind, path]; more: there are too many to say |
| restore | path, at, to (empty: where it was) | made: files and folders; commit: whose state it is |
| clone | source, target | made |

An entry of the log also has, if somebody said who made the commit: device, host (percent-encoded); and unless
the path was deleted then: size, uid, gid, mode, mtime_ns.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
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
from cache.namespace import ROOT_INODE
from cache.services.clone import Graft

MOST_CHANGES: Final = 100_000
DEFAULT_LIMIT: Final = 100
NOW: Final = ""

_REFUSALS: Final = (
    DirectoryError,
    ExistsError,
    InvalidArgumentError,
    NoSpaceLeftError,
    NotDirectoryError,
    NotEmptyError,
)

Call = Callable[[Mapping[str, Any]], Awaitable[Mapping[str, Any]]]


class HistoryCalls:
    """See the module. All publish first what the drive has accepted, so that the past reaches to now."""

    def __init__(self, drive: Drive) -> None:
        self._drive = drive

    @property
    def _past(self) -> PastTree:
        return self._drive.past

    def table(self) -> dict[str, Call]:
        """The calls by name."""
        return {"log": self.log, "diff": self.diff, "restore": self.restore, "clone": self.clone}

    async def log(self, arguments: Mapping[str, Any]) -> Mapping[str, Any]:
        """A path's states, the newest first; of a folder those at which anything in its tree changed."""
        path, limit = _path(arguments, "path"), arguments.get("limit", DEFAULT_LIMIT)
        if not isinstance(limit, int) or limit < 1:
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
        return {"entries": [self._entry(entry) for entry in entries[:limit]]}

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

    def _entry(self, entry: LogEntry) -> dict[str, Any]:
        said: dict[str, Any] = {
            "commit": entry.commit,
            "name": self._past.name_of(entry.commit),
            "time_ns": self._past.time_of(entry.commit),
            "what": list(entry.what),
        }
        writer = self._past.history.writer_at(entry.commit)
        if writer is not None:
            said |= {"device": writer.device, "host": quote(writer.host)}
        if entry.row is not None:
            for key in ("size", "uid", "gid", "mode", "mtime_ns"):
                said[key] = getattr(entry.row, key)
        return said

    async def diff(self, arguments: Mapping[str, Any]) -> Mapping[str, Any]:
        """What differs between two states of a tree."""
        path = _path(arguments, "path")
        await self._drive.sync()
        first = self._commit(_text(arguments, "first"))
        second = self._commit(_text(arguments, "second"))
        found: list[list[str]] = []
        async for change in differences(self._past, path, first, second):
            if len(found) == MOST_CHANGES:
                return {"changes": found, "more": True}
            found.append([change.kind, quote(change.path)])
        return {"changes": found, "more": False}

    def _commit(self, text: str) -> int:
        return self._past.head if text == NOW else self._past.commit_named(text)

    async def restore(self, arguments: Mapping[str, Any]) -> Mapping[str, Any]:
        """A path as it was, back where it was (a file that is there now becomes an earlier version), or `to`
        a place where nothing is, or an empty folder."""
        path, to = _path(arguments, "path"), _path(arguments, "to")
        await self._drive.sync()
        commit = self._commit(_text(arguments, "at"))
        if not path:
            raise InvalidArgumentError("the root of the drive can only be restored folder by folder")
        source = self._source(path, commit)
        made = await self._graft(commit, source, to or path, replace=not to)
        return {"made": made, "commit": commit}

    def _source(self, path: bytes, commit: int) -> int:
        try:
            return self._past.walk(path, commit).inode
        except NoEntryError:
            raise NoEntryError(f"{_shown(path)}: was not there at {self._past.name_of(commit)}") from None

    async def clone(self, arguments: Mapping[str, Any]) -> Mapping[str, Any]:
        """A file or tree as it is now, once more."""
        source, target = _path(arguments, "source"), _path(arguments, "target")
        await self._drive.sync()
        if not source or not target:
            raise InvalidArgumentError("the root of the drive is neither a source nor a target")
        commit = self._past.head
        if not commit:
            raise NoEntryError(f"{_shown(source)}: no such file or folder")
        return {"made": await self._graft(commit, self._source(source, commit), target, replace=False)}

    async def _graft(self, commit: int, source: int, target: bytes, *, replace: bool) -> int:
        directory, name = split(target)
        parent = ROOT_INODE
        try:
            for part in filter(None, directory.split(b"/")):
                parent = self._drive.lookup(parent, part).inode
        except NoEntryError:
            raise NoEntryError(f"{_shown(directory)}: no such folder now") from None
        try:
            return await Graft(self._drive, commit, source, parent, name).perform(replace=replace)
        except _REFUSALS as error:
            raise type(error)(f"{_shown(target)}: {error}; nothing was changed") from None


def _text(arguments: Mapping[str, Any], key: str) -> str:
    value = arguments.get(key, "")
    if not isinstance(value, str):
        raise InvalidArgumentError(f"{key} must be text")
    return value


def _path(arguments: Mapping[str, Any], key: str) -> bytes:
    """Without slashes at its ends; empty for the root."""
    path = unquote_to_bytes(_text(arguments, key)).strip(b"/")
    if any(part in (b".", b"..") for part in path.split(b"/")):
        raise InvalidArgumentError(f"{key} must be a path without . and ..")
    return path


def _shown(path: bytes) -> str:
    return path.decode("utf-8", "backslashreplace") or "/"

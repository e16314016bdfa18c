"""The newest commits of a drive, as this machine has seen them: a hub that lost some is given them again.

A hub keeps the newest commits in its database only. One that is put back to a backup lacks those that came
after it, while devices have their effects. Each device keeps the commits themselves, about `LIMIT` bytes.
Spec: docs/format/recent_commits.md.

Invariants:
1. What is given is a chain: from the commit that the hub has to the one that this machine goes by, hash by
   hash. Whatever else was kept, of a hub that lied or a disk that failed, is in no chain.
2. Nothing is synced: a power cut may take the last commits from here, and no other copy depends on these.
   A kill takes none.
One call at a time; calls block.
"""

from __future__ import annotations

import errno
import os
import struct
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from typing import Final

from backend.commits import decode_commit
from backend.errors import CorruptError, FormatError
from backend.system import THIS_MACHINE, Environment, plain_hash
from backend.upstream import NO_COMMIT, Head
from backend.wire import MAX_COMMIT

FILE: Final = "recent-commits"
OLDER: Final = "recent-commits.older"
LIMIT: Final = 64 << 20
"""Bytes of both files together, about: one ends after the commit with which it has half of them."""
MAGIC: Final = b"DFR1"
_HEADER: Final = struct.Struct("<4sI")


class RecentCommits:
    """See the module. `folder` is there, and nobody else uses its two files. `reserve`: of the bytes of its
    disk those that are left to others."""

    def __init__(
        self,
        folder: str,
        environment: Environment = THIS_MACHINE,
        limit: int = LIMIT,
        reserve: Callable[[int], int] = lambda _total: 0,
    ) -> None:
        self._folder = folder
        self._path = os.path.join(folder, FILE)
        self._older = os.path.join(folder, OLDER)
        self._disk = environment.disk
        self._half = limit // 2
        self._reserve = reserve
        self._end: int | None = None

    def add(self, commits: Sequence[bytes]) -> None:
        """Keep these encoded commits too. `OSError`: the disk fails, or is full but for the reserve."""
        total, free = self._disk.free_space(self._folder)
        if free < self._reserve(total) + sum(map(len, commits)):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), self._path)
        descriptor = self._disk.open(self._path, os.O_RDWR | os.O_CREAT)
        end, self._end = self._end, None
        try:
            if end is None or end != os.fstat(descriptor).st_size:  # anybody may remove it at any time
                end = sum(_HEADER.size + len(each) for each in _records(self._path))
                self._disk.truncate(descriptor, end)
            parts = [part for each in commits for part in (_HEADER.pack(MAGIC, len(each)), each)]
            self._end = end + self._disk.write(descriptor, parts, end)
        finally:
            os.close(descriptor)
        if self._end > self._half:
            self._disk.rename(self._path, self._older)
            self._end = 0

    def chain(self, after: Head, until: Head) -> list[bytes]:
        """The commits after `after` to `until`, in order, encoded; empty: they are not all here, or `until`
        does not go on from `after`. `OSError`: the disk fails."""
        found = {plain_hash(each): each for path in (self._older, self._path) for each in _records(path)}
        chain: list[bytes] = []
        wanted = until
        while wanted.number > after.number:
            encoded = found.get(wanted.hash)
            number, previous = _place_of(encoded)
            if encoded is None or number != wanted.number:
                return []
            chain.append(encoded)
            wanted = Head(number - 1, previous)
        return chain[::-1] if wanted.hash == (after.hash if after.number else NO_COMMIT) else []


def _place_of(encoded: bytes | None) -> tuple[int, bytes]:
    """Number and previous hash; 0 of what is no commit."""
    if encoded is not None:
        with suppress(CorruptError, FormatError):
            commit = decode_commit(encoded)
            return commit.number, commit.previous
    return 0, b""


def _records(path: str) -> Iterator[bytes]:
    """Of that file, up to the first that is none, or cut off. None: there is no file. `OSError`."""
    with suppress(FileNotFoundError), open(path, "rb") as file:
        while len(header := file.read(_HEADER.size)) == _HEADER.size:
            magic, length = _HEADER.unpack(header)
            if magic != MAGIC or length > MAX_COMMIT or len(record := file.read(length)) < length:
                return
            yield record

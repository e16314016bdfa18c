"""The logs of all drives in the database.

A commit is judged by its envelope and by the state of its drive in one function of the database
(`append_commit` in `schema/0004_moves.sql`): one round trip, under the lock of the drive's row. It is
idempotent by its hash: an answer that was lost can be asked for again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, NoReturn
from weakref import WeakValueDictionary

import anyio

from backend import wire
from backend.commits import decode_commit
from backend.errors import (
    BlocksMissingError,
    ConflictError,
    CorruptError,
    FencedError,
    NotFoundError,
    ReadOnlyError,
)
from backend.hub.block_table import Place
from backend.hub.database import Database
from backend.hub.pack_rows import add_pack, pack_of
from backend.hub.packing import DriveNumber
from backend.packs import Pack
from backend.system import Threads, plain_hash
from backend.upstream import NO_COMMIT, Commit, Head

_APPEND: Final = "SELECT outcome, head, head_hash, missing FROM append_commit(%s, %s, %s, %s, %s, %s, %s)"
_SIZE: Final = "coalesce(length, octet_length(encoded))"
_AFTER: Final = (
    "SELECT c.number, c.hash, c.encoded, c.position, c.length, p.id, p.size, p.nodes, p.missing"
    f" FROM (SELECT *, sum({_SIZE}) OVER (ORDER BY number) AS bytes"
    " FROM (SELECT * FROM commit WHERE drive = %s AND number > %s ORDER BY number LIMIT %s) c) c"
    " LEFT JOIN pack p ON p.id = c.pack WHERE c.bytes <= %s OR c.number = %s ORDER BY c.number"
)
_WITH_OLD: Final = (
    "SELECT id, uuid FROM drive WHERE id > %s AND head - segmented >= %s AND deleted IS NULL"
    " ORDER BY id LIMIT 100"
)
_OLD: Final = (
    f"SELECT number, {_SIZE} FROM commit c JOIN drive d ON d.id = c.drive"
    " WHERE d.id = %s AND number > segmented AND number <= head - %s ORDER BY number LIMIT %s"
)
_BETWEEN: Final = (
    "SELECT number, hash, encoded FROM commit WHERE drive = %s AND number > %s AND number <= %s"
    " AND octet_length(encoded) <= %s ORDER BY number"
)
_CLAIM: Final = "UPDATE drive SET segmented = %s WHERE id = %s AND segmented = %s"
_LEAVE: Final = (
    "UPDATE commit c SET encoded = NULL, pack = %s, position = new.position, length = new.length"
    " FROM unnest(%s::bigint[], %s::int[], %s::int[]) AS new (number, position, length)"
    " WHERE c.drive = %s AND c.number = new.number AND octet_length(c.encoded) = new.length"
)


@dataclass(frozen=True, slots=True)
class LoggedCommit:
    """A commit in the database: its bytes, or its place in a log segment (`log_segments`), and none."""

    number: int
    hash: bytes
    encoded: bytes
    place: Place | None = None


class CommitTable:
    """See the module. Any number of tasks and processes at once. `TransientError`: as of `Database`."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._threads = Threads(2)
        self._turns: WeakValueDictionary[int, anyio.Lock] = WeakValueDictionary()

    async def head(self, drive: int) -> Head:
        """The newest commit. `NotFoundError`: there is no such drive."""
        row = await self._database.row("SELECT head, head_hash FROM drive WHERE id = %s", (drive,))
        if row is None:
            raise NotFoundError("there is no such drive")
        return Head(row[0], bytes(row[1]))

    async def append(self, drive: int, encoded: bytes, expected: Head) -> Head:
        """See `CommitLog.append`. `CorruptError`, `FormatError`: it is no commit, or does not go on from
        `expected`. `ReadOnlyError`: the drive is being moved here (`Imports`), or away, which may be taken
        back; `FencedError`: it was moved away."""
        commit, digest = await self.decoded(encoded, expected)
        arguments = (
            drive,
            *head_values(expected),
            digest,
            encoded,
            [*commit.added],
            [*commit.dropped],
        )
        async with self.turn(drive):
            row = await self._database.row(_APPEND, arguments)
        assert row is not None
        outcome, number, head_hash, missing = row
        if outcome == "gone":
            raise NotFoundError("there is no such drive")
        if outcome == "importing":
            await self._refuse(drive)
        if outcome == "moved":
            raise ConflictError(f"the head has moved to commit {number}")
        if outcome == "missing":
            named = [bytes(each) for each in missing[: wire.MAX_MISSING]]
            raise BlocksMissingError(f"{len(missing)} blocks are not stored", named)
        return Head(number, bytes(head_hash))

    async def _refuse(self, drive: int) -> NoReturn:
        """The reason why no device's commit is taken."""
        row = await self._database.row("SELECT departure FROM drive WHERE id = %s", (drive,))
        if row == (0,):
            raise ReadOnlyError("the drive is being moved here, and not all of it has come yet")
        if row == (2,):
            raise FencedError(
                "the drive has moved from the hub to nodes of its own (drivefs move-to --to-local), and is "
                "mounted there; it can be read here still"
            )
        raise ReadOnlyError("the drive is being moved from here to nodes of its own")

    def turn(self, drive: int) -> anyio.Lock:
        """To be held while one appends to the drive: the database lets one after the other do it, and who
        waits there has a connection that others need."""
        return self._turns.setdefault(drive, anyio.Lock())

    async def decoded(self, encoded: bytes, expected: Head) -> tuple[Commit, bytes]:
        """The commit, which goes on from `expected`, and its hash. `CorruptError`, `FormatError`."""
        commit, digest = await self._threads.finish(partial(_decoded, encoded))
        if (commit.number, commit.previous) != (expected.number + 1, expected.hash):
            raise CorruptError("the commit does not go on from the head that is expected")
        return commit, digest

    async def after(self, drive: int, number: int, limit: int, most_bytes: int) -> list[LoggedCommit]:
        """Up to `limit` commits after `number`, in order, of `most_bytes` together; but one at least, if
        there is one."""
        rows = await self._database.rows(_AFTER, (drive, number, limit, most_bytes, number + 1))
        return [LoggedCommit(row[0], bytes(row[1]), bytes(row[2] or b""), _place(*row[3:])) for row in rows]

    # For log segments

    async def with_old_commits(self, after: int, least: int) -> list[DriveNumber]:
        """Drives that have at least so many commits which are in no segment: some, in the order of their
        numbers, above `after`; none: there are no more."""
        rows = await self._database.rows(_WITH_OLD, (after, least))
        return [DriveNumber(number, bytes(uuid)) for number, uuid in rows]

    async def old(self, drive: int, kept: int, limit: int) -> list[tuple[int, int]]:
        """Number and size of commits behind the last segment and before the `kept` newest, in order."""
        return [(number, size) for number, size in await self._database.rows(_OLD, (drive, kept, limit))]

    async def between(self, drive: int, after: int, last: int, largest: int) -> list[LoggedCommit]:
        """The commits above `after` up to `last` that have at most `largest` bytes, in order."""
        rows = await self._database.rows(_BETWEEN, (drive, after, last, largest))
        return [LoggedCommit(number, bytes(digest), bytes(encoded)) for number, digest, encoded in rows]

    async def leave(
        self, drive: int, after: int, last: int, pack: Pack | None, places: Sequence[tuple[int, int, int]]
    ) -> None:
        """Commits (number, position, length) lie in that durable pack from now on: of the segment above
        `after` up to `last`. Without a pack all of these stay. `ConflictError`: another process has made one
        of them meanwhile, nothing is changed."""
        numbers, positions, lengths = ([each[at] for each in places] for at in range(3))
        async with self._database.transaction() as connection:
            if not (await connection.execute(_CLAIM, (last, drive, after))).rowcount:
                raise ConflictError("another process has moved these commits")
            if pack is not None:
                await add_pack(connection, drive, pack)
                left = await connection.execute(_LEAVE, (pack.id, numbers, positions, lengths, drive))
                if left.rowcount != len(places):
                    raise ConflictError("the commits are not those that were read")


def _place(position: int | None, length: int, *pack: Any) -> Place | None:
    return None if position is None else Place(pack_of(*pack), position, length)


def _decoded(encoded: bytes) -> tuple[Commit, bytes]:
    """The commit and its hash. Of a large one both take long."""
    return decode_commit(encoded), plain_hash(encoded)


def head_values(head: Head) -> tuple[int, bytes]:
    """As the database has it."""
    return head.number, head.hash if head.number else NO_COMMIT

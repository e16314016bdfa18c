"""The logs of all drives in the database.

A commit is judged by its envelope and by the state of its drive in one function of the database
(`append_commit` in `schema/0001_hub.sql`): one round trip, under the lock of the drive's row. It is
idempotent by its hash: an answer that was lost can be asked for again.
"""

from __future__ import annotations

from functools import partial
from typing import Final

from backend.commits import decode_commit
from backend.errors import BlocksMissingError, ConflictError, CorruptError, NotFoundError
from backend.hub.database import Database
from backend.system import Threads, plain_hash
from backend.upstream import NO_COMMIT, Commit, Head

_APPEND: Final = "SELECT outcome, head, head_hash, missing FROM append_commit(%s, %s, %s, %s, %s, %s, %s)"
_AFTER: Final = (
    "SELECT encoded FROM (SELECT number, encoded, sum(octet_length(encoded)) OVER (ORDER BY number) AS bytes"
    " FROM (SELECT * FROM commit WHERE drive = %s AND number > %s ORDER BY number LIMIT %s) c) c"
    " WHERE bytes <= %s OR number = %s ORDER BY number"
)


class CommitTable:
    """See the module. Any number of tasks and processes at once. `TransientError`: as of `Database`."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._threads = Threads(2)

    async def head(self, drive: int) -> Head:
        """The newest commit. `NotFoundError`: there is no such drive."""
        row = await self._database.row("SELECT head, head_hash FROM drive WHERE id = %s", (drive,))
        if row is None:
            raise NotFoundError("there is no such drive")
        return Head(row[0], bytes(row[1]))

    async def append(self, drive: int, encoded: bytes, expected: Head) -> Head:
        """See `CommitLog.append`. `CorruptError`, `FormatError`: it is no commit, or does not go on from
        `expected`."""
        commit, digest = await self._threads.finish(partial(_decoded, encoded))
        if (commit.number, commit.previous) != (expected.number + 1, expected.hash):
            raise CorruptError("the commit does not go on from the head that is expected")
        arguments = (
            drive,
            *_head(expected),
            digest,
            encoded,
            [*commit.added],
            [*commit.dropped],
        )
        row = await self._database.row(_APPEND, arguments)
        assert row is not None
        outcome, number, head_hash, missing = row
        if outcome == "gone":
            raise NotFoundError("there is no such drive")
        if outcome == "moved":
            raise ConflictError(f"the head has moved to commit {number}")
        if outcome == "missing":
            raise BlocksMissingError(
                f"{len(missing)} blocks are not stored", [bytes(each) for each in missing]
            )
        return Head(number, bytes(head_hash))

    async def after(self, drive: int, number: int, limit: int, most_bytes: int) -> list[bytes]:
        """Up to `limit` encoded commits after `number`, in order, of `most_bytes` together; but one at least,
        if there is one."""
        rows = await self._database.rows(_AFTER, (drive, number, limit, most_bytes, number + 1))
        return [bytes(row[0]) for row in rows]


def _decoded(encoded: bytes) -> tuple[Commit, bytes]:
    """The commit and its hash. Of a large one both take long."""
    return decode_commit(encoded), plain_hash(encoded)


def _head(head: Head) -> tuple[int, bytes]:
    return head.number, head.hash if head.number else NO_COMMIT

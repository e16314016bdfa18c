"""Drives that are being moved to the hub: their logs come from one mover, and devices may not write yet.

A mover shows its *ticket*. A drive has one ticket, the newest: a mover that takes a new one shuts out all
earlier movers.
An import is judged in one function of the database (`import_commit` in `schema/0004_moves.sql`), and is
idempotent by its hash, as an append is.
"""

from __future__ import annotations

from typing import Final

from backend.errors import ConflictError, NotFoundError
from backend.hub.commit_table import CommitTable, head_values
from backend.hub.database import Database
from backend.upstream import Head

_IMPORT: Final = "SELECT outcome, head, head_hash FROM import_commit(%s, %s, %s, %s, %s, %s, %s, %s)"
_TAKE_OVER: Final = "UPDATE drive SET ticket = %s WHERE id = %s AND importing"
_OPEN: Final = (
    "UPDATE drive SET importing = false WHERE id = %s AND ticket = %s"
    " AND (NOT importing OR (head = %s AND head_hash = %s))"
)
_CLOSED: Final = "no drive is being moved here by that ticket"


class Imports:
    """See the module. Any number of tasks and processes at once. `TransientError`: as of `Database`."""

    def __init__(self, database: Database, commits: CommitTable) -> None:
        self._database = database
        self._commits = commits

    async def take_over(self, drive: int, ticket: bytes) -> None:
        """Only this ticket (16 bytes) counts from now on. `ConflictError`: the drive is open. Idempotent."""
        await self._change(_TAKE_OVER, ticket, drive)

    async def append(self, drive: int, ticket: bytes, encoded: bytes, expected: Head) -> Head:
        """As `CommitTable.append`; blocks of `added` that are not stored are left out: of an old commit they
        may be gone. `ConflictError`: also if the ticket does not count."""
        commit, digest = await self._commits.decoded(encoded, expected)
        values = (*head_values(expected), digest, encoded, [*commit.added], [*commit.dropped])
        async with self._commits.turn(drive):
            row = await self._database.row(_IMPORT, (drive, ticket, *values))
        assert row is not None
        outcome, number, head_hash = row
        if outcome == "gone":
            raise NotFoundError("there is no such drive")
        if outcome == "closed":
            raise ConflictError(_CLOSED)
        if outcome == "moved":
            raise ConflictError(f"the head has moved to commit {number}")
        return Head(number, bytes(head_hash))

    async def open(self, drive: int, ticket: bytes, head: Head) -> None:
        """All is here: devices may write, and nothing more is imported. `ConflictError`: the ticket does not
        count, or the newest commit is another. Idempotent."""
        await self._change(_OPEN, drive, ticket, *head_values(head))

    async def _change(self, statement: str, *values: object) -> None:
        if not await self._database.execute(statement, values):
            raise ConflictError(_CLOSED)

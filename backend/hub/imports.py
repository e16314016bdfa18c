"""Drives that are being moved to the hub, or from it to nodes: devices may not write them.

A mover shows its *ticket*. A drive has one ticket, the newest: a mover that takes a new one shuts out all
earlier movers. Who moves a drive away takes none from another mover unless it says so: it knows from the
lease on the nodes that the other has ended (docs/moving.md). That is known of these nodes only: so a mover
says which they are, and shuts out no mover of other nodes.
Who moves a drive away has its ticket count first, and has the drive closed by another request. A request that
is under way when its mover ends can arrive at any time after: so a ticket that has said that the drive stays
is void from then on, and closes nothing.
An import is judged in one function of the database (`import_commit` in `schema/0004_moves.sql`), and is
idempotent by its hash, as an append is.
"""

from __future__ import annotations

from typing import Final

from backend.errors import ConflictError, NotFoundError
from backend.hub.commit_table import CommitTable, head_values
from backend.hub.database import Database
from backend.system import plain_hash
from backend.upstream import Head

_IMPORT: Final = "SELECT outcome, head, head_hash FROM import_commit(%s, %s, %s, %s, %s, %s, %s, %s)"
_SAME: Final = "(nodes IS NULL OR nodes = %(nodes)s)"
_TAKE_OVER: Final = (
    "UPDATE drive SET ticket = %(ticket)s, departure = 0, nodes = %(nodes)s"
    f" WHERE id = %(drive)s AND importing AND {_SAME}"
)
_OPEN: Final = (
    "UPDATE drive SET importing = false, departure = 0 WHERE id = %s AND ticket = %s"
    " AND (NOT importing OR (head = %s AND head_hash = %s))"
)
_BEGIN: Final = (
    "UPDATE drive SET ticket = %(ticket)s, nodes = %(nodes)s"
    " WHERE id = %(drive)s AND ticket IS DISTINCT FROM %(void)s"
    f" AND (NOT importing OR (departure = 1 AND {_SAME} AND (ticket = %(ticket)s OR %(over)s)))"
)
_CLOSE: Final = (
    "UPDATE drive SET importing = true, departure = 1 WHERE id = %s AND ticket = %s"
    " AND (NOT importing OR departure = 1) RETURNING head, head_hash"
)
_STAY: Final = (
    "UPDATE drive SET importing = false, departure = 0, ticket = %(void)s WHERE id = %(drive)s"
    " AND ((ticket = %(ticket)s AND (NOT importing OR departure = 1))"
    " OR (ticket = %(void)s AND NOT importing))"
)
_LEAVE: Final = "UPDATE drive SET departure = 2 WHERE id = %s AND ticket = %s AND departure > 0"
_CLOSED: Final = "no drive is being moved here by that ticket"
_STAYS: Final = "no drive is being moved away by that ticket"


def _void(ticket: bytes) -> bytes:
    """The ticket that stands in the place of a void one: nobody shows it."""
    return plain_hash(b"drivefs void ticket" + ticket)[: len(ticket)]


class Imports:
    """See the module. Any number of tasks and processes at once. `TransientError`: as of `Database`."""

    def __init__(self, database: Database, commits: CommitTable) -> None:
        self._database = database
        self._commits = commits

    async def take_over(self, drive: int, ticket: bytes, nodes: bytes) -> None:
        """Only this ticket (16 bytes) counts from now on, of a mover from these nodes (16 bytes).
        `ConflictError`: the drive is open, or is moved from or to others. Idempotent."""
        values = {"drive": drive, "ticket": ticket, "nodes": nodes}
        if not await self._database.execute(_TAKE_OVER, values):
            raise ConflictError("the drive is open here, or is moved from or to other nodes")

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
        await self._change(_CLOSED, _OPEN, drive, ticket, *head_values(head))

    # Away

    async def begin(self, drive: int, ticket: bytes, nodes: bytes, *, over: bool) -> None:
        """Only this ticket counts from now on, of a mover to these nodes; the drive is as open as before.
        `over`: also if another mover to the same nodes has closed it. `ConflictError`: it is not open, or the
        ticket is void. Idempotent."""
        values = {"drive": drive, "ticket": ticket, "void": _void(ticket), "nodes": nodes, "over": over}
        if not await self._database.execute(_BEGIN, values):
            raise ConflictError("the drive is not open here: another has begun to move it, or it has left")

    async def close(self, drive: int, ticket: bytes) -> Head:
        """The newest commit, after which none of a device comes: the drive is being moved away by that
        ticket. `ConflictError`: it does not count. Idempotent."""
        row = await self._database.row(_CLOSE, (drive, ticket))
        if row is None:
            raise ConflictError(_STAYS)
        return Head(row[0], bytes(row[1]))

    async def stay(self, drive: int, ticket: bytes) -> None:
        """The drive is not moved away by that ticket, which is void from now on: it is open. `ConflictError`.
        Idempotent."""
        values = {"drive": drive, "ticket": ticket, "void": _void(ticket)}
        if not await self._database.execute(_STAY, values):
            raise ConflictError(_STAYS)

    async def leave(self, drive: int, ticket: bytes) -> None:
        """The drive is open on its nodes. `ConflictError`. Idempotent."""
        await self._change(_STAYS, _LEAVE, drive, ticket)

    async def _change(self, refusal: str, statement: str, *values: object) -> None:
        if not await self._database.execute(statement, values):
            raise ConflictError(refusal)

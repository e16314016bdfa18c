"""What the operator of a hub may do to accounts, from the hub's machine, without any token."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from backend.hub.database import Database

_ACCOUNTS: Final = (
    "SELECT a.email, (SELECT count(*) FROM drive d WHERE d.account = a.id),"
    " (SELECT count(*) FROM device d WHERE d.account = a.id AND d.revoked IS NULL),"
    " (SELECT coalesce(sum(p.length), 0) FROM place p JOIN drive d ON d.id = p.drive WHERE d.account = a.id)"
    " FROM account a ORDER BY a.email"
)


@dataclass(frozen=True, slots=True)
class AccountSummary:
    """`bytes`: of all sealed blocks of its drives."""

    email: str
    drives: int
    devices: int
    bytes: int


class Operator:
    """See the module. `TransientError`: as of `Database`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def accounts(self) -> list[AccountSummary]:
        """All, by their address. Looks at all blocks."""
        async with self._database.transaction() as connection:
            rows = await (await connection.execute(_ACCOUNTS)).fetchall()
        return [AccountSummary(email, *map(int, numbers)) for email, *numbers in rows]

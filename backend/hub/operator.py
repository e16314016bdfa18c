"""What the operator of a hub may do to accounts, from the hub's machine, without any token."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from backend.errors import NotFoundError
from backend.hub.accounts import end_account, normal_email
from backend.hub.database import Database
from backend.hub.token_end import TOKEN_DAYS

_ACCOUNTS: Final = (
    "SELECT a.email, a.locked IS NOT NULL, NOT EXISTS (SELECT 1 FROM credential c WHERE c.account = a.id),"
    " (SELECT count(*) FROM drive d WHERE d.account = a.id AND d.deleted IS NULL),"
    " (SELECT count(*) FROM device d WHERE d.account = a.id AND d.revoked IS NULL"
    f" AND d.seen > now() - interval '{TOKEN_DAYS} days'),"
    " (SELECT coalesce(sum(u.bytes), 0) FROM drive d JOIN drive_usage u ON u.drive = d.id"
    " WHERE d.account = a.id), a.quota"
    " FROM account a WHERE a.deleted IS NULL"
)


@dataclass(frozen=True, slots=True)
class AccountSummary:
    """`is_invited`: nobody has signed up yet. `devices`: that are logged in. `bytes`: sealed, of its drives
    and of deleted ones."""

    email: str
    is_locked: bool
    is_invited: bool
    drives: int
    devices: int
    bytes: int
    quota: int


class Operator:
    """See the module. `NotFoundError`: the address has no account; `UsageError`: it is none;
    `TransientError`: as of `Database`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def accounts(self) -> list[AccountSummary]:
        """All, by their address."""
        return [_summary(row) for row in await self._database.rows(f"{_ACCOUNTS} ORDER BY a.email")]

    async def account(self, email: str) -> AccountSummary:
        """The account of that address."""
        row = await self._database.row(f"{_ACCOUNTS} AND a.email = %s", (normal_email(email),))
        if row is None:
            raise _no_account(email)
        return _summary(row)

    async def lock(self, email: str) -> None:
        """Nobody logs in, and its devices get nothing, until `unlock`. Idempotent."""
        await self._change("locked = coalesce(locked, now())", email)

    async def unlock(self, email: str) -> None:
        """The end of `lock`. Idempotent."""
        await self._change("locked = NULL", email)

    async def set_quota(self, email: str, quota: int) -> None:
        """In sealed bytes. What is stored stays, also if it is more."""
        await self._change("quota = %(quota)s", email, quota)

    async def delete(self, email: str) -> None:
        """The account ends, its devices and drives with it; the address is free. What is stored goes when the
        time of retention is over."""
        async with self._database.transaction() as connection:
            found = await connection.execute(
                "SELECT id FROM account WHERE email = %s AND deleted IS NULL FOR UPDATE",
                (normal_email(email),),
            )
            row = await found.fetchone()
            if row is None:
                raise _no_account(email)
            await end_account(connection, row[0])

    async def end_logins(self) -> None:
        """No token counts any more: every device logs in anew. Idempotent."""
        await self._database.execute(
            "UPDATE device SET revoked = now(), next_token = NULL WHERE revoked IS NULL"
        )

    async def _change(self, what: str, email: str, quota: int = 0) -> None:
        values = {"email": normal_email(email), "quota": quota}
        where = "WHERE email = %(email)s AND deleted IS NULL"
        if not await self._database.execute(f"UPDATE account SET {what} {where}", values):
            raise _no_account(email)


def _summary(row: Sequence[Any]) -> AccountSummary:
    email, is_locked, is_invited, *numbers = row
    return AccountSummary(email, is_locked, is_invited, *map(int, numbers))


def _no_account(email: str) -> NotFoundError:
    return NotFoundError(f"{email}: there is no such account")

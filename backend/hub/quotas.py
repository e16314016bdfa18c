"""The room of accounts: sealed bytes of blocks, commits and roots, as `drive_usage` counts them.

Deleted drives and released blocks take room until housekeeping has removed them. They do not count against
the quota, or nobody could make room; but with them an account takes at most twice its quota. Blocks may fill
the quota. Commits and roots may take a tenth more, as they tell the hub which blocks are not needed any more.
Requests that are under way at the same time may exceed the quota by their bodies. Released blocks are counted
only where they matter: where a request does not fit otherwise, or less than a tenth of the quota is left.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, replace
from math import inf
from typing import Final

import anyio

from backend.errors import NotFoundError, QuotaError
from backend.hub.database import Database

_ACCOUNTS: Final = 10_000
"""Whose released blocks are remembered."""
_ROOM: Final = (
    "SELECT a.id, a.quota, coalesce(sum(u.bytes) FILTER (WHERE d.deleted IS NULL), 0)::bigint,"
    " coalesce(sum(u.bytes), 0)::bigint"
    " FROM account a LEFT JOIN drive d ON d.account = a.id LEFT JOIN drive_usage u ON u.drive = d.id"
)
_OF_ACCOUNT: Final = f"{_ROOM} WHERE a.id = %s GROUP BY a.id"
_OF_DRIVE: Final = f"{_ROOM} WHERE a.id = (SELECT account FROM drive WHERE id = %s) GROUP BY a.id"

_RELEASED: Final = (
    "SELECT coalesce(sum(p.length), 0)::bigint FROM drive d JOIN block b ON b.drive = d.id AND b.state = 2"
    " JOIN place p ON p.drive = b.drive AND p.id = b.id WHERE d.account = %s AND d.deleted IS NULL"
)


@dataclass(frozen=True, slots=True)
class Room:
    """In sealed bytes. `used`: counts; `kept`: does not, and goes by itself. While much is left, released
    blocks are in `used`."""

    quota: int
    used: int
    kept: int

    @property
    def left(self) -> int:
        """For blocks."""
        return max(0, min(self.quota - self.used, 2 * self.quota - self.used - self.kept))

    @property
    def left_for_log(self) -> int:
        """For commits and roots."""
        return replace(self, quota=self.quota + self.quota // 10).left


class Quotas:
    """See the module. Any number of tasks and processes at once."""

    def __init__(self, database: Database, fresh: float = 5.0) -> None:
        """Released blocks of an account are counted once in `fresh` seconds at most: where they are many,
        that costs more than any request."""
        self._database = database
        self._fresh = fresh
        self._released: OrderedDict[int, tuple[int, float]] = OrderedDict()

    async def of_account(self, account: int) -> Room:
        """`NotFoundError`: there is no such account."""
        return await self._room(_OF_ACCOUNT, account)

    async def of_drive(self, drive: int) -> Room:
        """The room of the account whose drive it is. `NotFoundError`: there is no such drive."""
        return await self._room(_OF_DRIVE, drive)

    async def require_for_blocks(self, drive: int, size: int) -> None:
        """`QuotaError` if the drive may not take so many bytes of blocks more."""
        room = await self._room(_OF_DRIVE, drive, size)
        if size > room.left:
            raise QuotaError(_words(room))

    async def require_for_log(self, drive: int, size: int) -> None:
        """The same of a commit or a root."""
        room = await self._room(_OF_DRIVE, drive, size)
        if size > room.left_for_log:
            raise QuotaError(_words(room))

    async def _room(self, query: str, number: int, size: int = 0) -> Room:
        row = await self._database.row(query, (number,))
        if row is None:
            raise NotFoundError("there is no such account")
        account, quota, used, both = row
        released = 0
        if quota - used < max(size, quota // 10):
            released = await self._released_of(account)
        return Room(quota, used - released, both - used + released)

    async def _released_of(self, account: int) -> int:
        """As of `fresh` seconds ago, or later."""
        count, until = self._released.pop(account, (0, -inf))
        if until <= anyio.current_time():
            found = await self._database.row(_RELEASED, (account,))
            count, until = 0 if found is None else int(found[0]), anyio.current_time() + self._fresh
        self._released[account] = count, until
        if len(self._released) > _ACCOUNTS:
            self._released.popitem(last=False)
        return count


def _words(room: Room) -> str:
    kept = f", {room.kept} more by what was deleted" if room.kept else ""
    return f"the account is full: {room.used} of {room.quota} bytes are taken{kept}"

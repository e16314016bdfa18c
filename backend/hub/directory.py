"""Who may do what: accounts, their devices' tokens, their drives; and the roots of drives.

A token has 256 random bits, and the database has its SHA-256 only: who reads the database cannot use it. It
is worth nothing after `TOKEN_DAYS` without contact, and is to be replaced after `RENEWAL_DAYS`
(`backend.hub.token_end`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Final, NamedTuple

from backend.errors import ConflictError, ExpiredError, NotFoundError, ReadOnlyError, UsageError
from backend.hub.database import Connection, Database
from backend.hub.packing import DriveNumber
from backend.hub.token_end import (
    IS_LONG_AGO,
    NOTED,
    NOW,
    PROCESS_NOW,
    RENEWAL_DAYS,
    TOKEN_DAYS,
    TokenClock,
    not_heard_for,
)
from backend.system import THIS_MACHINE, Environment
from backend.wire import TOKEN_SIZE, NodesId

MAX_DEVICES: Final = 256
"""That an account has at once."""
MAX_DRIVES: Final = 256
MAX_ROOTS: Final = 64
"""That a drive has: an empty one takes nothing of a quota."""
_PUT_ROOT: Final = (
    "INSERT INTO root (drive, name, data) SELECT %(drive)s, %(name)s, %(data)s"
    " WHERE EXISTS (SELECT 1 FROM root WHERE drive = %(drive)s AND name = %(name)s)"
    " OR (SELECT count(*) FROM root WHERE drive = %(drive)s) < %(most)s"
    " ON CONFLICT (drive, name) DO UPDATE SET data = excluded.data"
)
_SHOWN: Final = (
    f"SELECT d.id, d.account, d.token = %(digest)s, {IS_LONG_AGO},"
    f" a.locked IS NOT NULL, {not_heard_for(TOKEN_DAYS)},"
    f" d.token = %(digest)s AND d.renewed < {NOW} - interval '{RENEWAL_DAYS} days',"
    " (SELECT r.id FROM drive r WHERE r.uuid = %(drive)s AND r.account = d.account AND r.deleted IS NULL)"
    " FROM device d JOIN account a ON a.id = d.account"
    " WHERE (d.token = %(digest)s OR d.next_token = %(digest)s) AND d.revoked IS NULL"
)
_NOTE_SHOWN: Final = (
    f"UPDATE device SET {NOTED}, token = %(digest)s,"
    f" renewed = CASE WHEN token = %(digest)s THEN renewed ELSE {NOW} END,"
    " next_token = CASE WHEN token = %(digest)s THEN next_token END"
    " WHERE id = %(number)s AND (token = %(digest)s OR next_token = %(digest)s) AND revoked IS NULL"
)
_ADD_DEVICE: Final = (
    "INSERT INTO device (account, token, seen, heard, renewed)"
    f" VALUES (%(account)s, %(digest)s, now(), {PROCESS_NOW}, {NOW}) RETURNING id"
)


@dataclass(frozen=True, slots=True)
class Device:
    """A device that has shown its token. `is_due`: it is to ask for another one. `drive`: the number of the
    drive that was asked for with the token, if the device may use it."""

    number: int
    account: int
    is_due: bool = False
    drive: int | None = None


class DeviceRow(NamedTuple):
    """A device, as its account sees it. The name is sealed; empty: it has not said one yet. `expires`: the
    end of its token, if nothing is heard of it until then."""

    number: int
    name: bytes
    created: datetime
    seen: datetime
    expires: datetime
    revoked: datetime | None


class DriveRow(NamedTuple):
    """A drive, as its account sees it: name and key are sealed. `bytes`: that it takes; `importing`: it is
    being moved here, or (`departure` 1) away, or (2) was moved away. `nodes`: those that its newest mover
    named; empty: none has."""

    uuid: bytes
    sealed: bytes
    bytes: int
    head: int
    importing: bool
    departure: int
    nodes: NodesId


class Directory:
    """See the module. Any number of tasks and processes at once. `TransientError`: as of `Database`."""

    def __init__(self, database: Database, environment: Environment = THIS_MACHINE) -> None:
        self._database = database
        self._environment = environment
        self._clock = TokenClock(environment)

    async def add_account(self, email: str) -> int:
        """A new account's number. `ConflictError`: the address has one."""
        row = await self._database.row(
            "INSERT INTO account (email) VALUES (lower(%s)) ON CONFLICT DO NOTHING RETURNING id", (email,)
        )
        if row is None:
            raise ConflictError(f"{email} has an account already")
        return int(row[0])

    async def add_device(self, account: int) -> bytes:
        """A new device of the account; its token, which is nowhere else."""
        async with self._database.transaction() as connection:
            token, _ = await new_device(connection, account, self._environment, self._clock)
        return token

    async def device(self, token: bytes, drive: bytes = b"") -> Device:
        """The device of the token, and in the same round trip the drive of the id `drive`, which may be any
        bytes. `NotFoundError`: there is no such device, or it was revoked; `ExpiredError`: the token was not
        used for too long; `ReadOnlyError`: the account is locked."""
        digest = _digest(token)
        shown = {"digest": digest, "clock": self._clock.now(), "drive": drive}
        row = await self._database.row(_SHOWN, shown)
        if row is None:
            raise NotFoundError("no device has this token")
        number, account, is_current, is_long_ago, is_locked, is_expired, is_due, found = row
        if is_expired:
            raise ExpiredError(f"the device's token was not used for {TOKEN_DAYS} days")
        # Not at each request: millions of devices come back every minute. Those of a locked account are heard
        # of, too: its end finds them logged in.
        if is_long_ago or not is_current:
            await self._database.execute(_NOTE_SHOWN, {**shown, "number": number})
        if is_locked:
            raise ReadOnlyError("the account was locked by the hub's operator")
        return Device(number, account, is_due, found)

    async def devices(self, account: int) -> list[DeviceRow]:
        """All of the account's, the oldest first; revoked ones too."""
        rows = await self._database.rows(
            "SELECT id, sealed_name, created, greatest(seen, heard),"
            f" greatest(seen, heard) + interval '{TOKEN_DAYS} days', revoked"
            " FROM device WHERE account = %s ORDER BY id",
            (account,),
        )
        return [DeviceRow(number, bytes(name), *times) for number, name, *times in rows]

    async def name_device(self, account: int, device: int, name: bytes) -> None:
        """The device has another (sealed) name. `NotFoundError`: the account has no such device."""
        await self._of_device(
            "UPDATE device SET sealed_name = %s WHERE account = %s AND id = %s", name, account, device
        )

    async def rotate(self, device: Device) -> bytes:
        """Another token of the device. The one that it has counts until the other is shown: an answer that is
        lost shuts nobody out."""
        token = self._environment.random_bytes(TOKEN_SIZE)
        await self._of_device(
            "UPDATE device SET next_token = %s WHERE account = %s AND id = %s AND revoked IS NULL",
            _digest(token),
            device.account,
            device.number,
        )
        return token

    async def revoke(self, account: int, device: int) -> None:
        """The device's tokens are worth nothing from now on. Idempotent. `NotFoundError`: the account has no
        such device."""
        await self._of_device(
            "UPDATE device SET revoked = coalesce(revoked, now()), next_token = NULL"
            " WHERE account = %s AND id = %s",
            account,
            device,
        )

    async def _of_device(self, statement: str, *values: object) -> None:
        if not await self._database.execute(statement, values):
            raise NotFoundError("the account has no such device")

    async def add_drive(
        self, account: int, uuid: bytes, sealed: bytes = b"", ticket: bytes | None = None
    ) -> None:
        """A new, empty drive; with a `ticket` one that is to be moved here (`Imports`). `ConflictError`:
        there is one of that id; `UsageError`: the account has too many."""
        async with self._database.transaction() as connection:
            await lock_account(connection, account)
            found = await connection.execute(
                "SELECT count(*) FROM drive WHERE account = %s AND deleted IS NULL", (account,)
            )
            row = await found.fetchone()
            if row is not None and row[0] >= MAX_DRIVES:
                raise UsageError(f"an account has at most {MAX_DRIVES} drives")
            made = await connection.execute(
                "INSERT INTO drive (account, uuid, sealed, importing, ticket) VALUES (%s, %s, %s, %s, %s)"
                " ON CONFLICT DO NOTHING",
                (account, uuid, sealed, ticket is not None, ticket),
            )
            if not made.rowcount:
                raise ConflictError("there is a drive of this id already")

    async def listed_drives(self, account: int) -> list[DriveRow]:
        """All of the account's, the oldest first."""
        rows = await self._database.rows(
            "SELECT d.uuid, d.sealed, coalesce(u.bytes, 0), d.head, d.importing, d.departure,"
            " coalesce(d.nodes, ''::bytea)"
            " FROM drive d LEFT JOIN drive_usage u ON u.drive = d.id"
            " WHERE d.account = %s AND d.deleted IS NULL ORDER BY d.id",
            (account,),
        )
        return [
            DriveRow(bytes(row[0]), bytes(row[1]), row[2], row[3], row[4], row[5], bytes(row[6]))
            for row in rows
        ]

    async def seal_drive(self, drive: DriveNumber, sealed: bytes) -> None:
        """The drive's name and key are sealed so from now on."""
        await self._database.execute("UPDATE drive SET sealed = %s WHERE id = %s", (sealed, drive.number))

    async def delete_drive(self, device: Device, drive: DriveNumber) -> None:
        """No device finds the drive any more, and its blocks are released. Idempotent."""
        async with self._database.transaction() as connection:
            await release_drives(connection, device.account, drive.number)

    async def drives(self, device: Device, uuids: Iterable[bytes]) -> dict[bytes, DriveNumber]:
        """Those of these ids. `NotFoundError`: there is none of one of them that the device may use."""
        asked = [*uuids]
        rows = await self._database.rows(
            "SELECT uuid, id FROM drive WHERE uuid = ANY(%s) AND account = %s AND deleted IS NULL",
            (asked, device.account),
        )
        drives = {bytes(uuid): DriveNumber(number, bytes(uuid)) for uuid, number in rows}
        if not drives.keys() >= {*asked}:
            raise NotFoundError("there is no such drive")
        return drives

    async def put_root(self, drive: DriveNumber, name: str, data: bytes) -> None:
        """See `Roots.put_root`. `UsageError`: the drive has too many; those that are put at once may be a few
        more."""
        values = {"drive": drive.number, "name": name, "data": data, "most": MAX_ROOTS}
        if not await self._database.execute(_PUT_ROOT, values):
            raise UsageError(f"a drive has at most {MAX_ROOTS} roots")

    async def get_root(self, drive: DriveNumber, name: str) -> bytes:
        """`NotFoundError`: there is none."""
        row = await self._database.row(
            "SELECT data FROM root WHERE drive = %s AND name = %s", (drive.number, name)
        )
        if row is None:
            raise NotFoundError(f"there is no root {name}")
        return bytes(row[0])


async def lock_account(connection: Connection, account: int) -> None:
    """Until the transaction ends nobody else gives the account a drive or a device, or ends it.
    `NotFoundError`: it has ended."""
    found = await connection.execute(
        "SELECT 1 FROM account WHERE id = %s AND deleted IS NULL FOR NO KEY UPDATE", (account,)
    )
    if await found.fetchone() is None:
        raise NotFoundError("the account has ended")


async def new_device(
    connection: Connection, account: int, environment: Environment, clock: TokenClock
) -> tuple[bytes, int]:
    """A new device's token, which is nowhere else, and its number. `UsageError`: the account has too many;
    `NotFoundError`: it has ended."""
    await lock_account(connection, account)
    found = await connection.execute(
        "SELECT count(*) FROM device WHERE account = %s AND revoked IS NULL"
        f" AND seen > now() - interval '{TOKEN_DAYS} days'".encode(),
        (account,),
    )
    row = await found.fetchone()
    if row is not None and row[0] >= MAX_DEVICES:
        raise UsageError(f"an account has at most {MAX_DEVICES} devices: revoke one first")
    token = environment.random_bytes(TOKEN_SIZE)
    made = await connection.execute(
        _ADD_DEVICE.encode(), {"account": account, "digest": _digest(token), "clock": clock.now()}
    )
    new = await made.fetchone()
    assert new is not None
    return token, int(new[0])


async def release_drives(connection: Connection, account: int, drive: int | None = None) -> None:
    """The account's drive, or all of them, are found no more, and their blocks are released. Locks in the
    order of `append_commit`: drives, then blocks by id."""
    deleted = await connection.execute(
        "UPDATE drive SET deleted = now() WHERE account = %(account)s AND deleted IS NULL"
        " AND (%(drive)s::bigint IS NULL OR id = %(drive)s) RETURNING id",
        {"account": account, "drive": drive},
    )
    numbers = sorted(row[0] for row in await deleted.fetchall())
    await connection.execute(
        "UPDATE block SET state = 2, changed = now() WHERE (drive, id) IN (SELECT drive, id FROM block"
        " WHERE drive = ANY(%s) AND state <> 2 ORDER BY drive, id FOR UPDATE)",
        (numbers,),
    )


def _digest(token: bytes) -> bytes:
    return hashlib.sha256(token).digest()

"""Who may do what: accounts, their devices' tokens, their drives; and the roots of drives.

A token has 256 random bits, and the database has its SHA-256 only: who reads the database cannot use it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass

from backend.errors import ConflictError, NotFoundError
from backend.hub.database import Database
from backend.hub.packing import DriveNumber
from backend.system import THIS_MACHINE, Environment

TOKEN_SIZE = 32


@dataclass(frozen=True, slots=True)
class Device:
    """A device that has shown its token."""

    number: int
    account: int


class Directory:
    """See the module. Any number of tasks and processes at once. `TransientError`: as of `Database`."""

    def __init__(self, database: Database, environment: Environment = THIS_MACHINE) -> None:
        self._database = database
        self._environment = environment

    async def add_account(self, email: str) -> int:
        """A new account's number. `ConflictError`: the address has one."""
        async with self._database.transaction() as connection:
            found = await connection.execute(
                "INSERT INTO account (email) VALUES (lower(%s)) ON CONFLICT DO NOTHING RETURNING id", (email,)
            )
            row = await found.fetchone()
        if row is None:
            raise ConflictError(f"{email} has an account already")
        return int(row[0])

    async def add_device(self, account: int, name: str) -> bytes:
        """A new device of the account; its token, which is nowhere else."""
        token = self._environment.random_bytes(TOKEN_SIZE)
        async with self._database.transaction() as connection:
            await connection.execute(
                "INSERT INTO device (account, name, token) VALUES (%s, %s, %s)",
                (account, name, _digest(token)),
            )
        return token

    async def device(self, token: bytes) -> Device:
        """The device of the token. `NotFoundError`: there is none, or it was revoked."""
        async with self._database.transaction() as connection:
            found = await connection.execute(
                "SELECT id, account, seen < now() - interval '1 minute' FROM device"
                " WHERE token = %s AND revoked IS NULL",
                (_digest(token),),
            )
            row = await found.fetchone()
            if row is not None and row[2]:  # not at each request: each write waits for the disk
                await connection.execute("UPDATE device SET seen = now() WHERE id = %s", (row[0],))
        if row is None:
            raise NotFoundError("no device has this token")
        return Device(row[0], row[1])

    async def revoke(self, account: int, device: int) -> None:
        """The device's token is worth nothing from now on. Idempotent."""
        async with self._database.transaction() as connection:
            await connection.execute(
                "UPDATE device SET revoked = now() WHERE id = %s AND account = %s AND revoked IS NULL",
                (device, account),
            )

    async def add_drive(self, account: int, uuid: bytes) -> None:
        """A new, empty drive. `ConflictError`: there is one of that id."""
        async with self._database.transaction() as connection:
            found = await connection.execute(
                "INSERT INTO drive (account, uuid) VALUES (%s, %s) ON CONFLICT DO NOTHING", (account, uuid)
            )
            if not found.rowcount:
                raise ConflictError("there is a drive of this id already")

    async def drives(self, device: Device, uuids: Iterable[bytes]) -> dict[bytes, DriveNumber]:
        """Those of these ids. `NotFoundError`: there is none of one of them that the device may use."""
        asked = [*uuids]
        async with self._database.transaction() as connection:
            found = await connection.execute(
                "SELECT uuid, id FROM drive WHERE uuid = ANY(%s) AND account = %s", (asked, device.account)
            )
            drives = {
                bytes(uuid): DriveNumber(number, bytes(uuid)) for uuid, number in await found.fetchall()
            }
        if not drives.keys() >= {*asked}:
            raise NotFoundError("there is no such drive")
        return drives

    async def put_root(self, drive: DriveNumber, name: str, data: bytes) -> None:
        """See `Roots.put_root`."""
        async with self._database.transaction() as connection:
            await connection.execute(
                "INSERT INTO root (drive, name, data) VALUES (%s, %s, %s)"
                " ON CONFLICT (drive, name) DO UPDATE SET data = excluded.data",
                (drive.number, name, data),
            )

    async def get_root(self, drive: DriveNumber, name: str) -> bytes:
        """`NotFoundError`: there is none."""
        async with self._database.transaction() as connection:
            found = await connection.execute(
                "SELECT data FROM root WHERE drive = %s AND name = %s", (drive.number, name)
            )
            row = await found.fetchone()
        if row is None:
            raise NotFoundError(f"there is no root {name}")
        return bytes(row[0])


def _digest(token: bytes) -> bytes:
    return hashlib.sha256(token).digest()

"""Signing up and logging in, and what an account says of itself. The hub learns neither passphrase nor root.

A login shows a key that the device derived from its secret; the database has a keyed hash of it, and the
account root, which the device wrapped, sealed under the pepper once more. Spec: docs/format/hub_api.md.

Invariants:
1. An answer to an address without an account is like that to one with another secret.
2. What a stolen token alone may not do (another passphrase, another second factor, the end of the account)
   asks for a secret of the account anew; each such try is counted as a login.
Any number of tasks and processes at once. `TransientError`: as of `Database`.
"""

from __future__ import annotations

import hashlib
import unicodedata
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from datetime import datetime
from typing import Final, NamedTuple

from backend.errors import (
    ConflictError,
    FactorNeededError,
    NotFoundError,
    ReadOnlyError,
    UsageError,
    WrongKeyError,
)
from backend.hub.attempts import Attempts
from backend.hub.database import Connection, Database
from backend.hub.directory import lock_account, new_device, release_drives
from backend.hub.pepper import Pepper
from backend.hub.second_factor import NewFactor, SecondFactor
from backend.hub.token_end import TokenClock
from backend.system import THIS_MACHINE, Environment
from backend.wire import Credential, NewLogin, Proof, SecretCost

KINDS: Final = {"passphrase": "passphrase", "recovery": "recovery key"}
"""Of secrets, and their names for people."""
MAX_EMAIL: Final = 254
_INVITATION_SIZE: Final = 16
_INVITE: Final = (
    "INSERT INTO account AS a (email, invitation) VALUES (%s, %s) ON CONFLICT (email) DO UPDATE"
    " SET invitation = excluded.invitation"
    " WHERE NOT EXISTS (SELECT 1 FROM credential c WHERE c.account = a.id)"
)
_KEEP: Final = (
    "INSERT INTO credential (account, kind, salt, memory_kib, iterations, lanes, verifier, wrapped)"
    " VALUES (%s, %s, %s, %s, %s, %s, %s, %s) ON CONFLICT (account, kind) DO UPDATE SET"
    " salt = excluded.salt, memory_kib = excluded.memory_kib, iterations = excluded.iterations,"
    " lanes = excluded.lanes, verifier = excluded.verifier, wrapped = excluded.wrapped"
)
_CREDENTIAL: Final = (
    "SELECT a.id, a.locked IS NOT NULL, c.verifier, c.wrapped FROM account a"
    " JOIN credential c ON c.account = a.id WHERE a.email = %s AND c.kind = %s"
)
USUAL_COST: Final = (65536, 3, 4)
"""Of the clients of this version, for addresses without an account."""


class AccountRow(NamedTuple):
    """What is known of an account."""

    email: str
    created: datetime
    has_factor: bool


class Accounts:
    """See the module. With `is_open` anybody may sign up, else who was invited."""

    def __init__(
        self,
        database: Database,
        pepper: Pepper,
        *,
        is_open: bool,
        attempts: Attempts | None = None,
        environment: Environment = THIS_MACHINE,
    ) -> None:
        self._database = database
        self._pepper = pepper
        self._is_open = is_open
        self._attempts = attempts or Attempts(database, pepper)
        self._factor = SecondFactor(pepper, environment)
        self._environment = environment
        self._clock = TokenClock(environment)

    async def invite(self, email: str) -> str:
        """A code by which the address may sign up, once; one that it had before counts no more.
        `ConflictError`: it has an account; `UsageError`: it is no address."""
        code = self._environment.random_bytes(_INVITATION_SIZE).hex()
        if not await self._database.execute(_INVITE, (normal_email(email), _invitation(code))):
            raise ConflictError(f"{email} has an account already")
        return code

    async def sign_up(self, email: str, credentials: Mapping[str, Credential], invitation: str = "") -> None:
        """A new account, which opens by these. `UsageError`: the hub takes nobody who was not invited so;
        `ConflictError`: the address has an account."""
        email = normal_email(email)
        async with self._database.transaction() as connection:
            await self._keep(connection, await self._new(connection, email, invitation), credentials)

    async def _new(self, connection: Connection, email: str, invitation: str) -> int:
        """The number of a row for that address, which no secret opens yet."""
        row = None
        if self._is_open:
            made = await connection.execute(
                "INSERT INTO account (email) VALUES (%s) ON CONFLICT DO NOTHING RETURNING id", (email,)
            )
            row = await made.fetchone()
        if row is None:
            invited = await connection.execute(
                "UPDATE account SET invitation = NULL WHERE email = %s AND invitation = %s RETURNING id",
                (email, _invitation(invitation)),
            )
            row = await invited.fetchone()
        if row is None and self._is_open:
            raise ConflictError("the address has an account already, or was invited with another code")
        if row is None:
            raise UsageError("this hub takes only those who were invited, with the code of their address")
        return int(row[0])

    async def start(self, email: str, kind: str) -> SecretCost:
        """The stretching of the secret. Of an address without one a salt that is always the same."""
        email = normal_email(email)
        row = await self._database.row(
            "SELECT c.salt, c.memory_kib, c.iterations, c.lanes FROM account a"
            " JOIN credential c ON c.account = a.id WHERE a.email = %s AND c.kind = %s",
            (email, kind),
        )
        if row is None:
            return SecretCost(self._pepper.salt(email, kind), *USUAL_COST)
        return SecretCost(bytes(row[0]), *row[1:])

    async def login(self, email: str, proof: Proof) -> NewLogin:
        """A new device. `WrongKeyError`: address and secret do not fit; `FactorNeededError`;
        `ThrottledError`; `ReadOnlyError`: the account is locked."""
        email = normal_email(email)
        async with self._proved(email, proof) as (connection, account, wrapped):
            token, device = await new_device(connection, account, self._environment, self._clock)
        return NewLogin(token, device, wrapped)

    async def change(self, account: int, proof: Proof, credentials: Mapping[str, Credential]) -> None:
        """Other secrets in the place of those of these kinds. Devices stay logged in. Errors as `login`."""
        async with self._proved(await self._email(account), proof) as (connection, number, _):
            await self._keep(connection, number, credentials)

    async def delete(self, account: int, proof: Proof) -> None:
        """The account ends, its devices and drives with it; the address is free. Errors as of `login`."""
        async with self._proved(await self._email(account), proof) as (connection, number, _):
            await end_account(connection, number)

    async def begin_factor(self, account: int, proof: Proof) -> NewFactor:
        """A second factor, to be confirmed. `ConflictError`: it has one. Else as `login`."""
        email = await self._email(account)
        async with self._proved(email, proof) as (connection, number, _):
            return await self._factor.begin(connection, number, email)

    async def confirm_factor(self, account: int, code: str) -> None:
        """Logins ask for a code from now on. `WrongKeyError`: that is none; `ThrottledError`."""
        email = await self._email(account)
        await self._attempts.charge(email)
        async with self._database.transaction() as connection:
            await self._factor.confirm(connection, account, code)
        await self._attempts.forgive(email)

    async def end_factor(self, account: int, proof: Proof) -> None:
        """Logins ask for no code any more. Errors as of `login`."""
        async with self._proved(await self._email(account), proof) as (connection, number, _):
            await self._factor.end(connection, number)

    async def describe(self, account: int) -> AccountRow:
        """The account. `NotFoundError`: it has ended."""
        row = await self._database.row(
            "SELECT a.email, a.created, coalesce(f.confirmed, false) FROM account a"
            " LEFT JOIN second_factor f ON f.account = a.id WHERE a.id = %s AND a.deleted IS NULL",
            (account,),
        )
        if row is None:
            raise NotFoundError("the account has ended")
        return AccountRow(*row)

    async def _email(self, account: int) -> str:
        return (await self.describe(account)).email

    @asynccontextmanager
    async def _proved(self, email: str, proof: Proof) -> AsyncIterator[tuple[Connection, int, bytes]]:
        """A transaction in which the proof holds, the account's number, and its wrapped root."""
        await self._attempts.charge(email)
        try:
            async with self._database.transaction() as connection:
                account, wrapped = await self._opened(connection, email, proof)
                yield connection, account, wrapped
        except FactorNeededError:
            await self._attempts.forgive(email)
            raise
        await self._attempts.forgive(email)

    async def _opened(self, connection: Connection, email: str, proof: Proof) -> tuple[int, bytes]:
        row = await (await connection.execute(_CREDENTIAL, (email, proof.kind))).fetchone()
        if row is None or not self._pepper.fits(bytes(row[2]), row[0], proof.kind, proof.auth_key):
            raise WrongKeyError(f"no account has this address and this {KINDS[proof.kind]}")
        account, is_locked, _, wrapped = row
        if is_locked:
            raise ReadOnlyError("the account was locked by the hub's operator")
        if proof.kind != "recovery":  # which is for whoever has lost the phone, too
            await self._factor.require(connection, account, proof.code)
        return account, self._pepper.open_root(account, proof.kind, bytes(wrapped))

    async def _keep(
        self, connection: Connection, account: int, credentials: Mapping[str, Credential]
    ) -> None:
        for kind, each in credentials.items():
            verifier = self._pepper.verifier(account, kind, each.auth_key)
            wrapped = self._pepper.seal_root(account, kind, each.wrapped)
            await connection.execute(_KEEP, (account, kind, *each.cost, verifier, wrapped))


async def end_account(connection: Connection, account: int) -> None:
    """In a transaction: see `Accounts.delete`."""
    await lock_account(connection, account)
    for table in ("credential", "second_factor", "device"):
        await connection.execute(f"DELETE FROM {table} WHERE account = %s".encode(), (account,))
    await release_drives(connection, account)
    await connection.execute(
        "UPDATE account SET deleted = now(), email = 'deleted:' || id, invitation = NULL WHERE id = %s",
        (account,),
    )


def normal_email(text: str) -> str:
    """The one way to write an address. `UsageError`: it is none. That it is somebody's is not asked."""
    email = unicodedata.normalize("NFC", text.strip()).lower()
    name, at, host = email.rpartition("@")
    is_text = email.isprintable() and " " not in email
    if not (name and at and host and is_text) or len(email.encode()) > MAX_EMAIL:
        raise UsageError("this is no e-mail address")
    return email


def _invitation(code: str) -> bytes:
    return hashlib.sha256(code.encode()).digest()

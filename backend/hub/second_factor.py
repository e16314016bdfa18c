"""The second factor of accounts: codes by time (RFC 6238, SHA-1, 30 seconds, six digits, as apps make them).

Invariants:
1. A code is taken once.
2. A factor counts from the first code that was right: who could not scan the secret is not shut out.
"""

from __future__ import annotations

import base64
import hmac
from typing import Final, NamedTuple

import pyotp

from backend.errors import ConflictError, FactorNeededError, WrongKeyError
from backend.hub.database import Connection
from backend.hub.pepper import Pepper
from backend.system import THIS_MACHINE, Environment

_SECRET_SIZE: Final = 20
_SECONDS: Final = 30
_SLACK: Final = 1
"""Steps that the clock of a phone may be off."""


class NewFactor(NamedTuple):
    """To be shown once: the secret in base 32, and the URI that apps scan."""

    secret: str
    uri: str


class SecondFactor:
    """See the module. Each call is part of the caller's transaction."""

    def __init__(self, pepper: Pepper, environment: Environment = THIS_MACHINE) -> None:
        self._pepper = pepper
        self._environment = environment

    async def begin(self, connection: Connection, account: int, email: str) -> NewFactor:
        """A new secret, in the place of one that was not confirmed. `ConflictError`: one was."""
        secret = self._environment.random_bytes(_SECRET_SIZE)
        begun = await connection.execute(
            "INSERT INTO second_factor AS f (account, secret) VALUES (%s, %s) ON CONFLICT (account)"
            " DO UPDATE SET secret = excluded.secret, step = 0 WHERE NOT f.confirmed",
            (account, self._pepper.seal_factor(account, secret)),
        )
        if not begun.rowcount:
            raise ConflictError("the account has a second factor already")
        codes = _codes(secret)
        return NewFactor(codes.secret, codes.provisioning_uri(name=email, issuer_name="drivefs"))

    async def confirm(self, connection: Connection, account: int, code: str) -> None:
        """The factor counts from now on. `WrongKeyError`: the code is wrong, or none was begun."""
        await self._take(connection, account, code)
        await connection.execute("UPDATE second_factor SET confirmed = true WHERE account = %s", (account,))

    async def require(self, connection: Connection, account: int, code: str) -> None:
        """Return if the account has no factor, or that is its code. `FactorNeededError`: there is none given;
        `WrongKeyError`."""
        found = await connection.execute(
            "SELECT 1 FROM second_factor WHERE account = %s AND confirmed", (account,)
        )
        if await found.fetchone() is None:
            return
        if not code:
            raise FactorNeededError("the account asks for a code of its second factor")
        await self._take(connection, account, code)

    async def end(self, connection: Connection, account: int) -> None:
        """The account has none. Idempotent."""
        await connection.execute("DELETE FROM second_factor WHERE account = %s", (account,))

    async def _take(self, connection: Connection, account: int, code: str) -> None:
        found = await connection.execute("SELECT secret FROM second_factor WHERE account = %s", (account,))
        row = await found.fetchone()
        step = None if row is None else self._step(self._pepper.open_factor(account, bytes(row[0])), code)
        taken = await connection.execute(
            "UPDATE second_factor SET step = %(step)s WHERE account = %(account)s AND step < %(step)s",
            {"step": step, "account": account},
        )
        if not taken.rowcount:
            raise WrongKeyError("the code is wrong, or was used already")

    def _step(self, secret: bytes, code: str) -> int | None:
        """The step whose code it is."""
        codes, now = _codes(secret), self._environment.wall_clock() // (_SECONDS * 10**9)
        steps = range(now - _SLACK, now + _SLACK + 1)
        fitting = [
            step for step in steps if hmac.compare_digest(codes.generate_otp(step).encode(), code.encode())
        ]
        return fitting[-1] if fitting else None


def _codes(secret: bytes) -> pyotp.TOTP:
    return pyotp.TOTP(base64.b32encode(secret).decode())

"""How often a login may be tried: a token bucket for each address, in the database.

An address without an account has a bucket too, so that nobody can tell whether it has an account. The number
of rows is bounded. Anybody who knows an address can keep its owner from logging in, as long as the tries go
on; devices that are logged in are not touched.
"""

from __future__ import annotations

from typing import Final

from backend.errors import ThrottledError
from backend.hub.database import Database
from backend.hub.pepper import Pepper

BURST: Final = 10.0
REFILL: Final = 60.0
"""Seconds after which one more attempt is allowed."""
_LEFT: Final = (
    "least(%(burst)s, a.tokens + greatest(0, extract(epoch FROM clock_timestamp() - a.changed)) / %(refill)s)"
)
_CHARGE: Final = (
    "INSERT INTO login_attempt AS a (bucket, tokens, changed)"
    " VALUES (%(bucket)s, %(burst)s - 1, clock_timestamp())"
    f" ON CONFLICT (bucket) DO UPDATE SET tokens = {_LEFT} - 1, changed = clock_timestamp()"
    f" WHERE {_LEFT} >= 1"
)
_FORGIVE: Final = "UPDATE login_attempt SET tokens = least(%(burst)s, tokens + 1) WHERE bucket = %(bucket)s"


class Attempts:
    """See the module. Any number of tasks and processes at once."""

    def __init__(
        self, database: Database, pepper: Pepper, burst: float = BURST, refill: float = REFILL
    ) -> None:
        self._database = database
        self._pepper = pepper
        self._limits = {"burst": burst, "refill": refill}

    async def charge(self, email: str) -> None:
        """Before a secret is looked at: one attempt less. `ThrottledError`: there is none left now."""
        if not await self._database.execute(_CHARGE, self._row(email)):
            seconds = self._limits["refill"]
            raise ThrottledError(f"too many logins have failed: try again in {seconds:g} s", seconds)

    async def forgive(self, email: str) -> None:
        """The secret was right."""
        await self._database.execute(_FORGIVE, self._row(email))

    def _row(self, email: str) -> dict[str, float]:
        return {**self._limits, "bucket": self._pepper.bucket(email)}

"""When the token of a device ends, and when the device is forgotten.

Both are final: people have to log in again, or do not find a device any more. So both come by the clock that
is behind, of the database's and that of the hub's process, which takes time since its begin as the machine
counts it since boot: where either jumps ahead no token ends. Left is a machine that starts the database and
the hub with a clock that is ahead.
"""

from __future__ import annotations

from typing import Final

from backend.system import Environment

TOKEN_DAYS: Final = 90
"""Without contact, after which a token is worth nothing."""
RENEWAL_DAYS: Final = 30
"""After which a token is to be replaced."""
LISTED_DAYS: Final = 90
"""That a device stays listed after it was revoked, or after its token has ended."""
NOW: Final = "least(now(), to_timestamp(%(clock)s))"
"""`clock` is `TokenClock.now`."""


class TokenClock:
    """The time of a process of the hub. Any thread."""

    def __init__(self, environment: Environment) -> None:
        self._environment = environment
        self._begun = self._wall() - environment.boot_clock()

    def now(self) -> float:
        """Seconds since 1970. It never jumps ahead."""
        return min(self._wall(), self._begun + self._environment.boot_clock())

    def _wall(self) -> float:
        return self._environment.wall_clock() / 1e9

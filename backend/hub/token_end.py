"""When the token of a device ends, and when the device is forgotten.

Both are final: people have to log in again, or do not find a device any more. So two clocks have to say so,
and each is compared with its own notes only: `seen` is by the database's clock, `heard` by that of the hub's
process, which takes time since its begin as the machine counts it since boot. While one of them is right,
the other may be wrong by any time, in either direction, and be set right at any moment: no token of a device
that is heard of ends, and one of a device that is not ends in time. A note that is ahead of its clock was
made while the clock was ahead, and is bounded by the other one (`BOUND`).

A note does not go back: a machine that starts with both clocks behind spoils none. Left are a machine that
starts the database and the hub with clocks that are ahead, which ends tokens; a device that is heard of only
while both clocks are behind; and a process that began with its clock behind, which ends older tokens late.
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
PROCESS_NOW: Final = "to_timestamp(%(clock)s)"
"""`clock` is `TokenClock.now`."""
NOW: Final = f"least(now(), {PROCESS_NOW})"
"""By the clock that is behind."""
NOTED: Final = f"seen = greatest(seen, now()), heard = greatest(heard, {PROCESS_NOW})"
"""What is set of a device that is heard of."""
IS_LONG_AGO: Final = f"(d.seen < now() - interval '1 hour' OR d.heard < {PROCESS_NOW} - interval '1 hour')"
"""Whether a device `d` is to be noted."""
_SEEN_AHEAD: Final = "seen > now() + interval '1 hour'"
_HEARD_AHEAD: Final = f"heard > {PROCESS_NOW} + interval '1 hour'"
BOUND: Final = (
    "UPDATE device SET seen = least(seen, heard), heard = least(seen, heard)"
    f" WHERE heard < seen AND {_SEEN_AHEAD} AND NOT {_HEARD_AHEAD}"
    f" OR seen < heard AND {_HEARD_AHEAD} AND NOT {_SEEN_AHEAD}"
)


def not_heard_for(days: int) -> str:
    """The condition that nothing was heard of a device `d` for so long, by both clocks."""
    ago = f"interval '{days} days'"
    return f"(d.seen < now() - {ago} AND d.heard < {PROCESS_NOW} - {ago})"


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

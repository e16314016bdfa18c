"""The other holders of the lease: who may have it now, who has gone, and waiting for the rest to be outlived.

Invariants:
1. A holder that lives is not taken over. One of this boot whose process is gone is taken over at once; one
   on another machine, boot or pid namespace, or that is stopped, when its record was seen unchanged for its
   whole duration by the observer's own clock (Gray and Cheriton, "Leases", SOSP 1989; the DynamoDB lock
   client). Wall clocks are never compared.
2. Where a holder may have a majority, a voter that does not answer counts as having its record.
3. Nothing is written here, and who waits here holds nothing: that a holder was outlived makes nobody the next
   one (`backend.commits.lease`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime
from typing import Final

import trio

from backend.commits.lease_record import Holder, LeaseRecord
from backend.commits.lease_votes import LeaseVotes, Seen
from backend.commits.process_identity import Life
from backend.errors import LeaseHeldError

SILENT_SECONDS: Final = 2.0
"""A person who waits longer is told what for."""
_MARGIN: Final = 1.1
"""The factor by which an observer waits longer, for clocks that run at different rates."""
_LOOKS: Final = 15
"""So often the record of a silent holder is looked at while its duration passes."""
_SHORTEST_PAUSE: Final = 0.05
_Look = Callable[[float], Awaitable[Mapping[str, Seen]]]


class OtherHolders:
    """All but `holder`, this process, as `votes` tell of them. A voter is waited for `patience` seconds.
    `life`: as of `life_of`. `waiting` is told, once for each holder, for whom and how long is waited, after
    two seconds of it. `clock`: seconds that go on while the machine sleeps."""

    def __init__(
        self,
        votes: LeaseVotes,
        holder: Holder,
        patience: float,
        *,
        life: Callable[[Holder, Holder], Life],
        waiting: Callable[[str], None],
        clock: Callable[[], float],
    ) -> None:
        self._votes = votes
        self._holder = holder
        self._patience = patience
        self._life = life
        self._waiting = waiting
        self._clock = clock
        self._given_up: set[str] = set()

    def give_up(self, token: str) -> None:
        """An attempt of this process to acquire the lease has failed. Some of its records may still come to
        voters that are slow, where nobody takes them back: they are no other holder's."""
        self._given_up.add(token)

    async def outlive(self, seen: Mapping[str, Seen]) -> bool:
        """Return when every holder that may have a majority may be taken over; whether there was one.
        `LeaseHeldError` if one lives, `UnavailableError` if too few voters answer meanwhile."""
        possible = self._possible(seen)
        for record in possible:
            await self._outlive(record, self.look)
        return bool(possible)

    async def look(self, patience: float) -> Mapping[str, Seen]:
        """See `LeaseVotes.look_at_majority`; who waits is told."""
        return await self._votes.look_at_majority(patience, self._waiting)

    async def outlive_all(self, seen: Mapping[str, Seen]) -> None:
        """Return when every holder of whom a voter has a record may be taken over, however few have it:
        others, which this process does not know, may have it too. `seen` is of all voters
        (`LeaseVotes.look_at_all`). Raises as `outlive`; `UnavailableError` if a voter does not say meanwhile
        what it has, as it may be the only one with a record."""
        for record in _newest_held(seen).values():
            await self._outlive(record, self._votes.look_at_all)

    def _possible(self, seen: Mapping[str, Seen]) -> list[LeaseRecord]:
        """The held records that may be on a majority, counting voters that do not answer as theirs; the
        newest state of each. What a failed attempt or a long gone holder left on fewer voters is none."""
        away = len(self._votes.names) - len(seen)
        count = Counter(record.token for record in _held(seen))
        return [
            record
            for token, record in _newest_held(seen).items()
            if count[token] + away >= self._votes.majority and token not in self._given_up
        ]

    async def _outlive(self, record: LeaseRecord, look: _Look) -> None:
        """Return when the holder of `record` may be taken over; `LeaseHeldError` if it lives. `look` raises
        unless so many voters answer that a holder who is not found has gone."""
        life = self._life(record.holder, self._holder)
        if life == "gone":
            return
        if life == "running":
            raise LeaseHeldError(_held_by(record))
        await self._outlive_silent(record, look)

    async def _outlive_silent(self, record: LeaseRecord, look: _Look) -> None:
        began = self._clock()
        until = began + record.seconds * _MARGIN
        said = False
        while (left := until - self._clock()) > 0:
            if not said and self._clock() - began >= SILENT_SECONDS:
                self._waiting(_waits_for(record, left))
                said = True
            await trio.sleep(min(left, SILENT_SECONDS, max(record.seconds / _LOOKS, _SHORTEST_PAUSE)))
            if await self._is_outlived(record, look):
                return

    async def _is_outlived(self, record: LeaseRecord, look: _Look) -> bool:
        """Whether its holder has let go, gone, or been replaced; `LeaseHeldError` if it has renewed."""
        now = _newest_held(await look(self._patience)).get(record.token)
        if now is None or self._life(record.holder, self._holder) == "gone":
            return True
        if now.renewals > record.renewals:
            raise LeaseHeldError(_held_by(now))
        return False


def _held(seen: Mapping[str, Seen]) -> list[LeaseRecord]:
    records = [one.record for one in seen.values() if one.record is not None]
    return [record for record in records if record.held]


def _newest_held(seen: Mapping[str, Seen]) -> dict[str, LeaseRecord]:
    """The newest state of each acquisition that a voter has as held, by its token."""
    return {record.token: record for record in sorted(_held(seen), key=lambda record: record.renewals)}


def _waits_for(record: LeaseRecord, left: float) -> str:
    holder = record.holder
    return (
        f"the drive was last mounted by process {holder.pid} on {holder.host}, and whether that lives cannot "
        f"be seen from here; waiting until its lease has run out, {left:.0f} s at most"
    )


def _held_by(record: LeaseRecord) -> str:
    holder = record.holder
    try:
        until = datetime.fromtimestamp(record.until_ns / 1e9, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    except (ValueError, OverflowError, OSError):
        until = "an unknown time"
    return f"the drive is mounted by process {holder.pid} on {holder.host}, at least until {until}"

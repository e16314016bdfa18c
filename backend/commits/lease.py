"""The lease: at most one writer of a drive, and an epoch that fences every earlier one.

Invariants:
1. Majority: an epoch is acquired by swapping the record on more than half of all voters of the drive.
   Any two majorities share a voter and a voter's swap is atomic, so an epoch has one holder, ever.
2. Epochs only grow on each voter: an acquirer takes one more than the highest it saw on a majority, and
   no record replaces one of a higher epoch. An attempt that failed leaves its epoch used up.
3. `verify` (a majority swaps in this holder's record anew) is what makes a write count, not a clock, nor a
   read, which may be late: if it succeeds after the write, any later holder acquires after it, and so sees
   the write when it looks. A holder that was stopped for an hour can therefore do no harm.
4. Every record carries the highest claim (`lease_record.Claim`) that was seen when it was made: on no voter
   does the claim go down, and what a majority was told before an acquisition the acquirer knows.
5. Clocks only decide when others may try (`backend.commits.other_holders`: who may be taken over, and when).
6. A voter that does not answer in a sixth of the lease's duration, or in 5 s, counts as away: one disk that
   hangs must not cost the lease. Where no majority answers in that time, who acquires waits longer.
7. A record counts only if its writer has the drive's key. A node can keep, lose or put back its record; it
   cannot make one up, say that a holder lives, or use up epochs.
8. A record of a newer cluster map than this process has is a reason to stop before anything is written.
9. A record of this acquisition that this process did not make is a clone's (a machine that was resumed twice
   from one snapshot): the lease is lost.
10. CLOCK_BOOTTIME: time asleep counts, so a machine that was suspended knows that its lease is old.

A lease that only ran out (nodes away, suspended) and was taken by nobody is renewed and goes on; one that
was taken over is lost for good (`FencedError`). With half of the voters away there is no lease: reading
goes on, writing waits. One task at a time calls `acquire`, `run`, `release`; any calls `check`, `confirm`,
`ensure`, `renew`, `verify`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Final

import trio

from backend.commits.lease_record import NO_CLAIM, Claim, Holder, LeaseRecord
from backend.commits.lease_votes import LeaseVotes, Seen, SlowVotersError, Vote
from backend.commits.other_holders import OtherHolders
from backend.commits.process_identity import Life, life_of
from backend.errors import (
    ConflictError,
    DriveError,
    FencedError,
    TransientError,
    UnavailableError,
)
from backend.failpoints import declare
from backend.nodes import Node, NodeHealth
from backend.system import THIS_MACHINE, Environment
from backend.upstream import Head

DEFAULT_SECONDS: Final = 30.0
STORE_SECONDS: Final = 120.0
"""Where each renewal costs money: it is renewed once where the other is ten times."""
_SLACK: Final = 20.0
"""So long before its end it is renewed: a longer one bears outages of the same length, at less cost."""
PATIENCE: Final = _SLACK / 4
"""Seconds that a voter is waited for at most; less of a lease that is short."""
LONGEST_PATIENCE: Final = _SLACK
"""The same of who is patient."""
_TRIES: Final = 10

BEFORE_TAKEOVER: Final = declare("lease.before-takeover", "the last holder is gone; nothing is written")
AFTER_ACQUIRE: Final = declare("lease.after-acquire", "a majority has the new record; the log is not read")
BEFORE_RELEASE: Final = declare("lease.before-release", "all is done; the record still says held")

log = logging.getLogger(__name__)


def renewed_after(seconds: float) -> float:
    """Seconds between two renewals of a lease of this duration, if nothing else renews it."""
    return seconds - _slack_of(seconds)


def _slack_of(seconds: float) -> float:
    return min(seconds * 2 / 3, _SLACK)


class Lease:
    """A drive's lease, from the side of one process."""

    def __init__(
        self,
        nodes: Mapping[str, Node],
        drive_id: bytes,
        secret: bytes,
        holder: Holder,
        *,
        map_epoch: int = 1,
        seconds: float = DEFAULT_SECONDS,
        is_patient: bool = False,
        life: Callable[[Holder, Holder], Life] = life_of,
        waiting: Callable[[str], None] = log.info,
        environment: Environment = THIS_MACHINE,
        health: NodeHealth | None = None,
    ) -> None:
        """`nodes` are all voters of the drive, also those that are away; `secret` is the drive's key for
        leases; `map_epoch` is that of the map that names them. `seconds` is for how long others trust a
        silent holder; it is renewed 20 s before the end, a shorter one after a third of its time. Who
        `is_patient` waits for a voter as long as a renewal may last, for it has nothing else to do.
        `waiting` is told for whom and how long `acquire` waits, when it has for two seconds. `health`: as of
        `LeaseVotes`."""
        self._votes = LeaseVotes(nodes, drive_id, secret, environment, health)
        self._drive = drive_id.hex()
        self._map_epoch = map_epoch
        self._holder = holder
        self._is_patient = is_patient
        self._have(nodes, seconds)
        self._environment = environment
        self._clock = environment.boot_clock
        self._others = OtherHolders(
            self._votes, holder, self._patience, life=life, waiting=waiting, clock=self._clock
        )
        self._mine: LeaseRecord | None = None
        self._valid_until = 0.0
        self._unknown_until = 0.0
        self._renewing = trio.Lock()
        self._rounds = 0
        self._confirmed = 0
        self.claim = NO_CLAIM
        """What is known of the log: of the holders before, when it was acquired; then of this one."""
        self.lost: Final = trio.Event()
        """Set when the lease was taken over, or ended."""
        self._ended = ""

    @property
    def epoch(self) -> int:
        """Of this holder; 0 if the lease is not held."""
        return self._mine.epoch if self._mine else 0

    async def acquire(self, *, minimum_epoch: int = 1) -> int:
        """Hold the lease; the new epoch, at least `minimum_epoch`. Waits for a silent holder's duration
        when its process cannot be seen from here. `LeaseHeldError` if the holder lives,
        `UnavailableError` without a majority of the voters that answer and can be written: those that are
        only slow are waited for as `LeaseVotes.look_at_majority` says. `ConflictError` if the map has
        changed."""
        failed: dict[str, DriveError] = {}
        for _ in range(_TRIES):
            seen = await self._others.look(self._patience)
            self._require_map(seen)
            if await self._others.outlive(seen):
                self._environment.failpoints.reached(BEFORE_TAKEOVER)
            epoch = max([minimum_epoch, *(one.epoch + 1 for one in seen.values())])
            failed = await self._take(seen, epoch)
            if self._mine is not None:
                self._environment.failpoints.reached(AFTER_ACQUIRE)
                return epoch
            await trio.sleep(self._environment.chance(0.05, 0.5))
        if len(self._nodes) - len(failed) < self._majority:
            raise self._too_few_take(failed)
        raise TransientError("the drive's lease keeps changing hands: try again")

    async def outlive_all(self) -> None:
        """As `OtherHolders.outlive_all`. Raises as `acquire`; `UnavailableError` if a voter does not say what
        it has."""
        seen = await self._votes.look_at_all(self._patience)
        self._require_map(seen)
        await self._others.outlive_all(seen)

    async def run(self) -> None:
        """Renew until the lease is lost (then `lost` is set) or the task is cancelled. Nodes that are away
        delay the renewal, they do not end it."""
        while not self.lost.is_set():
            await self._until_due()
            try:
                await self.renew()
            except FencedError:
                return
            except (UnavailableError, TransientError) as error:
                log.info("the lease could not be renewed: %s", error)
                await trio.sleep(self._pause)

    async def _until_due(self) -> None:
        """Each commit renews it too, so the end may be later by then. It may also be nearer: the event loop's
        clock stands still while the machine is suspended."""
        while (left := self._valid_until - self._slack - self._clock()) > 0:
            await trio.sleep(min(left, self._slack / 2))

    async def renew(self) -> None:
        """Say on all voters that the holder lives; those that are slow are not waited for. `FencedError` if
        the lease was taken over, `UnavailableError` if too few answer."""
        async with self._renewing:
            await self._round()

    async def _round(self) -> None:
        """Swap this holder's record in anew, until a majority has it or every voter has said something."""
        mine = self._require()
        self._mine = record = replace(
            mine,
            renewals=mine.renewals + 1,
            map=self._map_epoch,
            claim=self.claim,
            seconds=self._seconds,
            until_ns=self._until(),
        )
        self._rounds += 1
        began, started = self._rounds, self._clock()
        votes, failed = await self._votes.renew(record, self._patience, self._is_majority)
        self._judge_lost(votes)
        if not self._is_majority(votes):
            self._raise_too_few(votes, failed)
        if self._mine is record:  # else it was released meanwhile
            self._valid_until = started + self._seconds
            self._confirmed = began

    def _raise_too_few(self, votes: Mapping[str, Vote], failed: Mapping[str, DriveError]) -> None:
        if len(votes) < self._majority:
            raise self._votes.too_few(votes, failed)
        kept = sum(vote is Vote.YES for vote in votes.values())
        raise TransientError(f"only {kept} nodes confirm the lease, {self._majority} are needed")

    def check(self) -> None:
        """`FencedError` if the lease is lost for good; `TransientError` if it ran out and is not yet
        renewed. Asks no node: to be called before work that cannot wait for `ensure`, while `verify` is what
        makes a write count."""
        self._require()
        if self._clock() > self._valid_until:
            raise TransientError(f"the lease was not renewed for {self._seconds:g} s: are the nodes away?")

    async def ensure(self) -> None:
        """Return if the lease holds. One that ran out (the machine was suspended, nodes were away) is renewed
        first, by who needs it now: the next round of `run` may be seconds away. Raises as `renew`."""
        self._require()
        while self._clock() > self._valid_until:
            async with self._renewing:
                if self._clock() > self._valid_until:
                    await self._round()

    async def confirm(self) -> None:
        """`FencedError` if the lease was taken over, as far as that can be known now. One that ran out is
        asked for first. Nodes that do not answer say nothing, and are not asked again by every caller."""
        self._require()
        if self._clock() <= max(self._valid_until, self._unknown_until):
            return
        try:
            await self.ensure()
        except (UnavailableError, TransientError):
            self._unknown_until = self._clock() + self._pause

    async def verify(self, head: Head | None = None) -> None:
        """Return if, at one moment during this call, a majority of the voters took this holder's record; the
        others are not waited for, and who calls meanwhile shares the next round. `head`: a commit that is in
        enough copies under this epoch; a later holder then knows of it. `FencedError` if the lease was taken
        over, `UnavailableError` if too few voters answer: those that are only slow are waited for until the
        lease runs out."""
        mine = self._require()
        if head is not None:
            self.claim = Claim(mine.epoch, head.number, head.hash)
        before = self._rounds
        async with self._renewing:
            if self._confirmed > before:
                self._require()  # a round that began after this call has succeeded
            else:
                await self._round_with_time()

    async def _round_with_time(self) -> None:
        """As `_round`, and once more as long as voters that are only slow could make up a majority and the
        lease has not run out: nobody else can have it until then."""
        while True:
            try:
                await self._round()
            except SlowVotersError:
                if self._clock() + self._pause > self._valid_until:
                    raise
            else:
                return
            await trio.sleep(self._pause)

    async def announce(self, map_epoch: int) -> None:
        """The cluster map has been replaced by one of this epoch: who has an older one can acquire the lease
        no more. Raises as `verify`."""
        self._map_epoch = map_epoch
        await self.verify()

    async def go_over(self, nodes: Mapping[str, Node], seconds: float) -> None:
        """Hold the lease on the voters `nodes` from now on, for `seconds`: those of a map that was announced.
        The acquisition stays the same. That is safe while any majority of the voters before and any of
        these have a node in common (`backend.cluster.cluster_change`): whoever acquires after this sees this
        holder's epoch. `verify` asks these voters then."""
        async with self._renewing:  # a round is of one set of voters
            self._votes.have(nodes)
            self._have(nodes, seconds)

    def _have(self, nodes: Mapping[str, Node], seconds: float) -> None:
        self._nodes = nodes
        self._majority = self._votes.majority
        self._seconds = seconds
        self._slack = _slack_of(seconds)
        self._patience = self._slack if self._is_patient else self._slack / 4
        self._pause = self._slack / 10

    async def claimed(self) -> Claim:
        """`claim`, for a `ReplicatedCommitLog`."""
        await trio.lowlevel.checkpoint()
        return self.claim

    def end(self, reason: str) -> None:
        """Nothing more is written under this lease, for that reason, though nobody has taken it over."""
        self._ended = reason
        self.lost.set()

    async def release(self) -> None:
        """Give the lease back on the nodes that answer. Idempotent; never raises for a node."""
        mine, self._mine = self._mine, None
        if mine is None or (self.lost.is_set() and not self._ended):
            return
        self._environment.failpoints.reached(BEFORE_RELEASE)
        await self._votes.withdraw(mine)

    def _require(self) -> LeaseRecord:
        if self.lost.is_set():
            taken = "the drive's lease was taken over: this mount may not write again"
            raise FencedError(self._ended or taken)
        if self._mine is None:
            raise FencedError("the drive's lease is not held")
        return self._mine

    def _judge_lost(self, votes: Mapping[str, Vote]) -> None:
        """`FencedError` if so many voters have a higher epoch that no majority can be had again, or if there
        is a clone."""
        taken = sum(vote is Vote.TAKEN for vote in votes.values())
        if taken > len(self._nodes) - self._majority or Vote.CLONED in votes.values():
            self.lost.set()
        self._require()

    def _is_majority(self, votes: Mapping[str, Vote]) -> bool:
        return sum(vote is Vote.YES for vote in votes.values()) >= self._majority

    def _require_map(self, seen: Mapping[str, Seen]) -> None:
        newest = max((one.record.map for one in seen.values() if one.record is not None), default=0)
        if newest > self._map_epoch:
            raise ConflictError(
                f"the drive's nodes were changed: there is a cluster map of epoch {newest}, and this one has "
                f"epoch {self._map_epoch}; try again, and if it stays so, DRIVE/drive.toml is old: "
                "fsck.drivefs -y DRIVE, else move it aside: drivefs rebuild-drive-file NODE... DRIVE"
            )

    def _too_few_take(self, failed: Mapping[str, DriveError]) -> UnavailableError:
        reasons = "; ".join(str(error) for _, error in sorted(failed.items()))
        return UnavailableError(
            f"the lease needs {self._majority} of {len(self._nodes)} nodes, and these do not take it: "
            f"{reasons}; mend their disks, or replace them (drivefs node replace)",
            sorted(failed),
        )

    async def _take(self, seen: Mapping[str, Seen], epoch: int) -> dict[str, DriveError]:
        """Try to be the holder of `epoch` (`_mine` then); leaves nothing held if that fails. What went wrong
        with voters."""
        started = self._clock()
        token, claim = self._environment.random_bytes(16).hex(), max(one.claim for one in seen.values())
        record = LeaseRecord(
            drive=self._drive,
            epoch=epoch,
            held=True,
            renewals=0,
            token=token,
            nonce="",
            map=self._map_epoch,
            claim=claim,
            seconds=self._seconds,
            until_ns=self._until(),
            holder=self._holder,
        )
        won, failed = await self._votes.take(seen, record)
        if len(won) < self._majority:
            self._others.give_up(token)
            with trio.CancelScope(shield=True):
                await self._votes.withdraw(record)
            return failed
        self._mine, self.claim = record, claim
        self._valid_until = started + self._seconds
        return failed

    def _until(self) -> int:
        return self._environment.wall_clock() + int(self._seconds * 1e9)

"""The voters of the lease: reading the record of each, and replacing it where it is still the one last seen.

Invariants:
1. A record is only ever swapped, never put: what was read may be late (a cache, a replica), what a swap
   replaces is what the voter had. Every swap carries a nonce of its own, so no two records are equal.
2. One swap is in flight for each voter. One that hangs is not waited for longer than its caller wants: it
   goes on behind, the next one to that voter waits its turn, and others behind that count as not answered.
3. A swap whose outcome is not known counts as none. If it happened, the next one finds a record that this
   process made, and replaces it.
4. A record that is damaged, forged or of another drive counts as none: it is replaced. Where something larger
   than any record is in its place the voter counts as away: a swap would read all of it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from enum import Enum
from typing import Final

import trio

from backend.commits.lease_record import (
    MAX_SIZE,
    NO_CLAIM,
    Claim,
    Holder,
    LeaseRecord,
    decode,
    encode,
    is_sealed,
)
from backend.commits.voter_rounds import Round
from backend.errors import (
    ConflictError,
    CorruptError,
    DriveError,
    FormatError,
    NotFoundError,
    OverdueError,
    TransientError,
    UnavailableError,
)
from backend.nodes import Node, NodeHealth
from backend.system import THIS_MACHINE, Environment, each

KEY: Final = "lease"
_TRIES: Final = 3
_REMEMBERED: Final = 1024
_LONGEST: Final = 6
"""So many times as long as for one of them a majority is waited for: for 30 s mostly, after which the kernel
gives up a command to a disk."""
_PAUSE: Final = 0.1
"""The part of that time between two looks: who hangs answers at once that it does."""

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Seen:
    """One voter's stored bytes (None: nothing), and the record if they are one."""

    stored: bytes | None
    record: LeaseRecord | None

    @property
    def epoch(self) -> int:
        return self.record.epoch if self.record else 0

    @property
    def claim(self) -> Claim:
        return self.record.claim if self.record else NO_CLAIM


class SlowVotersError(UnavailableError):
    """Too few voters have answered yet. Those that did not say why could make up a majority."""


class Vote(Enum):
    """The answer of a voter to a holder that renews."""

    YES = "has this holder's record now"
    TAKEN = "has the record of a later epoch"
    CLONED = "has a record of this very acquisition that this process did not make"


class LeaseVotes:
    """`nodes` are all voters of the drive, also those that are away; `secret` is the drive's lease key.
    `health`: which of them were slow, as of `voter_rounds`; without it all are waited for."""

    def __init__(
        self,
        nodes: Mapping[str, Node],
        drive_id: bytes,
        secret: bytes,
        environment: Environment = THIS_MACHINE,
        health: NodeHealth | None = None,
    ) -> None:
        self._nodes = nodes
        self._health = health or NodeHealth(0.0)
        self.majority = len(nodes) // 2 + 1
        """The number of voters that decide: more than half of all."""
        self._drive = drive_id.hex()
        self._secret = secret
        self._random_bytes = environment.random_bytes
        self._known: dict[str, Seen] = {}
        self._turns = {name: trio.Lock() for name in nodes}
        self._made: dict[str, int] = {}

    @property
    def names(self) -> tuple[str, ...]:
        """Of the voters."""
        return tuple(self._nodes)

    def have(self, nodes: Mapping[str, Node]) -> None:
        """These are the voters from now on. What was made stays known, so that no record of this process is
        taken for a clone's; a call to a voter that is gone ends behind."""
        changed = [name for name, node in nodes.items() if self._nodes.get(name) is not node]
        self._nodes = nodes
        self.majority = len(nodes) // 2 + 1
        for name in changed:
            self._known.pop(name, None)
            self._turns.setdefault(name, trio.Lock())

    async def look(self, seconds: float) -> tuple[dict[str, Seen], dict[str, DriveError]]:
        """The records of the voters, of those that answer in time; and what went wrong with others."""
        seen: dict[str, Seen] = {}

        async def look(node: Node) -> bool:
            seen[node.name] = await self._read(node)
            return True

        asking = Round(self._nodes.values(), len(self._nodes) - self.majority, self._health)
        await asking.ask(look, (DriveError,), seconds)
        return seen, asking.failed

    async def look_at_majority(
        self, seconds: float, waiting: Callable[[str], None] = log.info
    ) -> dict[str, Seen]:
        """As `look`, until a majority has answered; it is asked again as long as those that are only slow
        could make it up, for `_LONGEST` times `seconds` at most. `waiting` is told once for whom. One disk
        that everything lies on may be busy for longer than a single voter is worth waiting for.
        `UnavailableError` if it is no majority."""
        until, said = trio.current_time() + _LONGEST * seconds, False
        while True:
            seen, failed = await self.look(seconds)
            if len(seen) >= self.majority:
                return seen
            error = self.too_few(seen, failed)
            if not isinstance(error, SlowVotersError) or trio.current_time() >= until:
                raise error
            if not said:
                slow = ", ".join(self._slow(seen, failed))
                waiting(f"no answer yet from {slow}; waiting {_LONGEST * seconds:.0f} s at most")
                said = True
            await trio.sleep(_PAUSE * seconds)

    def _slow(self, answered: Collection[str], failed: Mapping[str, DriveError]) -> list[str]:
        """The voters that neither answered nor said why they cannot: to ask again may help."""
        return sorted(
            name
            for name in self._nodes.keys() - answered
            if isinstance(failed.get(name, TransientError()), (TransientError, OverdueError))
        )

    async def look_at_all(self, seconds: float) -> dict[str, Seen]:
        """As `look`; `UnavailableError` if a voter does not answer. One that has something else in a record's
        place has answered."""
        seen, failed = await self.look(seconds)
        made_up = {name for name, error in failed.items() if isinstance(error, CorruptError)}
        if silent := sorted(self._nodes.keys() - seen.keys() - made_up):
            raise UnavailableError(
                f"{', '.join(silent)}: no answer to who holds the drive; nothing was changed, try again",
                silent,
            )
        return seen

    def too_few(self, answered: Collection[str], failed: Mapping[str, DriveError]) -> UnavailableError:
        """The error that says who is away when only these voters `answered`; `SlowVotersError` if that may
        be for now."""
        away = sorted(self._nodes.keys() - answered)
        told = [str(error) for error in failed.values() if isinstance(error, (FormatError, CorruptError))]
        why = f" ({told[0]})" if told else ""
        slow = self._slow(answered, failed)
        hint = f"; no answer came from {', '.join(slow)}: if their disks are only busy, try again"
        needs = f"the lease needs {self.majority} of {len(self._nodes)} nodes"
        kind = UnavailableError if len(answered) + len(slow) < self.majority else SlowVotersError
        return kind(f"{needs}; away: {', '.join(away)}{why}{hint if slow else ''}", away)

    async def wrong(self, name: str) -> tuple[bytes, DriveError] | None:
        """The bytes in the place of a voter's record that are none of this drive's, and the reason. Raises
        what the node raises."""
        try:
            stored = await self._nodes[name].get(KEY, 0, MAX_SIZE + 1)
        except NotFoundError:
            return None
        try:
            decode(stored)
        except (CorruptError, FormatError) as error:
            return stored, error
        is_ours = is_sealed(stored, self._secret)
        return None if is_ours else (stored, CorruptError("its seal does not fit"))

    async def clear(self, name: str, stored: bytes) -> None:
        """Have a record that nobody holds in the place of `stored`, which is `wrong`. What the voter
        raises."""
        if len(stored) > MAX_SIZE:
            # A swap would have to be given all of it; nothing that drivefs writes is so long.
            await self._nodes[name].delete(KEY)
            return
        await self._swap(self._nodes[name], Seen(stored, None), _nobodys(self._drive))

    async def claim(self, seconds: float) -> Claim:
        """The highest claim of those that answer in time: what a reader knows of the log before it looks."""
        seen, _ = await self.look(seconds)
        return max((one.claim for one in seen.values()), default=NO_CLAIM)

    async def take(
        self, seen: Mapping[str, Seen], record: LeaseRecord
    ) -> tuple[set[str], dict[str, DriveError]]:
        """The voters on which `record`, of a new acquisition, has replaced what was seen; and what went wrong
        with others, where it was not that somebody else came first. Who was slow gets it with the next
        renewal, if the others make up a majority."""
        won: set[str] = set()
        failed: dict[str, DriveError] = {}
        self._made.clear()

        async def swap(node: Node) -> None:
            async with self._turns[node.name]:
                try:
                    await self._swap(node, seen[node.name], record)
                except ConflictError:
                    return
                except DriveError as error:
                    self._health.troubled(node.name)
                    failed[node.name] = error
                    return
            won.add(node.name)

        quick = [name for name in seen if not self._health.is_avoided(name)]
        asked = quick if len(quick) >= self.majority else seen
        await each(swap, [self._nodes[name] for name in asked])
        return won, failed

    async def renew(
        self,
        record: LeaseRecord,
        seconds: float,
        enough: Callable[[Mapping[str, Vote]], bool],
    ) -> tuple[dict[str, Vote], dict[str, DriveError]]:
        """Swap in `record`, of the holder of its epoch, wherever none of a later epoch is. What each voter
        says that answers in time, or that answered when it was `enough`; and what went wrong with others."""
        votes: dict[str, Vote] = {}
        failed: dict[str, DriveError] = {}
        said, heard = trio.open_memory_channel[tuple[str, Vote | DriveError]](len(self._nodes))
        for node in self._nodes.values():
            # Behind, as a swap that hangs must neither be given up half-way nor be waited for.
            trio.lowlevel.spawn_system_task(self._cast, node, record, said)
        with trio.move_on_after(seconds):
            while len(votes) + len(failed) < len(self._nodes) and not enough(votes):
                name, answer = await heard.receive()
                if isinstance(answer, Vote):
                    votes[name] = answer
                else:
                    failed[name] = answer
        return votes, failed

    async def withdraw(self, mine: LeaseRecord) -> None:
        """Say on the voters that answer that this acquisition is held no longer. Never raises for a node."""

        async def free(node: Node) -> None:
            async with self._turns[node.name]:
                try:
                    seen = await self._read(node)
                    if self._is_mine(seen, mine):
                        await self._swap(node, seen, replace(seen.record or mine, held=False))
                except DriveError:
                    return  # a node that is away keeps the record; it runs out by itself

        await each(free, self._nodes.values())

    async def _cast(
        self, node: Node, record: LeaseRecord, said: trio.MemorySendChannel[tuple[str, Vote | DriveError]]
    ) -> None:
        try:
            answer: Vote | DriveError = await self._vote(node, record)
        except DriveError as error:
            answer = error
        said.send_nowait((node.name, answer))

    async def _vote(self, node: Node, record: LeaseRecord) -> Vote:
        turn = self._turns[node.name]
        if turn.locked() and turn.statistics().tasks_waiting:
            raise TransientError(f"{node.name}: an earlier call is not answered yet")
        async with turn:
            for _ in range(_TRIES):
                seen = self._known.get(node.name) or await self._read(node)
                if seen.epoch > record.epoch:
                    return Vote.TAKEN
                if self._is_foreign(seen, record):
                    return Vote.CLONED
                try:
                    await self._swap(node, seen, record)
                except ConflictError:
                    continue
                return Vote.YES
        raise TransientError(f"{node.name}: the lease's record keeps changing")

    async def _read(self, node: Node) -> Seen:
        """The voter's record. Raises what the node raises; `CorruptError` if there is something larger than
        any record."""
        try:
            stored = await node.get(KEY, 0, MAX_SIZE + 1)
        except NotFoundError:
            return Seen(None, None)
        if len(stored) > MAX_SIZE:
            raise CorruptError(f"{node.name}: the lease is larger than any record: fsck.drivefs -y mends it")
        try:
            record = decode(stored)
        except CorruptError:
            return Seen(stored, None)
        is_ours = record.drive == self._drive and is_sealed(stored, self._secret)
        return Seen(stored, record if is_ours else None)

    async def _swap(self, node: Node, seen: Seen, record: LeaseRecord) -> None:
        """`ConflictError` if the voter has something else than what was seen there."""
        made = replace(record, nonce=self._random_bytes(16).hex())
        stored = encode(made, self._secret)
        self._remember(made)
        self._known.pop(node.name, None)
        await node.swap(KEY, seen.stored, stored)
        self._known[node.name] = Seen(stored, made)

    def _remember(self, made: LeaseRecord) -> None:
        self._made[made.nonce] = made.renewals
        if len(self._made) > _REMEMBERED:
            del self._made[next(iter(self._made))]

    def _is_mine(self, seen: Seen, mine: LeaseRecord) -> bool:
        record = seen.record
        return record is not None and record.token == mine.token and record.held

    def _is_foreign(self, seen: Seen, mine: LeaseRecord) -> bool:
        """Whether a clone of this process has made it: it is of this acquisition, no older than what this
        process remembers, and not among that."""
        record = seen.record
        if record is None or record.token != mine.token or record.nonce in self._made:
            return False
        return record.renewals >= next(iter(self._made.values()), 0)


def _nobodys(drive: str) -> LeaseRecord:
    """As if the drive had never been held."""
    nobody = Holder("", "", "", 0, 0, "")
    return LeaseRecord(drive, 0, False, 0, "", "", 0, NO_CLAIM, 0.0, 0, nobody)

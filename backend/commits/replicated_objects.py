"""Small objects (commits, roots) in several full copies on nodes chosen by placement.

Invariants:
1. The nodes of a key have one fixed order, its rendezvous order; who was slow lately comes last. Copies go to
   the first nodes that take them: when nodes are away the next ones in order stand in, so losing `copies`-1
   nodes neither blocks a write nor loses what was written. Hence a reader that misses an object in the first
   places looks on all nodes.
2. The first copy is written alone, the others after it: of two writers that see the same nodes, one
   meets the other's copy before it has written anything.
3. A copy with a ballot is replaced only by an atomic swap and only by a higher ballot, so no slow
   writer ever undoes what a later one wrote.
4. A copy whose checksum or tag does not fit counts as damaged: it is treated as absent, and reported. A node
   has no key, so what it made up is never given to anybody, nor written to another node.
5. One node's refusal (a version that is unknown here, something foreign in the object's place) is that node's
   failure only: the next in order stands in.
6. A node decides how long its objects are. Over `_SMALL` they are read one at a time, so that a few that lie
   do not fill memory.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

import trio

from backend.coding import ClusterMap, place
from backend.commits.object_format import OVERHEAD, Copy, frame, is_signed, signed, unframe
from backend.commits.voter_rounds import Round
from backend.errors import (
    ConflictError,
    CorruptError,
    DriveError,
    FormatError,
    NodeError,
    NoSpaceError,
    NotFoundError,
    ReadOnlyError,
    TransientError,
    UnavailableError,
)
from backend.nodes import Node, NodeHealth, all_keys
from backend.system import each

Ranking = Callable[[bytes], Sequence[str]]
"""All node names of the drive in rendezvous order for an object's id."""

MAX_OBJECT: Final = 80 * 1024 * 1024
MAX_STORED: Final = MAX_OBJECT + OVERHEAD
"""Bytes of a copy as it lies on a node."""
_SMALL: Final = 1024 * 1024
_SWAP_TRIES: Final = 8
ROOTS: Final = "roots/"
_NODE_FAILS = (TransientError, NodeError, ReadOnlyError, NoSpaceError)
NOT_TAKEN = (*_NODE_FAILS, FormatError, NotFoundError)


def ranking_of(cluster: ClusterMap, copies: int, *, everyone: bool = False) -> Ranking:
    """The order in which voters keep small objects: first the `copies` that placement chooses (zones
    spread), then the others as stand-ins, at last those that shall take nothing new. With `everyone`, behind
    them the nodes that do not vote: they may have copies from when they did."""
    voting = ClusterMap(cluster.epoch, tuple(node for node in cluster.nodes if node.votes))
    last = [node.name for node in (cluster if everyone else voting).nodes]

    def rank(object_id: bytes) -> list[str]:
        usable = sum(node.weight > 0 for node in voting.nodes)
        chosen = place(voting, object_id, min(copies, usable))
        others = place(voting, object_id, usable)
        return list(dict.fromkeys([*chosen, *others, *(node.name for node in voting.nodes), *last]))

    return rank


@dataclass(frozen=True, slots=True)
class Damage:
    """Why a copy is no good, in words: the error itself would keep what was read in memory. `is_unknown`: it
    is of a format that is not understood here."""

    text: str
    is_unknown: bool


@dataclass(slots=True)
class Copies:
    """The copies of one key, by node name."""

    good: dict[str, Copy] = field(default_factory=dict)
    damaged: dict[str, Damage] = field(default_factory=dict)
    away: set[str] = field(default_factory=set)

    def whose_damage(self) -> str:
        """For people: the nodes whose copies are no good, and why."""
        return "; ".join(f"{name}: {damage.text}" for name, damage in sorted(self.damaged.items()))


@dataclass(slots=True)
class Listing:
    """Which nodes hold which key, and which nodes did not answer."""

    holders: dict[str, set[str]] = field(default_factory=dict)
    away: set[str] = field(default_factory=set)


class ReplicatedObjects:
    """May be called by many tasks at once."""

    def __init__(
        self,
        nodes: Mapping[str, Node],
        ranking: Ranking,
        copies: int,
        drive_id: bytes,
        secret: bytes,
        health: NodeHealth | None = None,
    ) -> None:
        """`nodes` are all voters of the drive, also those that are away, and `ranking` is of them; `copies`
        is how many keep an object (all, if those are fewer); `secret` is the drive's key for objects.
        `health`: which voters were slow, as of `voter_rounds`; without it all are waited for."""
        self._drive_id = drive_id
        self._secret = secret
        self._health = health or NodeHealth(0.0)
        self._large = trio.CapacityLimiter(1)
        self.have(nodes, ranking, copies)

    def have(self, nodes: Mapping[str, Node], ranking: Ranking, copies: int) -> None:
        """These are the voters from now on; as of the constructor. A call that is under way may go by those
        before."""
        self._nodes = nodes
        self._ranking = ranking
        self.copies = min(copies, len(nodes))

    async def put(self, key: str, data: bytes, ballot: int = 0) -> None:
        """Replace `key` on m+1 nodes, except where a copy of a higher ballot is: then `ConflictError`.
        Returns when they are durable, or when at least two are and no further node would take one (the
        next put repairs that). `UnavailableError`, `NoSpaceError` or `ReadOnlyError` if fewer; then some
        nodes may hold the new version. Idempotent."""
        copy = signed(self._secret, self._drive_id, key, ballot, _checked(key, data))
        framed = frame(self._drive_id, key, copy)

        async def write(node: Node) -> None:
            await self._write_ballot(node, key, copy, framed, ballot)

        await self._spread(key, write, least=min(2, self.copies))

    async def create(self, key: str, data: bytes, ballot: int, first_done: Callable[[], None]) -> None:
        """Have `data` on m+1 nodes under `ballot`. A copy of a lower ballot, or a damaged one, is
        replaced; `ConflictError` if a node holds other data of the same or a higher ballot.
        Calls `first_done` after the first copy. Errors as `put`, but fewer than m+1 copies are always
        an error. Idempotent; safe to retry."""
        copy = signed(self._secret, self._drive_id, key, ballot, _checked(key, data))
        framed = frame(self._drive_id, key, copy)

        async def write(node: Node) -> None:
            await self._write_ballot(node, key, copy, framed, ballot - 1)

        await self._spread(key, write, least=self.copies, first_done=first_done)

    async def find(
        self, key: str, accept: Callable[[Copy], bool], report_damaged: Callable[[str], None]
    ) -> Copy:
        """The first good copy in rendezvous order that `accept` takes. `UnavailableError` if none is
        found and nodes are away, `CorruptError` if there are only others, `NotFoundError` if none."""
        seen = False
        away: list[str] = []
        for node in self.nodes_for(key):
            try:
                copy = await self.read(node, key)
            except NotFoundError:
                continue
            except (CorruptError, FormatError):
                seen = True
                report_damaged(node.name)
            except _NODE_FAILS:
                self._health.troubled(node.name)
                away.append(node.name)
            else:
                if accept(copy):
                    return copy
                seen = True
        raise _not_found(key, away, seen)

    async def find_all(self, key: str) -> Copies:
        """The copies of `key` on all nodes; read in parallel."""
        found = Copies()

        async def look(node: Node) -> bool:
            try:
                found.good[node.name] = await self.read(node, key)
            except NotFoundError:
                return True
            except (CorruptError, FormatError) as error:
                found.damaged[node.name] = Damage(str(error), isinstance(error, FormatError))
                return False
            return True

        found.away = await self._ask_all(look)
        return found

    async def get_all(self, key: str) -> list[bytes]:
        """All distinct good versions of `key`, the highest ballot first; empty if there is none.
        `UnavailableError` if none was found and m+1 or more nodes are away, `CorruptError` if all
        copies found are damaged."""
        found = await self.find_all(key)
        if not found.good and len(found.away) >= self.copies:
            raise _not_found(key, sorted(found.away), seen=False)
        if not found.good and found.damaged:
            raise CorruptError(f"{key}: every copy is damaged ({found.whose_damage()})")
        newest_first = sorted(found.good.values(), key=lambda copy: -copy.ballot)
        return list(dict.fromkeys(copy.data for copy in newest_first))

    async def keys(self, prefix: str) -> Listing:
        """The keys that start with the folder `prefix`, and their holders. `UnavailableError` if m+1 or more
        nodes are away: then the list could miss something."""
        listing = await self.list_known(prefix)
        if len(listing.away) >= self.copies:
            raise UnavailableError(
                f"{prefix} cannot be listed: {len(listing.away)} of {len(self._nodes)} nodes are away "
                f"({', '.join(sorted(listing.away))})",
                sorted(listing.away),
            )
        return listing

    async def list_known(self, prefix: str) -> Listing:
        """As `keys`, of the nodes that answer, however few: something may be missing."""
        listing = Listing()

        async def look(node: Node) -> bool:
            for key in await all_keys(node, prefix):
                listing.holders.setdefault(key, set()).add(node.name)
            return True

        listing.away = await self._ask_all(look)
        return listing

    async def restore(self, name: str, key: str, copy: Copy) -> None:
        """Have a copy that was read here on the node of that name, in the place of what is damaged, of
        another version, or of no higher ballot; `ConflictError` where a higher one is. What the node
        raises."""
        framed = frame(self._drive_id, key, copy)
        await self._write_ballot(
            self._nodes[name], key, copy, framed, copy.ballot, (CorruptError, FormatError)
        )

    async def create_on(self, name: str, key: str, data: bytes, ballot: int) -> None:
        """As `create`, on the node of that name alone. What the node raises."""
        copy = signed(self._secret, self._drive_id, key, ballot, _checked(key, data))
        await self._write_ballot(self._nodes[name], key, copy, frame(self._drive_id, key, copy), ballot - 1)

    def order(self, key: str) -> list[str]:
        """The nodes in the order in which they shall have `key`; who was slow lately comes last."""
        return [node.name for node in self.nodes_for(key)]

    async def _ask_all(self, question: Callable[[Node], Awaitable[bool]]) -> set[str]:
        """The nodes that are away. The fewer than `copies` that may be missing decide nothing."""
        asking = Round(self._nodes.values(), self.copies - 1, self._health)
        await asking.ask(question, _NODE_FAILS)
        return asking.away

    def nodes_for(self, key: str) -> list[Node]:
        """The nodes of `order`. Who walks over them goes on with these when the voters become others."""
        names = sorted(self._ranking(key.encode()), key=self._health.is_avoided)
        return [self._nodes[name] for name in names]

    async def read(self, node: Node, key: str) -> Copy:
        """The copy on this node. `CorruptError`, `FormatError`; what the node raises."""
        return self._opened(key, await self._stored(node, key))

    async def _stored(self, node: Node, key: str) -> bytes:
        stored = await node.get(key, 0, _SMALL)
        if len(stored) < _SMALL:
            return stored
        async with self._large:
            return await node.get(key, 0, MAX_STORED + 1)

    def _opened(self, key: str, stored: bytes) -> Copy:
        """`CorruptError`, `FormatError`."""
        copy = unframe(self._drive_id, key, stored)
        if not is_signed(self._secret, self._drive_id, key, copy):
            raise CorruptError(f"{key}: not written by this drive, its tag does not fit")
        return copy

    async def _write_ballot(
        self,
        node: Node,
        key: str,
        copy: Copy,
        framed: bytes,
        highest: int,
        none: tuple[type[DriveError], ...] = (CorruptError,),
    ) -> None:
        """Write the copy; other data is replaced if its ballot is at most `highest`, or if reading it is one
        of the errors `none`."""
        for _ in range(_SWAP_TRIES):
            try:
                await node.create(key, [framed])
            except ConflictError:
                if await self._replace(node, key, copy, framed, highest, none):
                    return
            else:
                return
        raise TransientError(f"{node.name}: {key} keeps changing")

    async def _replace(
        self,
        node: Node,
        key: str,
        copy: Copy,
        framed: bytes,
        highest: int,
        none: tuple[type[DriveError], ...],
    ) -> bool:
        """False if the copy there changed meanwhile."""
        try:
            stored = await self._stored(node, key)
        except NotFoundError:
            return False
        if len(stored) > MAX_STORED:
            # A swap would need all of it. Deleting it is no way: by then another writer's copy may be there.
            raise NodeError(f"{node.name}: {key} is larger than any object can be", node.name)
        there = self._opened_or_none(key, stored, none)
        if there is not None and there.data == copy.data and there.ballot > copy.ballot:
            return True
        if there is not None and there.data != copy.data and there.ballot > highest:
            raise ConflictError(f"{node.name}: {key} is another's, of epoch {there.ballot}")
        try:
            # Also where the same bytes are there: an earlier try may have failed before they were durable.
            await node.swap(key, stored, framed)
        except ConflictError:
            return False
        return True

    def _opened_or_none(self, key: str, stored: bytes, none: tuple[type[DriveError], ...]) -> Copy | None:
        try:
            return self._opened(key, stored)
        except none:
            return None

    async def _spread(
        self,
        key: str,
        write: Callable[[Node], Awaitable[None]],
        least: int,
        first_done: Callable[[], None] = lambda: None,
    ) -> None:
        rest = self.nodes_for(key)
        done = 0
        failed: dict[str, DriveError] = {}
        while done < self.copies and rest:
            width = self.copies - done if done else 1
            batch, rest = rest[:width], rest[width:]
            failures = await _write_batch(write, batch)
            for name in failures:
                self._health.troubled(name)
            failed |= failures
            if not done and len(failures) < len(batch):
                first_done()
            done += len(batch) - len(failures)
        if done < least:
            raise _too_few(key, done, least, failed)


async def _write_batch(
    write: Callable[[Node], Awaitable[None]], batch: Sequence[Node]
) -> dict[str, DriveError]:
    failures: dict[str, DriveError] = {}

    async def attempt(node: Node) -> None:
        try:
            await write(node)
        except NOT_TAKEN as error:
            failures[node.name] = error.with_traceback(None)  # whose frames hold what was read

    await each(attempt, batch)
    return failures


def _checked(key: str, data: bytes) -> bytes:
    if len(data) > MAX_OBJECT:
        raise FormatError(f"{key}: {len(data)} bytes, at most {MAX_OBJECT} are stored as one object")
    return data


def _too_few(key: str, done: int, least: int, failed: Mapping[str, DriveError]) -> DriveError:
    said = "; ".join(f"{name}: {error}" for name, error in sorted(failed.items()))
    message = f"{key} is stored on {done} nodes, {least} are needed ({said})"
    for kind in (NoSpaceError, ReadOnlyError):
        if failed and all(isinstance(error, kind) for error in failed.values()):
            return kind(message)
    return UnavailableError(message, sorted(failed))


def _not_found(key: str, away: Sequence[str], seen: bool) -> DriveError:
    if away:
        return UnavailableError(f"{key} is on none of the nodes that answer; away: {', '.join(away)}", away)
    if seen:
        return CorruptError(f"{key}: no copy is good")
    return NotFoundError(f"{key} is on no node")

"""Checking the small replicated objects: every commit and root in m+1 good copies.

Invariants:
1. A copy is only ever written from a good copy that was read just now and that the caller accepts, with the
   ballot that it has: mending never changes what the log says.
2. An object is removed only if the drive has none of that name and no copy's tag fits: a node made it up.
3. Only the holder of the drive's lease mends; anybody may look. A holder that lost the lease unawares
   replaces nothing of a later holder's: its writes give way to a higher ballot.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from functools import partial

from backend.commits import Copies, Copy, LeaseVotes, Ranking, ReplicatedObjects
from backend.errors import DriveError, FormatError
from backend.findings import Findings, State
from backend.nodes import Node

Accept = Callable[[Copy], bool]


class ObjectCheck:
    """`objects` reads the copies, `nodes` are written. With `mend` what is missing or wrong is written."""

    def __init__(
        self,
        objects: ReplicatedObjects,
        nodes: Mapping[str, Node],
        ranking: Ranking,
        findings: Findings,
        *,
        mend: bool,
    ) -> None:
        self._objects = objects
        self._nodes = nodes
        self._ranking = ranking
        self._findings = findings
        self._mend = mend

    async def check(self, key: str, accept: Accept) -> None:
        """One object: of the copies that `accept` takes, the one with the highest ballot is right, and
        m+1 nodes must have it."""
        found = await self._objects.find_all(key)
        accepted = [copy for copy in found.good.values() if accept(copy)]
        if not accepted:
            self._findings.add(*_why_none(key, found, self._objects.copies))
            return
        right = max(accepted, key=lambda copy: copy.ballot)
        holders = {name for name, copy in found.good.items() if copy.data == right.data}
        targets = self._targets(key, found, holders)
        if found.damaged:
            where = ", ".join(sorted(found.damaged))
            await self._put(key, right, targets, f"{key} is damaged on {where}")
        elif targets:
            wanted = self._ranking(key.encode())[: self._objects.copies]
            where = ", ".join(name for name in wanted if name not in holders)
            what = f"{key} is on {len(holders)} nodes instead of {self._objects.copies}, not on {where}"
            await self._put(key, right, targets, what)

    async def check_strays(self, folder: str, belongs: Callable[[str], bool]) -> None:
        """Judge what nodes list in `folder` and does not belong there: without an authentic copy, and on m
        nodes at most, it is theirs, and is removed."""
        for key in sorted((await self._objects.keys(folder)).holders):
            if belongs(key):
                continue
            found = await self._objects.find_all(key)
            if not found.good and 0 < len(found.damaged) < self._objects.copies:
                await self._remove_stray(key, found)

    async def _remove_stray(self, key: str, found: Copies) -> None:
        for name in sorted(found.damaged):
            delete = partial(self._nodes[name].delete, key)
            await self._tell_done(f"{name}: {key} is nothing of this drive", delete)

    async def _tell_done(self, what: str, mend: Callable[[], Awaitable[None]]) -> None:
        """Mend it, if that is wanted, and tell."""
        try:
            if self._mend:
                await mend()
            self._findings.add("mended" if self._mend else "left", what)
        except DriveError as error:
            self._findings.add("left", f"{what}; {error}")

    async def check_lease(self, votes: LeaseVotes) -> None:
        """Lease records that are damaged or made up go, so that their nodes count again: whoever acquires the
        lease writes new ones, so this comes before that. Records of another format stay, unless they are on
        so few nodes that no drivefs can hold the lease by them."""
        unknown: dict[str, tuple[bytes, DriveError]] = {}
        for name in votes.names:
            try:
                wrong = await votes.wrong(name)
            except DriveError:
                continue  # the node is away, which is told elsewhere
            if wrong is not None and isinstance(wrong[1], FormatError):
                unknown[name] = wrong
            elif wrong is not None:
                await self._clear_lease(votes, name, *wrong)
        for name, (stored, error) in unknown.items():
            if len(unknown) <= len(votes.names) // 2:
                await self._clear_lease(votes, name, stored, error)
            else:
                self._findings.add("left", f"{name}: {error}")

    async def _clear_lease(self, votes: LeaseVotes, name: str, stored: bytes, error: DriveError) -> None:
        clear = partial(votes.clear, name, stored)
        await self._tell_done(f"{name}: the lease is damaged: {error}", clear)

    async def delete(self, key: str) -> None:
        """Take an object away everywhere. What a node raises."""
        for node in self._nodes.values():
            await node.delete(key)

    def _targets(self, key: str, found: Copies, holders: set[str]) -> list[str]:
        """The nodes to write to: over damage, then the first nodes in order until there are enough."""
        targets = sorted(found.damaged)
        for name in self._ranking(key.encode()):
            if len(holders) + len(targets) >= self._objects.copies:
                break
            if name not in holders and name not in targets and name not in found.away:
                targets.append(name)
        return targets

    async def _put(self, key: str, right: Copy, targets: list[str], what: str) -> None:
        if not self._mend:
            self._findings.add("left", what)
            return
        failed = []
        for name in targets:
            try:
                await self._objects.restore(name, key, right)
            except DriveError as error:
                failed.append(str(error))
        self._findings.add("left" if failed else "mended", "; ".join([what, *failed]))


def _why_none(key: str, found: Copies, copies: int) -> tuple[State, str]:
    if len(found.away) >= copies:
        return "left", f"{key} cannot be looked for: away are {', '.join(sorted(found.away))}"
    if found.damaged or found.good:
        return "lost", f"{key}: no copy is good"
    return "lost", f"{key} is on no node"

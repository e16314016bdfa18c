"""Checking the small replicated objects: every commit and root in m+1 good copies.

Invariants:
1. A copy is only ever written from a good copy that was read just now and that the caller accepts, with the
   ballot that it has: mending never changes what the log says.
2. What is removed is in a place where the drive has nothing, and has no copy whose tag fits: it is made up.
3. Only for who holds the drive's lease, or looks without mending: nobody else replaces copies meanwhile.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from backend.commits import KEY as LEASE
from backend.commits import MAX_SIZE, Copies, Copy, Ranking, ReplicatedObjects, decode, is_sealed
from backend.errors import CorruptError, DriveError, FormatError
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
            await self._put(
                key, right, targets, f"{key} is on {len(holders)} nodes instead of {self._objects.copies}"
            )

    async def check_strays(self, folder: str, belongs: Callable[[str], bool]) -> None:
        """What nodes list in `folder` and does not belong there: without an authentic copy, and on m nodes at
        most, it is theirs, and is removed."""
        for key in sorted((await self._objects.keys(folder)).holders):
            if belongs(key):
                continue
            found = await self._objects.find_all(key)
            if not found.good and 0 < len(found.damaged) < self._objects.copies:
                await self._remove_stray(key, found)

    async def _remove_stray(self, key: str, found: Copies) -> None:
        for name in sorted(found.damaged):
            await self._tell_done(f"{name}: {key} is nothing of this drive", self._nodes[name], key)

    async def _tell_done(self, what: str, node: Node, key: str) -> None:
        """Remove the object from the node, and tell."""
        try:
            if self._mend:
                await node.delete(key)
            self._findings.add("mended" if self._mend else "left", what)
        except DriveError as error:
            self._findings.add("left", f"{what}; {error}")

    async def check_lease(self, secret: bytes) -> None:
        """Lease records that are damaged or made up go, so that their nodes count again: whoever acquires the
        lease writes new ones, so this comes before that. Records of another format stay, unless they are on
        so few nodes that no drivefs can hold the lease by them."""
        unknown: dict[str, DriveError] = {}
        for name, node in self._nodes.items():
            try:
                if not is_sealed(decode(await node.get(LEASE, 0, MAX_SIZE + 1)), secret):
                    raise CorruptError("its seal does not fit")
            except FormatError as error:
                unknown[name] = error
            except CorruptError as error:
                await self._tell_done(f"{name}: the lease is damaged: {error}", node, LEASE)
            except DriveError:
                continue  # not there, which is no fault; or the node is away, which is told elsewhere
        for name, what in unknown.items():
            if len(unknown) <= len(self._nodes) // 2:
                await self._tell_done(f"{name}: the lease is damaged: {what}", self._nodes[name], LEASE)
            else:
                self._findings.add("left", f"{name}: {what}")

    async def delete(self, key: str) -> None:
        """Take an object away everywhere. What a node raises."""
        for node in self._nodes.values():
            await node.delete(key)

    def _targets(self, key: str, found: Copies, holders: set[str]) -> list[str]:
        """Where to write: over damage, then on the first nodes in order until there are enough."""
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
                await self._objects.write_as_it_is(name, key, right)
            except DriveError as error:
                failed.append(str(error))
        self._findings.add("left" if failed else "mended", "; ".join([what, *failed]))


def _why_none(key: str, found: Copies, copies: int) -> tuple[State, str]:
    if len(found.away) >= copies:
        return "left", f"{key} cannot be looked for: away are {', '.join(sorted(found.away))}"
    if found.damaged or found.good:
        return "lost", f"{key}: no copy is good"
    return "lost", f"{key} is on no node"

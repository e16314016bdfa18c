"""Checking the small replicated objects: every commit and root in m+1 good copies.

Invariants:
1. A copy is only ever written from a good copy that was read just now and that the caller accepts, with the
   ballot that it has: mending never changes what the log says.
2. Only for who holds the drive's lease, or looks without mending: nobody else replaces copies meanwhile.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from backend.errors import CorruptError, DriveError, FormatError
from backend.findings import Findings, State
from backend.lease import KEY as LEASE
from backend.lease_record import MAX_SIZE, decode
from backend.node import Node
from backend.object_format import Copy, frame
from backend.replicated_objects import Copies, Ranking, ReplicatedObjects

Accept = Callable[[Copy], bool]


class ObjectCheck:
    """`objects` reads the copies, `nodes` are written. With `mend` what is missing or wrong is written."""

    def __init__(
        self,
        objects: ReplicatedObjects,
        nodes: Mapping[str, Node],
        ranking: Ranking,
        drive_id: bytes,
        findings: Findings,
        *,
        mend: bool,
    ) -> None:
        self._objects = objects
        self._nodes = nodes
        self._ranking = ranking
        self._drive_id = drive_id
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

    async def check_lease(self) -> None:
        """Damaged lease records: whoever acquires the lease replaces them, so this comes before that."""
        for name, node in self._nodes.items():
            try:
                decode(await node.get(LEASE, 0, MAX_SIZE + 1))
            except (CorruptError, FormatError) as error:
                self._findings.add(
                    "mended" if self._mend else "left", f"{name}: the lease is damaged: {error}"
                )
            except DriveError:
                continue  # not there, which is no fault; or the node is away, which is told elsewhere

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
        framed = frame(self._drive_id, key, right)
        failed = []
        for name in targets:
            try:
                await self._nodes[name].put(key, [framed])
            except DriveError as error:
                failed.append(str(error))
        self._findings.add("left" if failed else "mended", "; ".join([what, *failed]))


def _why_none(key: str, found: Copies, copies: int) -> tuple[State, str]:
    if len(found.away) >= copies:
        return "left", f"{key} cannot be looked for: away are {', '.join(sorted(found.away))}"
    if found.damaged or found.good:
        return "lost", f"{key}: no copy is good"
    return "lost", f"{key} is on no node"

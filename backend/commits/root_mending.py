"""The mending of a root that was found damaged or in too few copies.

Invariants:
1. Of the copies that are read the one of the highest ballot is right. If two of that ballot differ, nothing
   says which is newer: nothing is written, and the next put decides.
2. It is written over what was read to be damaged, and to as many more nodes as are lacking. Who is away may
   have it. A copy of an unknown format stays.
"""

from __future__ import annotations

from backend.commits.object_format import Copy
from backend.commits.replicated_objects import Copies, ReplicatedObjects
from backend.errors import DriveError


async def mend_root(objects: ReplicatedObjects, key: str) -> int:
    """Mend it; the number of copies that were written. For who holds the lease, while nobody puts this root.
    Raises the first error of a node, after the others were tried."""
    found = await objects.find_all(key)
    newest = _newest(found)
    if newest is None:
        return 0
    have = {name for name, copy in found.good.items() if copy == newest}
    before = len(have)
    failures: list[DriveError] = []
    for name in _lacking(objects, key, found, have):
        if name in found.damaged or len(have) + len(found.away) < objects.copies:
            try:
                await objects.restore(name, key, newest)
                have.add(name)
            except DriveError as error:
                failures.append(error.with_traceback(None))  # whose frames hold what was read
    if failures:
        raise failures[0]
    return len(have) - before


def _newest(found: Copies) -> Copy | None:
    """None: there is none, or there are two."""
    highest = max((copy.ballot for copy in found.good.values()), default=0)
    newest = {copy for copy in found.good.values() if copy.ballot == highest}
    return newest.pop() if len(newest) == 1 else None


def _lacking(objects: ReplicatedObjects, key: str, found: Copies, have: set[str]) -> list[str]:
    """Nodes that were read not to have it, first those with a damaged copy."""
    unknown = {name for name, damage in found.damaged.items() if damage.is_unknown}
    names = [name for name in objects.order(key) if name not in have | found.away | unknown]
    return sorted(names, key=lambda name: name not in found.damaged)

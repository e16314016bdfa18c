"""The mending of commits that were found damaged or in too few copies.

Invariants:
1. A list decides nothing: a node that lists nothing costs reads. A commit is written only if too few nodes
   have it when they are read, and only to nodes that were read not to have it. Who is away may have it.
2. Only commits of the chain are written. Where the chain ends at a lost commit, those before it are left
   out, and that is said once; the others are mended, and also those that are found later.
3. One commit at a time, each write within a `passing` of its own; after each a rest as long as the work took.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from typing import Final

import trio

from backend.commits.commit_search import commit_key
from backend.commits.commits_to_mend import CommitsToMend
from backend.commits.replicated_objects import NOT_TAKEN, Copies, ReplicatedObjects
from backend.errors import CorruptError, DriveError, FormatError, UnavailableError

_LONGEST_REST: Final = 1.0
_LOG = logging.getLogger(__name__)

Passing = Callable[[], AbstractAsyncContextManager[None]]


class CommitMending:
    """`linked` gives the content of a commit of the chain, which it verifies back to there; `first` is the
    oldest commit to which it is verified. One caller."""

    def __init__(
        self,
        objects: ReplicatedObjects,
        to_mend: CommitsToMend,
        linked: Callable[[int], Awaitable[bytes]],
        first: Callable[[], int],
    ) -> None:
        self._objects = objects
        self._to_mend = to_mend
        self._linked = linked
        self._first = first
        self._said: set[str] = set()

    async def run(self, top: int, ballot: int, passing: Passing) -> int:
        """Put those in order that are noted, of the commits up to `top`; how many were written. The first
        error that may pass, after the others were tried: what failed stays noted."""
        failures: list[DriveError] = []
        written = 0
        for number in self._to_mend.newest_first():
            try:
                written += 0 < number <= top and await self._mend_one(number, ballot, passing)
                self._to_mend.done(number)
            except (CorruptError, FormatError) as error:
                self._leave_out(number, error)
            except DriveError as error:
                failures.append(error)
            else:
                continue
            if number < self._first():
                break  # none before it can be reached
        if failures:
            raise failures[0]
        return written

    async def _mend_one(self, number: int, ballot: int, passing: Passing) -> bool:
        """Whether it was written."""
        key = commit_key(number)
        begun = trio.current_time()
        is_written = False
        if not self._is_in_order(await self._objects.find_all(key)):
            data = await self._linked(number)
            async with passing():
                is_written = await self._complete(key, data, ballot)
        await trio.sleep(min(trio.current_time() - begun, _LONGEST_REST))
        return is_written

    def _is_in_order(self, found: Copies) -> bool:
        """Whether enough nodes have a copy, all the same, and none a damaged one."""
        same = len({copy.data for copy in found.good.values()}) == 1
        return same and not found.damaged and len(found.good) >= self._objects.copies

    async def _complete(self, key: str, data: bytes, ballot: int) -> bool:
        """Write it where something else is, and to as many more nodes as are lacking; whether any was."""
        found = await self._objects.find_all(key)
        have = {name for name, copy in found.good.items() if copy.data == data}
        before = len(have)
        failed: dict[str, DriveError] = {}
        for name in self._lacking(key, found, have):
            is_other = name in found.good or name in found.damaged
            if is_other or len(have) + len(found.away) < self._objects.copies:
                try:
                    await self._objects.create_on(name, key, data, ballot)
                    have.add(name)
                except NOT_TAKEN as error:
                    failed[name] = error.with_traceback(None)  # whose frames hold what was read
        if len(have) < self._objects.copies:
            raise _in_too_few(key, len(have), found, failed)
        return len(have) > before

    def _lacking(self, key: str, found: Copies, have: set[str]) -> list[str]:
        """Nodes that were read not to have it: first those with something else, then those with nothing. A
        copy of an unknown format stays."""
        unknown = {name for name, damage in found.damaged.items() if damage.is_unknown}
        names = [name for name in self._objects.order(key) if name not in have | found.away | unknown]
        others = found.good.keys() | found.damaged.keys()
        return sorted(names, key=lambda name: name not in others)

    def _leave_out(self, number: int, error: DriveError) -> None:
        """Forget a lost commit, or one before a lost one, and then all before it."""
        for other in self._to_mend.newest_first():
            if other == number or other < number < self._first():
                self._to_mend.done(other)
        if str(error) not in self._said:
            self._said.add(str(error))
            _LOG.error("commits that are lost, or before a lost one, cannot be mended: %s", error)


def _in_too_few(key: str, copies: int, found: Copies, failed: dict[str, DriveError]) -> UnavailableError:
    names = sorted(found.away | failed.keys())
    reasons = [f"{name}: {failed.get(name, 'away')}" for name in names]
    return UnavailableError(f"{key} is known to be on {copies} nodes only ({'; '.join(reasons)})", names)

"""Questions that are put to all voters at once.

Invariants:
1. Who was slow is remembered, for the lease and the log alike: a voter that hangs costs who opens a drive one
   round of patience, not one for each round.
2. Who is remembered is asked all the same, and what it says before the others have answered counts. It is not
   waited for once the rest decides nothing: then it counts as away.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Collection
from typing import Final

import trio

from backend.errors import DriveError
from backend.nodes import Node, NodeHealth

REMEMBERED: Final = 60.0
"""For so many seconds who was slow is not waited for: opening a drive takes less."""
_SLOW: Final = 1.0
"""Who answers so many seconds after enough others did was slow."""


class Round:
    """One question to `voters`, of which `spare` may be silent. `health` outlives it; one that remembers
    nothing has everybody waited for."""

    def __init__(self, voters: Collection[Node], spare: int, health: NodeHealth) -> None:
        self._voters = voters
        self._spare = spare
        self._health = health
        self._open = {voter.name for voter in voters}
        self._useless = 0
        self._enough_since: float | None = None
        self.failed: dict[str, DriveError] = {}

    @property
    def away(self) -> set[str]:
        """The voters that failed or were not waited for."""
        return self._open | self.failed.keys()

    async def ask(
        self,
        question: Callable[[Node], Awaitable[bool]],
        fails: tuple[type[DriveError], ...],
        seconds: float = math.inf,
    ) -> None:
        """Return when all have answered that are waited for, after so many seconds at most. `question` says
        whether the answer is of use: else the voter is among the `spare`. Its errors of the kinds `fails` are
        no answer; of others the first is raised, when all have ended."""
        errors: list[Exception] = []
        with trio.move_on_after(seconds) as waiting:

            async def put(voter: Node) -> None:
                try:
                    is_useful = await question(voter)
                    self._useless += not is_useful
                except fails as error:
                    self.failed[voter.name] = error.with_traceback(None)  # whose frames hold what was read
                except Exception as error:
                    errors.append(error)
                self._note(voter.name)
                if self._enough_since is not None and all(map(self._health.is_avoided, self._open)):
                    waiting.cancel()

            async with trio.open_nursery() as nursery:
                for voter in self._voters:
                    nursery.start_soon(put, voter)
        self._note_open()
        if errors:
            raise errors[0]

    def _note(self, name: str) -> None:
        """This voter's call has ended."""
        self._open.discard(name)
        now = trio.current_time()
        since = now if self._enough_since is None else self._enough_since
        if name in self.failed or now - since > _SLOW:
            self._health.troubled(name)
        else:
            self._health.answered(name)
        if self._enough_since is None and len(self.away) + self._useless <= self._spare:
            self._enough_since = now

    def _note_open(self) -> None:
        """Note who was slow in this round. Who was slow before, and not waited for, is given another
        chance."""
        for name in self._open:
            if not self._health.is_avoided(name):
                self._health.troubled(name)

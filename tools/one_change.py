"""One change at a time that a mount makes in the background when it is asked to, and what is said of it."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Final

import trio

from backend.errors import ConflictError, DriveError, sole
from backend.health import NodeChange
from tools.errors import ToolError

GOES_ON: Final = "stopped; the same command goes on with it"

log = logging.getLogger(__name__)


class OneChange:
    """The part of `cache.health.NodeChanging` that is the same for all changes. `why_stopped` says what has
    become of one that was stopped."""

    def __init__(self, why_stopped: Callable[[], Awaitable[str]]) -> None:
        self.told = Told()
        self._why_stopped = why_stopped
        self._work: Callable[[], Awaitable[None]] | None = None
        self._asked = trio.Event()
        self._ended = trio.Event()
        self._scope = trio.CancelScope()

    async def run(self) -> None:
        """Make the changes that are asked for, until cancelled."""
        while True:
            await self._asked.wait()
            self._asked = trio.Event()
            assert self._work is not None
            with self._scope:
                await self._do(self._work)
            if self._scope.cancelled_caught:
                self.told.end(await self._why_stopped())
            self._ended.set()

    def _require_none(self) -> None:
        """`ConflictError` if a change is under way."""
        if self.told.change is not None and self.told.change.running:
            raise ConflictError(
                f"a change of the nodes is under way ({self.told.change.verb}): drivefs status says how far "
                "it is, drivefs node stop ends it"
            )

    def begin(self, verb: str, work: Callable[[], Awaitable[None]]) -> None:
        """Have `work` done by `run`. `ConflictError`."""
        self._require_none()
        self._work = work
        self._scope, self._ended = trio.CancelScope(), trio.Event()
        self.told.begin(verb)
        self._asked.set()

    def stop(self) -> None:
        """See `cache.health.NodeChanging`."""
        self._scope.cancel()

    async def ended(self) -> NodeChange | None:
        """See `cache.health.NodeChanging`."""
        if self.told.change is not None:
            await self._ended.wait()
        return self.told.change

    async def _do(self, work: Callable[[], Awaitable[None]]) -> None:
        try:
            await work()
        except* (DriveError, ToolError, OSError) as group:
            error = sole(group)
            log.info("the nodes were not changed as asked: %s", error)
            self.told.end(str(error))
        else:
            self.told.end("")


class Told:
    """See `tools.node_changes.Listener`: it keeps what is told, for those who ask."""

    def __init__(self) -> None:
        self.change: NodeChange | None = None

    def begin(self, verb: str) -> None:
        """A change begins."""
        self.change = NodeChange(running=True, verb=verb)

    def end(self, problem: str) -> None:
        """It has ended, well if there is no problem."""
        self._note(running=False, step="", done=0, total=0, problem=problem)

    def say(self, line: str) -> None:
        log.info("%s", line)
        self._add(line)

    def warn(self, line: str) -> None:
        log.warning("%s", line)
        self._add(f"warning: {line}")

    def step(self, what: str) -> None:
        self._note(step=what, done=0, total=0)

    def update(self, done: int, total: int) -> None:
        self._note(done=done, total=total)

    def clear(self) -> None:
        self._note(step="", done=0, total=0)

    def _add(self, line: str) -> None:
        assert self.change is not None
        self._note(said=(*self.change.said, line))

    def _note(self, **news: object) -> None:
        assert self.change is not None
        self.change = replace(self.change, **news)  # type: ignore[arg-type]  # each by its name

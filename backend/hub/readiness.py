"""Whether this process should be sent requests: the database and enough nodes answer, and it is not ending.

Nodes are enough if a pack can be read from them. With fewer than write quorum, requests that store something
are told to come again, and all others are served: a balancer that took the process away would end those too.

The database and the nodes are asked in the background. So an answer costs nothing, however often a balancer
asks. The database is asked by a connection of its own: where requests have all others, the process is busy,
and to take it away would make the next one so.
asyncio's thread.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Final

import anyio
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from backend.coding import Profile, ask_status
from backend.errors import TransientError
from backend.hub.database import Database
from backend.nodes import Node

PERIOD: Final = 2.0
"""Seconds from one look to the next."""
_PATIENCE: Final = 3.0

log = logging.getLogger(__name__)


class Readiness:
    """See the module. Before the first look it is not ready."""

    def __init__(self, database: Database, nodes: Mapping[str, Node], profile: Profile) -> None:
        self._database = database
        self._nodes = nodes
        self._profile = profile
        self._faults: tuple[str, ...] = ("nothing was looked at yet",)
        self._is_ending = False
        self.away: frozenset[str] = frozenset()
        """The names of nodes that did not answer the last time."""

    @property
    def faults(self) -> tuple[str, ...]:
        """The reasons against it; none: it is ready."""
        return ("this process is ending",) if self._is_ending else self._faults

    @property
    def is_ending(self) -> bool:
        """Whether `end` was called."""
        return self._is_ending

    def end(self) -> None:
        """It is not ready from now on."""
        self._is_ending = True

    async def run(self) -> None:
        """Look now and then, for ever."""
        while True:
            await self.look()
            await anyio.sleep(PERIOD)

    async def look(self) -> None:
        """Ask the database and all nodes; a change of the answer is logged."""
        faults = [*await self._of_database(), *await self._of_nodes()]
        if tuple(faults) != self._faults:
            log.info("ready" if not faults else "not ready: %s", *(["; ".join(faults)] if faults else []))
        self._faults = tuple(faults)

    async def _of_database(self) -> list[str]:
        try:
            with anyio.fail_after(_PATIENCE):
                await self._database.ask()
        except (TransientError, TimeoutError):
            return ["the database does not answer"]
        return []

    async def _of_nodes(self) -> list[str]:
        found = await ask_status(self._nodes.values())
        self.away = frozenset(name for name, status in found.items() if status.state != "ok")
        answering = len(found) - len(self.away)
        if answering >= self._profile.k:
            return []
        return [f"{answering} nodes answer, and it takes {self._profile.k} to read something"]

    def routes(self) -> list[Route]:
        """`/healthz`: the process lives. `/ready`: 200, or 503 and why."""
        return [Route("/healthz", _healthy), Route("/ready", self._ready)]

    async def _ready(self, _request: Request) -> Response:
        if not self.faults:
            return PlainTextResponse("ready\n")
        return JSONResponse({"faults": self.faults}, 503, headers={"Retry-After": "1"})


async def _healthy(_request: Request) -> Response:
    return PlainTextResponse("ok\n")

"""Whether the hub's database is the one that was served last: nodes have a mark of it (`database_mark`).

Invariants:
1. A mark is counted on in the database before any node has it. Only a database that lost something is behind
   a node.
2. A mark counts that a majority of the nodes has taken. Any half of the nodes has one of these.
3. A database that was made anew from a dump is another one, however new the dump: it is told at once.
   One that was put back with its server (a base backup, a standby that was behind) is told by the number,
   which is counted on every `PERIOD` seconds: it may lack what came after the newest mark that it has.
asyncio's thread; any number of processes at once.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import Final

import anyio

from backend.errors import (
    CorruptError,
    DriveError,
    FormatError,
    NotFoundError,
    RollbackError,
    UnavailableError,
)
from backend.hub import database_mark
from backend.hub.database import Database
from backend.hub.database_mark import DatabaseMark
from backend.nodes import Node
from backend.system import plain_task_group

PERIOD: Final = 60.0
"""Seconds between two marks. Each costs a small object on every node."""
_PATIENCE: Final = 10.0
"""Seconds for the nodes' answers."""
_MARK: Final = (
    "SELECT number, (SELECT system_identifier FROM pg_control_system()),"
    " (SELECT oid::bigint FROM pg_database WHERE datname = current_database()) FROM database_mark"
)
_COUNT: Final = (
    "UPDATE database_mark SET number = greatest(number, %s) + 1, changed = clock_timestamp()"
    " WHERE changed <= clock_timestamp() - make_interval(secs => %s) OR changed > clock_timestamp()"
)
"""A clock that was ahead, or is another server's now, delays no mark."""

log = logging.getLogger(__name__)


class DatabaseAge:
    """See the module. `hub`: its id; `pack_key`: its secret."""

    def __init__(
        self,
        database: Database,
        nodes: Mapping[str, Node],
        hub: bytes,
        pack_key: bytes,
    ) -> None:
        self._database = database
        self._nodes = nodes
        self._hub = hub
        self._secret = database_mark.mark_secret(pack_key)

    async def require_newest(self) -> None:
        """`RollbackError`: the hub was served from a newer database, or from another. `UnavailableError`:
        fewer nodes answer than can tell; `TransientError`: the database does not answer."""
        newest = await self._newest()
        if newest is None:
            return
        mine = await self._mine()  # after the nodes, so that it is not behind them
        if newest.number > mine.number or not newest.is_of(mine):
            raise RollbackError(
                "the database is not the one that this hub was served from last: it was restored, or is "
                "another. End all processes of the hub, then drivefs-hub check --after-restore brings back "
                "what the nodes have and it has not; until then nothing is served"
            )

    async def mark(self, every: float = 0.0) -> None:
        """Count on, and tell the nodes, if it was not done in so many seconds. Errors as above: then fewer
        than a majority may have the mark, and the next one is as good."""
        await self._count(0, every)

    async def begin(self) -> None:
        """To be called before the hub is served; errors as of `require_newest`. Nodes that are full, or away,
        take no mark and do not hinder: devices read there, and delete, which gives room again."""
        await self.require_newest()
        await self._mark_or_warn(0.0)

    async def accept(self) -> None:
        """This database is the one to be served from now on, whatever the nodes have. Errors as above."""
        newest = await self._newest()
        await self._count(newest.number if newest else 0, 0.0)

    async def run(self) -> None:
        """Mark now and then, for ever; `RollbackError` as soon as the database is not the newest."""
        while True:
            try:
                await self.require_newest()
            except RollbackError:
                raise
            except DriveError as error:
                log.warning("whether the database is the newest is asked later: %s", error)
            else:
                await self._mark_or_warn(PERIOD)
            await anyio.sleep(PERIOD)

    async def _mark_or_warn(self, every: float) -> None:
        try:
            await self.mark(every)
        except DriveError as error:
            log.warning("the mark of the database is written later: %s", error)

    async def _count(self, least: int, every: float) -> None:
        if await self._database.execute(_COUNT, (least, every)):
            mine = database_mark.encode(await self._mine(), self._hub, self._secret)
            majority = len(self._nodes) // 2 + 1
            await self._of_nodes(majority, lambda node: node.put(database_mark.KEY, [mine]))

    async def _mine(self) -> DatabaseMark:
        row = await self._database.row(_MARK)
        assert row is not None
        number, cluster, database = row
        return DatabaseMark(number, cluster % (1 << 64), database)

    async def _newest(self) -> DatabaseMark | None:
        """The newest that a node has; None: the hub was never served."""
        found: list[DatabaseMark] = []

        async def ask(node: Node) -> None:
            try:
                data = await node.get(database_mark.KEY, 0, database_mark.SIZE + 1)
                found.append(database_mark.decode(data, self._hub, self._secret))
            except NotFoundError:
                pass
            except (CorruptError, FormatError) as error:
                log.warning("%s: %s", node.name, error)

        await self._of_nodes((len(self._nodes) + 1) // 2, ask)
        return max(found, default=None)

    async def _of_nodes(self, least: int, call: Callable[[Node], Awaitable[None]]) -> None:
        """Call it of all nodes at once. `UnavailableError`: of fewer than `least` it ended well."""
        failed = dict.fromkeys(self._nodes, "no answer in time")

        async def one(name: str, node: Node) -> None:
            try:
                await call(node)
                del failed[name]
            except DriveError as error:
                failed[name] = str(error)

        with anyio.move_on_after(_PATIENCE):
            async with plain_task_group() as group:
                for name, node in self._nodes.items():
                    group.start_soon(one, name, node)
        if (done := len(self._nodes) - len(failed)) < least:
            reasons = "; ".join(f"{name}: {why}" for name, why in sorted(failed.items()))
            raise UnavailableError(
                f"the mark of the newest database needs {least} of the nodes, and {done} answer ({reasons})",
                sorted(failed),
            )

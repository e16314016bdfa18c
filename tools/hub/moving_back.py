"""A mounted drive moves from its hub to nodes of its own: in the mount's process, while programs use it and
other devices write it.

The order, and the reason why never two write, stand in docs/moving.md.
"""

from __future__ import annotations

import logging
import shlex
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Final

import trio

from backend.cluster import DriveFile, HeldDrive, NotInUse
from backend.commits import REMEMBERED
from backend.errors import (
    ConflictError,
    CorruptError,
    DriveError,
    FencedError,
    TransientError,
    UsageError,
)
from backend.failpoints import declare
from backend.nodes import NodeHealth, NodeSet, TokenBucket
from backend.remote import BegunMove, BegunMoves, HubClient, RemoteDeparture
from backend.system import Environment, at_rest
from backend.upstream import Head
from backend.wire import TICKET_SIZE
from cache.drive import Drive
from cache.services import Copying, free_pace
from tools import compose
from tools.closing import closed_at_end
from tools.compose import INDEX_FILE, UnlockedDrive
from tools.drive_nodes import open_nodes
from tools.host import places
from tools.host.places import Folders
from tools.hub.departures import leave
from tools.hub.drives import Address
from tools.hub.moving import THEN, Steps, There, running
from tools.hub.opening import DriveAtHub
from tools.node_changes import Listener

INDEX_FOLDER: Final = "moving"
"""In the cache folder; what is in it is made anew by each move."""
LEAVING_SECONDS: Final = 10.0
REDUNDANCY_SECONDS: Final = 60.0
"""The nodes are waited for so long to have all fragments of what was copied."""

NOTED: Final = declare(
    "move.noted", "a move to nodes is written down on this machine; the drive is open at the hub"
)
TOLD: Final = declare(
    "move.told", "the hub knows that the drive has left; the note of the move is still here"
)
_NOT_TOLD: Final = (
    "the hub could not be told that the drive has moved: it tells other devices that it is moving, until the "
    "nodes are mounted on this machine{options}"
)

log = logging.getLogger(__name__)


class MovingBack:
    """See the module; see `tools.hub.care.Leave`. `at`: the hub; `own`: this machine's folders of the
    drive; `variables`: of the process, by which a mount that is told no folders finds them."""

    def __init__(
        self,
        drive: Drive,
        at: DriveAtHub,
        own: Folders,
        variables: Mapping[str, str],
        environment: Environment,
    ) -> None:
        self._drive = drive
        self._at = at
        self._own = own
        self._variables = variables
        self._environment = environment
        self._moves = BegunMoves(own.state, environment)
        self.has_moved = ""

    async def __call__(self, folder: str, rate: float | None, tell: Listener) -> None:
        """Move the drive to the nodes of `folder`, whose drive file says that the drive is at the hub; as
        `tools.hub.moving.Steps.run`."""
        file = await trio.to_thread.run_sync(compose.load_drive, folder)
        require_coming(folder, file, self._at.drive_id, self._at.source)
        pace = free_pace if rate is None else TokenBucket(rate, rate).take
        steps = Steps(self._drive, tell, self._require_here, self._environment, pace)
        async with self._client() as client, self._held(folder, file) as (held, there):
            await steps.run(there, partial(self._switch, held, there, client, tell))
        tell.say(f"{self._at.source}: the drive is in {folder} now; {THEN}")

    async def _switch(
        self, held: HeldDrive, there: There, client: HubClient, tell: Listener, copying: Copying
    ) -> list[str]:
        short = await there.upstream.housekeeping.redundancy(REDUNDANCY_SECONDS)
        if short.packs:
            tell.warn(f"{', '.join(short.nodes)}: lack a part of the drive; the next mount repairs that")

        last: list[Head] = []
        ticket = self._environment.random_bytes(TICKET_SIZE)
        move = BegunMove(self._at.source, held.folder, held.file.nodes_id, ticket)
        departure = RemoteDeparture(client, self._at.drive_id, ticket)

        async def close() -> None:
            await trio.to_thread.run_sync(self._moves.keep, move)
            self._environment.failpoints.reached(NOTED)
            await departure.begin(move.nodes)
            last.append(await departure.close())

        async def last_look() -> None:
            await self._drive.publisher.follow()
            if await copying.finish() != last[0]:
                raise CorruptError(f"the hub's log has not ended at commit {last[0].number}, as the hub said")

        async def stay() -> None:
            await _stay(departure, held.folder)
            await trio.to_thread.run_sync(self._moves.forget)

        lines = await held.arrive(close, last_look, stay)
        self.has_moved = f"the drive has moved to {held.folder}: {THEN}"
        return [*lines, *await self._told_to_leave(client, move)]

    async def _told_to_leave(self, client: HubClient, move: BegunMove) -> list[str]:
        """The hub tells its other devices. Without that their changes wait in their journals until the next
        mount of the nodes has told the hub (`tools.hub.departures`). What is wrong, one line each."""
        with trio.move_on_after(LEAVING_SECONDS, shield=True):
            try:
                await leave(client, self._at.drive_id, move, move.folder)
                self._environment.failpoints.reached(TOLD)
                await trio.to_thread.run_sync(self._moves.forget)
            except ConflictError as error:
                return [str(error)]
            except (DriveError, OSError) as error:
                log.info("the hub was not told: %s", error)
            else:
                return []
        return [_NOT_TOLD.format(options=self._options())]

    def _options(self) -> str:
        """Those by which a mount of the nodes finds the note of the move, for people."""
        usual = places.state_folder(self._at.drive_id.hex(), None, self._variables)
        base = self._own.state.parent
        return "" if self._own.state == Path(usual) else f" with -o state_dir={shlex.quote(str(base))}"

    async def _require_here(self) -> None:
        await trio.lowlevel.checkpoint()
        if self.has_moved:
            raise FencedError(self.has_moved)

    @asynccontextmanager
    async def _client(self) -> AsyncIterator[HubClient]:
        login, reread = self._at.login, self._at.token.read
        made = partial(HubClient, login.url, login.token, login.route, reread=reread)
        client = await trio.to_thread.run_sync(made)
        async with closed_at_end(client):
            yield client

    @asynccontextmanager
    async def _held(self, folder: str, file: DriveFile) -> AsyncIterator[tuple[HeldDrive, There]]:
        """The drive on its nodes, with its lease. Its block index is made anew from the nodes, here and by
        the next mount: one that is left from other nodes would know of blocks that these have not."""
        unlocked = UnlockedDrive(folder, file, self._at.keys)
        bare = await trio.to_thread.run_sync(open_nodes, folder, file, self._environment)
        nodes, voters = NodeSet(bare), NodeHealth(REMEMBERED)
        index = await trio.to_thread.run_sync(self._without_index)
        lease = compose.lease_on(nodes, unlocked, environment=self._environment, health=voters)
        built = compose.build_upstream(unlocked, nodes, index, 0.0, lease, voters, self._environment, None)
        async with closed_at_end(built.upstream):
            await built.upstream.open()
            await built.upstream.prepare(built.store.reconcile)
            async with running(built.upstream):
                yield (
                    HeldDrive(folder, file, nodes, lease, NotInUse()),
                    There(built.upstream, built.upstream.log.take),
                )
        await trio.to_thread.run_sync(self._without_index)

    def _without_index(self) -> Path:
        """The folder for one, where there is none any more. Blocks."""
        cache, disk = self._own.cache, self._environment.disk
        folder = cache / INDEX_FOLDER
        disk.make_folders(str(folder))
        for path in (folder / INDEX_FILE, cache / INDEX_FILE):
            at_rest.remove_database(str(path), disk)
        return folder


def require_coming(folder: str, file: DriveFile, drive_id: bytes, source: str) -> None:
    """`UsageError` unless the drive file in `folder` says that this drive is at the hub of `source`. It may
    have another name there since."""
    if file.id != drive_id:
        raise UsageError(f"{folder}: is another drive than {source}")
    if not file.moved or Address.parse(file.moved).hub != Address.parse(source).hub:
        where = f"is at {file.moved}" if file.moved else "is here already"
        raise UsageError(f"{folder}: says that the drive {where}, and not at {source}")


async def _stay(departure: RemoteDeparture, folder: str) -> None:
    """Have the drive go on at the hub. One that was not closed there needs nothing."""
    try:
        await departure.stay()
    except ConflictError:
        return
    except TransientError as error:
        raise TransientError(
            f"the hub has not said that the drive goes on there ({error}): drivefs move-to --undo {folder} "
            "asks it again"
        ) from None

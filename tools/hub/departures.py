"""A hub is told that a drive has left it: by the machine that moved the drive, when the process that did it
has ended before the hub was told, or the hub was away just then.

Only who has opened the drive on its nodes uses this: the drive file says that the drive is here. A hub that
has the drive open as well is not told: then it is open at two places, and people are.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Final

import trio

from backend.cluster import DriveFile
from backend.errors import ConflictError, DriveError, NotFoundError, TransientError
from backend.remote import (
    BegunMove,
    BegunMoves,
    HubAccount,
    HubClient,
    HubLogin,
    KeptToken,
    Logins,
    RemoteDeparture,
)
from backend.system import THIS_MACHINE, Environment
from tools import compose
from tools.closing import closed_at_end
from tools.host import places
from tools.hub.drives import Address

FIRST_PAUSE: Final = 1.0
LONGEST_PAUSE: Final = 60.0
_TWICE: Final = (
    "{source}: the drive is open at two places, {where} and on the nodes of {folder}: what is written at one "
    "is not at the other; use one only: unmount the other, copy from it (mount.drivefs -o ro) what only it "
    "has, and give it up: the hub's by drivefs drives delete, nodes by never mounting them again"
)

log = logging.getLogger(__name__)


class Departures:
    """See the module. `folder` and `file`: of the drive, which is on these nodes; `state`: this machine's
    state folder of it; `variables`: of the process, by which the folder of logins is found. `problem`: one
    line that says that the drive is open at two places, and what to do; empty: nothing is known of that."""

    def __init__(
        self,
        folder: str,
        file: DriveFile,
        state: Path,
        variables: Mapping[str, str],
        environment: Environment = THIS_MACHINE,
    ) -> None:
        self._folder = folder
        self._file = file
        self._moves = BegunMoves(state, environment)
        self._logins = Logins(places.hubs_folder(variables), environment)
        self.problem = ""

    async def run(self) -> None:
        """Tell the hub, if it is to be told, and try again until it answers, and as long as it has the drive
        open. Whatever else is in the way is logged, and left to the next mount."""
        pause = FIRST_PAUSE
        while True:
            try:
                await self.tell()
                self.problem = ""
                return
            except ConflictError as error:
                self._warn(str(error))
            except TransientError as error:
                log.info("the hub is not told yet that the drive has left it: %s", error)
            except (DriveError, OSError) as error:
                log.warning("the hub cannot be told that the drive has left it: %s", error)
                return
            await trio.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE)

    def _warn(self, line: str) -> None:
        if line != self.problem:
            self.problem = line
            log.warning("%s", line)

    async def tell(self) -> str:
        """Tell the hub; the address that the drive had there. Empty: nothing is known here of a move to these
        nodes that the hub was not told of. `ConflictError`: as of `leave`; the note of the move stays. What
        the hub raises, and what is raised where there is no login."""
        move = await trio.to_thread.run_sync(self._moves.load)
        if move is None or move.nodes != self._file.nodes_id:
            return ""
        login = await trio.to_thread.run_sync(self._logins.load, Address.parse(move.source).hub)
        async with self._client(login) as client:
            await leave(client, self._file.id, move, self._folder)
        await trio.to_thread.run_sync(self._moves.forget)
        return move.source

    @asynccontextmanager
    async def _client(self, login: HubLogin) -> AsyncIterator[HubClient]:
        reread = KeptToken(self._logins, login).read
        made = partial(HubClient, login.url, login.token, login.route, reread=reread)
        client = await trio.to_thread.run_sync(made)
        async with closed_at_end(client):
            yield client


async def leave(client: HubClient, drive: bytes, move: BegunMove, folder: str) -> None:
    """Tell the hub that the drive of that id has left it by that move, and is open on the nodes of `folder`.
    A move that was settled since is told to nobody. `ConflictError` with one line for people: the hub has the
    drive open as well, or let it move to other nodes. What the hub raises."""
    try:
        await RemoteDeparture(client, drive, move.ticket).leave()
    except NotFoundError as error:
        log.info("%s has nothing to be told of that move any more: %s", move.source, error)
    except ConflictError as error:
        where = await _elsewhere(client, drive, move.nodes)
        if where and await _is_here(folder):
            raise ConflictError(_TWICE.format(source=move.source, where=where, folder=folder)) from None
        log.info("%s has nothing to be told of that move any more: %s", move.source, error)


async def _elsewhere(client: HubClient, drive: bytes, nodes: bytes) -> str:
    """The place of the drive for the hub. Empty: on these nodes, or it is not at the hub any more."""
    row = next((each for each in await HubAccount(client).drives() if each.uuid == drive), None)
    if row is None or (row.is_importing and row.nodes in (nodes, b"")):
        return ""
    return "on other nodes" if row.is_importing else "at the hub"


async def _is_here(folder: str) -> bool:
    """Whether the drive is open on these nodes still: it may have moved since they were opened. The hub opens
    it after the drive file says so, so who asks the hub first is not misled."""
    return not (await trio.to_thread.run_sync(compose.load_drive, folder)).moved

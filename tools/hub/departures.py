"""A hub is told that a drive has left it: by the machine that moved the drive, when the process that did it
has ended before the hub was told, or the hub was away just then.

Only who has opened the drive on its nodes uses this: the drive file says that the drive is here.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Final

import trio

from backend.cluster import DriveFile
from backend.errors import ConflictError, DriveError, NotFoundError, TransientError
from backend.remote import BegunMove, BegunMoves, HubClient, HubLogin, KeptToken, Logins, RemoteDeparture
from backend.system import THIS_MACHINE, Environment
from tools.closing import closed_at_end
from tools.host import places
from tools.hub.drives import Address

FIRST_PAUSE: Final = 1.0
LONGEST_PAUSE: Final = 60.0

log = logging.getLogger(__name__)


class Departures:
    """See the module. `file`: of the drive, which is on these nodes; `state`: this machine's state folder of
    it; `variables`: of the process, by which the folder of logins is found."""

    def __init__(
        self,
        file: DriveFile,
        state: Path,
        variables: Mapping[str, str],
        environment: Environment = THIS_MACHINE,
    ) -> None:
        self._file = file
        self._moves = BegunMoves(state, environment)
        self._logins = Logins(places.hubs_folder(variables), environment)

    async def run(self) -> None:
        """Tell the hub, if it is to be told, and try again until it answers. Whatever else is in the way is
        logged, and left to the next mount."""
        pause = FIRST_PAUSE
        while True:
            try:
                await self.tell()
                return
            except TransientError as error:
                log.info("the hub is not told yet that the drive has left it: %s", error)
            except (DriveError, OSError) as error:
                log.warning("the hub cannot be told that the drive has left it: %s", error)
                return
            await trio.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE)

    async def tell(self) -> str:
        """Tell the hub; the address that the drive had there. Empty: nothing is known here of a move to these
        nodes that the hub was not told of. What the hub raises, and what is raised where there is no
        login."""
        move = await trio.to_thread.run_sync(self._moves.load)
        if move is None or move.nodes != self._file.nodes_id:
            return ""
        login = await trio.to_thread.run_sync(self._logins.load, Address.parse(move.source).hub)
        try:
            await self._leave(move, login)
        except (ConflictError, NotFoundError) as error:
            log.info("%s has nothing to be told of that move any more: %s", move.source, error)
        await trio.to_thread.run_sync(self._moves.forget)
        return move.source

    async def _leave(self, move: BegunMove, login: HubLogin) -> None:
        reread = KeptToken(self._logins, login).read
        made = partial(HubClient, login.url, login.token, login.route, reread=reread)
        client = await trio.to_thread.run_sync(made)
        async with closed_at_end(client):
            await RemoteDeparture(client, self._file.id, move.ticket).leave()

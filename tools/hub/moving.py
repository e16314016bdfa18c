"""A mounted drive moves to a hub: in the mount's process, under its lease, while programs use it. The steps
of either direction are here too; the way back is `tools.hub.moving_back`.

The order, and the reason why never two write, stand in docs/moving.md.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Final

import trio

from backend.cluster import HeldDrive
from backend.errors import FencedError, TransientError, sole
from backend.local import LocalUpstream
from backend.remote import HubClient, KeptToken, Logins, RemoteImport, RemoteUpstream
from backend.system import Environment
from backend.upstream import BlockStore, Commit, Head, Roots, Upstream
from backend.wire import TICKET_SIZE
from cache.drive import Drive
from cache.services import Copying, Destination, Pace, free_pace
from tools.closing import closed_at_end
from tools.host import places
from tools.hub.drives import Address
from tools.node_changes import Listener

OPENING_SECONDS: Final = 60.0
"""The hub is asked for so long to open the drive, when that is all that is left."""
PAUSE: Final = 1.0
THEN: Final = "unmount it here (umount.drivefs -f), and mount that"

Switch = Callable[[Copying], Awaitable[list[str]]]
"""The end of a move: what is to be said to people of it, one line each."""


@dataclass(frozen=True, slots=True)
class There:
    """The drive where it moves to; see `cache.services.copying.Destination`. `take` appends a commit that was
    made elsewhere."""

    upstream: Upstream
    take: Callable[[Commit, Head], Awaitable[Head]]

    @property
    def blocks(self) -> BlockStore:
        return self.upstream.blocks

    @property
    def roots(self) -> Roots:
        return self.upstream.roots

    async def head(self) -> Head:
        return await self.upstream.log.head()

    async def append(self, commit: Commit, expected: Head) -> Head:
        return await self.take(commit, expected)


@asynccontextmanager
async def running(upstream: RemoteUpstream | LocalUpstream) -> AsyncIterator[None]:
    """The upstream runs while the block does. A single error is never wrapped in a group."""
    try:
        async with trio.open_nursery() as nursery:
            await nursery.start(upstream.run)
            yield
            nursery.cancel_scope.cancel()
    except BaseExceptionGroup as group:
        raise sole(group) from None


class Steps:
    """The steps that a move has in either direction: the copying, the switch, and a mount that takes no more
    changes. `has_ended` raises `FencedError` if nothing can be published here any more. `pace`: as of
    `Copying`."""

    def __init__(
        self,
        drive: Drive,
        tell: Listener,
        has_ended: Callable[[], Awaitable[None]],
        environment: Environment,
        pace: Pace = free_pace,
    ) -> None:
        self._drive = drive
        self._tell = tell
        self._has_ended = has_ended
        self._environment = environment
        self._pace = pace

    async def run(self, there: Destination, switch: Switch) -> None:
        """Copy the drive while it is used, then have `switch` done, which makes the last copy. Until that it
        can be cancelled, and begun anew; what is copied stays copied."""
        copying = Copying(self._drive, there, _Parts(self._tell).tell, self._environment, self._pace)
        await copying.run()
        await self._drive.sync()
        self._tell.step("switching")
        try:
            for line in await switch(copying):
                self._tell.warn(line)
        finally:
            with trio.CancelScope(shield=True):
                await self._refuse_changes()
        self._tell.clear()

    async def _refuse_changes(self) -> None:
        """If nothing can be published here any more: nobody is to find that out by a change that waits."""
        try:
            await self._has_ended()
        except FencedError as error:
            await self._drive.publisher.fence(error)


class Moving:
    """See the module; see `tools.mounted_nodes.Leave`. `variables`: of the process, by which the folder of
    logins is found."""

    def __init__(self, drive: Drive, variables: Mapping[str, str], environment: Environment) -> None:
        self._drive = drive
        self._variables = variables
        self._environment = environment

    async def __call__(self, held: HeldDrive, address: str, rate: float | None, tell: Listener) -> None:
        """Move the drive, whose hub has it ready for that; as `Steps.run`."""
        to = Address.parse(address)
        steps = Steps(self._drive, tell, self._drive.upstream.confirm_writer, self._environment)
        async with self._at_hub(to, held.file.id, rate) as (mover, there):
            await mover.take_over(held.file.nodes_id)
            await steps.run(there, partial(_switch, held, to.source, mover))
        tell.say(f"{held.folder}: the drive is at {to.source} now; {THEN}")

    @asynccontextmanager
    async def _at_hub(
        self, to: Address, drive_id: bytes, rate: float | None
    ) -> AsyncIterator[tuple[RemoteImport, There]]:
        client = await trio.to_thread.run_sync(self._client, to.hub, rate)
        upstream = RemoteUpstream(client, drive_id, self._environment)
        mover = RemoteImport(client, drive_id, self._environment.random_bytes(TICKET_SIZE))
        async with closed_at_end(upstream), running(upstream):
            yield mover, There(upstream, mover.append)

    def _client(self, hub: str, rate: float | None) -> HubClient:
        logins = Logins(places.hubs_folder(self._variables), self._environment)
        login, limit = logins.load(hub), None if rate is None else int(rate)
        route, token = replace(login.route, upload_limit=limit), KeptToken(logins, login)
        return HubClient(login.url, login.token, route, reread=token.read)


async def _switch(held: HeldDrive, source: str, mover: RemoteImport, copying: Copying) -> list[str]:
    last: list[Head] = []

    async def last_look() -> None:
        last.append(await copying.finish())

    async def hand_over() -> None:
        await _opened(mover, last[0], held.folder)

    return await held.leave(source, last_look, hand_over)


class _Parts:
    """What is copied, told as parts of the work."""

    def __init__(self, tell: Listener) -> None:
        self._listener = tell
        self._step = ""

    def tell(self, what: str, done: int) -> None:
        """See `cache.services.copying.Tell`."""
        if what != self._step:
            self._step = what
            self._listener.step(f"copying {what}")
        self._listener.update(done, 0)


async def _opened(mover: RemoteImport, head: Head, folder: str) -> None:
    """The hub has opened the drive. `TransientError`: it does not say so, and may have done it."""
    until = trio.current_time() + OPENING_SECONDS
    while True:
        try:
            return await mover.open(head)
        except TransientError as error:
            if trio.current_time() > until:
                raise TransientError(
                    f"the hub has not said that it has opened the drive ({error}); unmount it here "
                    f"(umount.drivefs -f): drivefs move-to --undo {folder} says whether it has, and if not, "
                    "the drive stays here"
                ) from None
        await trio.sleep(PAUSE)

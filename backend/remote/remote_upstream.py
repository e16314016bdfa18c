"""The upstream of a device: a drive on a hub, over HTTPS. Other devices write it at the same time."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final

import trio

from backend.errors import FencedError
from backend.remote.hub_client import HubClient
from backend.remote.kept_log import KeptLog
from backend.remote.recent_commits import RecentCommits
from backend.remote.remote_blocks import RemoteBlocks
from backend.remote.remote_presence import RemotePresence
from backend.remote.remote_roles import RemoteHousekeeping, RemoteLog, RemoteRoots
from backend.system import THIS_MACHINE, Environment
from backend.upstream import BlockStore, CommitLog, Head, Housekeeping, Roots


class RemoteUpstream:
    """See `backend.upstream.Upstream`. `nursery.start(run)`, the rest, `close`."""

    def __init__(self, client: HubClient, drive: bytes, environment: Environment = THIS_MACHINE) -> None:
        self._client = client
        self._blocks = RemoteBlocks(client, drive, environment)
        self.blocks: BlockStore = self._blocks
        self.at_hand: Final = self._blocks.at_hand
        self.presence: Final = RemotePresence(client, drive)
        self._log = RemoteLog(client, drive, self.presence)
        self.log: CommitLog = self._log
        self.roots: Final[Roots] = RemoteRoots(client, drive)
        self.housekeeping: Final[Housekeeping] = RemoteHousekeeping(
            client, drive, lambda: self._blocks.pending_bytes
        )
        self._beside: list[Callable[[], Awaitable[None]]] = []
        self._scope = trio.CancelScope()
        self._stopped = trio.Event()
        self._running = False

    @property
    def epoch(self) -> int:
        """0: there is no lease."""
        return 0

    def stand_before(self, blocks: BlockStore, run: Callable[[], Awaitable[None]]) -> None:
        """From now on `blocks`, which asks the hub's, is what callers have; `run` is its background work,
        as of `do_beside`."""
        self.blocks = blocks
        self.do_beside(run)

    def do_beside(self, run: Callable[[], Awaitable[None]]) -> None:
        """`run` is background work, done as long as that of the session. To be called before it begins."""
        self._beside.append(run)

    def keep_commits(self, recent: RecentCommits, seen: Callable[[], Head]) -> None:
        """From now on commits are kept in `recent`, and a hub that lost some which this machine goes by, up
        to `seen`, gets them from there. To be called before `run`."""
        self.log = KeptLog(self._log, recent, seen)

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Send in the background, until `close` or until cancelled."""
        self._running = True
        try:
            with self._scope:
                async with trio.open_nursery() as nursery:
                    for work in self._beside:
                        nursery.start_soon(work)
                    await self._blocks.run(task_status)
        finally:
            self._stopped.set()

    async def confirm_writer(self) -> None:
        """Nobody takes over: all devices may write, but one that the hub has refused, which has no login."""
        await trio.lowlevel.checkpoint()
        if self._client.is_refused:
            raise FencedError(
                "the hub does not know this device any more: it was revoked, logged out, or not seen for too "
                "long. What is not published stays in the journal; log in again and mount to go on"
            )

    async def close(self) -> None:
        """See `Upstream.close`."""
        self._scope.cancel()
        if self._running:
            await self._stopped.wait()
        await self._client.close()

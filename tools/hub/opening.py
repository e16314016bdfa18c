"""Opening a drive at a hub: a shared drive, over HTTPS, with sealed blocks kept on this machine's disk.

The hub is not believed: the chain of commits is checked (`backend.remote`), and a log without the newest
commit that this machine has seen gets the commits that it lost from here (`backend.remote.kept_log`), or is
refused.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Final

import trio

from backend.errors import RollbackError
from backend.keys import DriveKeys
from backend.remote import (
    HubAccount,
    HubClient,
    HubLogin,
    HubRoute,
    KeptToken,
    Logins,
    RecentCommits,
    RemoteUpstream,
)
from backend.system import THIS_MACHINE, Environment
from backend.upstream import CommitLog, Head
from cache.client import Client, client_of
from cache.disk import CachedBlocks
from cache.drive import Drive
from cache.journal import reserve as journal_reserve
from cache.opening import DriveOptions
from tools import compose
from tools.closing import closed_at_end, closed_on_failure
from tools.compose import Waiting
from tools.host.places import Folders
from tools.hub.care import HubCare, HubNodes
from tools.state_opening import OpenStore, opened_on_state

READING_CACHE: Final = 64 << 20

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class DriveAtHub:
    """A drive of an account at a hub, and its keys. `source`: its address, HUB/NAME, in the one way to write
    it. `logins`: where the login is kept."""

    source: str
    login: HubLogin
    drive_id: bytes
    keys: DriveKeys = field(repr=False)
    logins: Logins = field(repr=False, compare=False)

    @property
    def token(self) -> KeptToken:
        """Of this machine."""
        return KeptToken(self.logins, self.login)

    @property
    def id_text(self) -> str:
        """The drive's id as people and folders write it."""
        return self.drive_id.hex()


def opened_drive_at_hub(
    drive: DriveAtHub,
    folders: Folders,
    options: DriveOptions,
    route: HubRoute,
    *,
    waiting: Waiting = log.info,
    environment: Environment = THIS_MACHINE,
) -> AbstractAsyncContextManager[Drive]:
    """As `opened_on_state`. `route`: to the hub; `environment`: of the device that opens it."""
    shared = replace(options, is_shared=True)
    store = _HubStore(drive, folders, shared, route, environment)
    return opened_on_state(store, folders, shared, waiting, environment)


@asynccontextmanager
async def opened_reader_at_hub(drive: DriveAtHub) -> AsyncIterator[Client]:
    """The reader of the drive's blocks, beside any mount. What the hub raises."""
    async with upstream_at_hub(drive) as upstream:
        yield reader_at_hub(drive, upstream)


@asynccontextmanager
async def upstream_at_hub(drive: DriveAtHub) -> AsyncIterator[RemoteUpstream]:
    """A session that only asks, beside any mount."""
    login = drive.login
    client = HubClient(login.url, login.token, login.route, reread=drive.token.read)
    upstream = RemoteUpstream(client, drive.drive_id)
    async with closed_at_end(upstream):
        yield upstream


def reader_at_hub(drive: DriveAtHub, upstream: RemoteUpstream) -> Client:
    """The client side of the drive, as a tool that looks at it has it."""
    return client_of(upstream, drive.drive_id, drive.keys, READING_CACHE, trio.CapacityLimiter(2))


@dataclass(frozen=True, slots=True)
class _HubStore:
    """The hub of `drive`; see `tools.state_opening.Store`."""

    drive: DriveAtHub
    folders: Folders
    options: DriveOptions
    route: HubRoute
    environment: Environment

    async def opened(
        self, nursery: trio.Nursery, known: Head | None, seen: Callable[[], Head], *, is_in_state: bool
    ) -> OpenStore:
        login, token, environment = self.drive.login, self.drive.token, self.environment
        connect = partial(HubClient, login.url, login.token, self.route, reread=token.read)
        client = await trio.to_thread.run_sync(connect)
        upstream = RemoteUpstream(client, self.drive.drive_id, environment)
        upstream.do_beside(partial(token.run, HubAccount(client), environment))
        async with closed_on_failure(upstream):
            if not self.options.read_only:
                state = str(self.folders.state)
                recent = RecentCommits(state, environment, reserve=journal_reserve)
                upstream.keep_commits(recent, seen)
            cached = await self._cached(upstream)
            if known is not None and not is_in_state:
                await _require(upstream.log, known)
            await nursery.start(upstream.run)
        care = HubCare(login.url)
        return OpenStore(upstream, care, HubNodes(care), cached)

    async def _cached(self, upstream: RemoteUpstream) -> CachedBlocks | None:
        """The blocks on this machine's disk, which stand before those at the hub from now on."""
        find = partial(
            compose.disk_cache, self.folders.cache, self.options.cache_disk, True, self.environment
        )
        disk = await trio.to_thread.run_sync(find)
        if disk is None:
            return None
        cached = CachedBlocks(upstream.blocks, disk, upstream.at_hand)
        upstream.stand_before(cached, cached.run)
        return cached


async def _require(log_: CommitLog, known: Head) -> None:
    """`RollbackError` if the log has not this commit."""
    found = await log_.commits_after(known.number - 1, 1)
    if [Head(commit.number, digest) for commit, digest in found] != [known]:
        raise RollbackError(
            f"the drive's log at the hub has not commit {known.number} that this machine has seen: it was "
            "set back, or is of another history; nothing was changed"
        )

"""Changing a drive's cluster map: one node comes, goes, or is drained; each change under the drive's lease.

The lease needs a majority of the voters, and a change of the map may change the voters. Invariants:
1. A map is changed only by the holder of the lease on that map's voters: no writer of that map is left, and a
   stopped one can no longer get a majority of them (its epoch is used up).
2. Whoever acquires the lease reads `drive.toml` again afterwards and before any write (`require_current`):
   one that took the map before a change and the lease after it is refused. The lease's records carry the
   map's epoch too: they refuse who reads another `drive.toml`.
3. One change gives or takes one vote at most: so any majority of the voters before it and any majority of the
   voters after it have a node in common (as in Ongaro, "Consensus: Bridging Theory and
   Practice", 2014, section 4.2), and epochs go on growing.
4. A map reaches the nodes first and the drive's folder last, where each `drive.toml` is replaced at once: a
   change that is interrupted has happened or not, and both maps lead to everything. Each is replaced only
   where it is as it was seen under the lease, and a majority of the voters before and after must have the
   new one before the drive's folder gets it: who was stopped in the middle puts nothing over a later map.
5. A drive in use goes over to the new map within the change (`Use`), by the same acquisition of the lease.
   Nothing is published between the last word of the old voters and the first of the new ones. Invariant 3
   makes that safe: whoever acquires on the new voters, or still on the old ones, meets a voter that has this
   holder's epoch.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from typing import Final, Protocol

import trio

from backend.cluster import check_nodes, drive_file, drive_file_copies
from backend.cluster.check_nodes import Survey
from backend.cluster.drive_file import DriveFile
from backend.cluster.rebalance import NOBODY, Users
from backend.commits import Lease
from backend.errors import ConflictError, DriveError, FencedError, TransientError, UnavailableError
from backend.failpoints import declare
from backend.nodes import Node, NodeEntry
from backend.system import THIS_MACHINE

IN_FORCE: Final = declare(
    "node.in-force", "every drive.toml has the new map; the drive that is in use works by the old one"
)
GONE_OVER: Final = declare(
    "node.gone-over", "the drive in use works by the new map; no new voter has its lease"
)
MARKED: Final = declare("move.marked", "every drive.toml says where the drive has moved; it is open nowhere")
OPENED: Final = declare("move.opened", "the drive is open where it has moved; this one ends")
CLOSED: Final = declare(
    "move.closed", "a drive that comes from a hub is closed there; its last commits are not copied"
)
ARRIVED: Final = declare("move.arrived", "every drive.toml says that the drive is here; the hub is not told")

Look = Callable[[], Awaitable[None]]


class Use(Protocol):
    """The use that is made of a drive while its nodes are changed: see `backend.local.RunningNodes`."""

    @property
    def users(self) -> Users:
        """Those who use the packs."""

    def still(self) -> AbstractAsyncContextManager[None]:
        """No commit and no root is being written while the block runs."""

    async def settle(self) -> None:
        """Return when nothing is on its way any more to where an earlier map had it."""

    def prepare(self, file: DriveFile) -> Callable[[], Awaitable[None]]:
        """The call that makes the drive go over to the map of `file`, for when that is in force. Whatever can
        fail for one of its nodes fails here."""


class NotInUse:
    """See `Use`."""

    users: Users = NOBODY

    def still(self) -> AbstractAsyncContextManager[None]:
        return nullcontext()

    async def settle(self) -> None:
        await trio.lowlevel.checkpoint()

    def prepare(self, file: DriveFile) -> Callable[[], Awaitable[None]]:
        return trio.lowlevel.checkpoint


@dataclass(frozen=True, slots=True)
class HeldDrive:
    """A drive whose lease is held. `folder` is absolute, `nodes` are all nodes of `file`."""

    folder: str
    file: DriveFile
    nodes: Mapping[str, Node]
    lease: Lease
    use: Use

    async def verify(self) -> None:
        """The lease is confirmed by a majority, or this raises."""
        await self.lease.verify()

    async def change(
        self, nodes: tuple[NodeEntry, ...], last_look: Look = trio.lowlevel.checkpoint
    ) -> tuple[DriveFile, list[str]]:
        """Have these nodes from now on: the new drive file, and a line for each node that could not be
        told. `last_look` may raise, when nothing is published any more by the old map. The lease is of the
        old nodes then, unless the drive is in use: hold it anew for the next change. Safe to repeat."""
        seen = await trio.to_thread.run_sync(self._seen)
        new = replace(seen.file, nodes=nodes, epoch=seen.file.epoch + 1)
        return new, await self._put_in_force(seen, new, last_look)

    async def put_in_force(self, new: DriveFile) -> list[str]:
        """Have the map of `new`, the one after this; as of `change`."""
        seen = await trio.to_thread.run_sync(self._seen, new)
        return await self._put_in_force(seen, new, trio.lowlevel.checkpoint)

    async def _put_in_force(self, seen: Survey, new: DriveFile, last_look: Look) -> list[str]:
        """Once it is begun it is not cancelled. Nobody publishes meanwhile, so all that takes long is done
        before it."""
        go_over = self.use.prepare(new)
        async with self.use.still():
            await last_look()
            with trio.CancelScope(shield=True):
                failed = await self._replace_copies(seen, new)
                THIS_MACHINE.failpoints.reached(IN_FORCE)
                await go_over()
                THIS_MACHINE.failpoints.reached(GONE_OVER)
                failed += await self._announce(new)
        return failed

    async def _announce(self, new: DriveFile) -> list[str]:
        """Have the lease say that there is another map; what it cannot."""
        try:
            await self.lease.announce(new.epoch)
        except (TransientError, UnavailableError) as error:
            return [f"the lease does not say yet that the nodes were changed: {error}"]
        return []

    async def leave(self, address: str, last_look: Look, hand_over: Look) -> list[str]:
        """The drive is at `address` from now on, and in use there when `hand_over` has returned; a line for
        each node that could not be told. `last_look` is made when nothing is published any more; it may
        raise, and nothing has changed. What `hand_over` raises is raised: the drive is in use at neither
        place then (`come_back`). Nothing more is written under this lease. Once the file is being written
        it is not cancelled."""
        seen = await trio.to_thread.run_sync(self._seen)
        new = replace(seen.file, moved=address, epoch=seen.file.epoch + 1)
        async with self.use.still():
            await last_look()
            with trio.CancelScope(shield=True):
                failed = await self._replace_copies(seen, new)
                THIS_MACHINE.failpoints.reached(MARKED)
                failed += await self._announce(new)
                try:
                    await hand_over()
                except BaseException:
                    self.lease.end(
                        f"the drive is on its way to {address}, and that was interrupted; drivefs move-to "
                        f"--undo {self.folder} brings it back"
                    )
                    raise
                THIS_MACHINE.failpoints.reached(OPENED)
                self.lease.end(
                    f"the drive has moved to {address}: unmount it (umount.drivefs -f), and mount that"
                )
        return failed

    async def arrive(self, close: Look, last_look: Look, stay: Look) -> list[str]:
        """The drive, which is at the address that its file says, is here from now on; lines as of `change`.
        Nobody writes there any more when `close` has returned, then `last_look` is made. Where one of them
        raises, nothing has changed here, and `stay` has the drive go on there, if this still has the lease.
        Once the file is being written it is not cancelled: what is raised then leaves a drive that is open
        nowhere, or here."""
        seen = await trio.to_thread.run_sync(self._seen)
        if not seen.file.moved:
            raise ConflictError(f"{self.folder}: the drive has come here already: mount it")
        new = replace(seen.file, moved="", epoch=seen.file.epoch + 1)
        try:
            await close()
            THIS_MACHINE.failpoints.reached(CLOSED)
            await last_look()
        except BaseException:
            with trio.CancelScope(shield=True):
                await self.verify()
                await stay()
            raise
        with trio.CancelScope(shield=True):
            failed = await self._written_for_arrival(seen, new)
            THIS_MACHINE.failpoints.reached(ARRIVED)
            failed += await self._announce(new)
        return failed

    async def _written_for_arrival(self, seen: Survey, new: DriveFile) -> list[str]:
        try:
            return await self._replace_copies(seen, new)
        except (DriveError, OSError) as error:
            raise TransientError(
                f"{error}; the drive is closed at {seen.file.moved}, and here too if too few nodes have the "
                f"new drive file: unmount it (umount.drivefs -f), and drivefs move-to --undo {self.folder} "
                "settles where it is"
            ) from error

    async def stay_away(self) -> list[str]:
        """The drive stays at the address that its file says: copies that an interrupted `arrive` wrote do not
        count any more; lines as of `change`."""
        return await self.put_in_force(replace(self.file, epoch=self.file.epoch + 1))

    async def come_back(self) -> list[str]:
        """The drive has not moved: a move that was interrupted is taken back; lines as of `change`."""
        return await self.put_in_force(replace(self.file, moved="", epoch=self.file.epoch + 1))

    async def finish(self) -> list[str]:
        """Write the drive file, as most copies have it, to all its places: a change was interrupted. A line
        for each node that could not be told. Safe to repeat."""
        return await self._replace_copies(await trio.to_thread.run_sync(self._seen), self.file)

    async def _replace_copies(self, seen: Survey, new: DriveFile) -> list[str]:
        """Also where the keys were changed since the copies were `seen`, which needs no lease: then these are
        looked at once more."""
        try:
            return await self._replace(seen, new)
        except ConflictError:
            return await self._replace(await trio.to_thread.run_sync(self._seen, new), new)

    async def _replace(self, seen: Survey, new: DriveFile) -> list[str]:
        """The lease is confirmed after the copies were `seen`: so they were seen under it."""
        await self.verify()
        new = replace(new, slots=seen.file.slots)
        return await trio.to_thread.run_sync(drive_file_copies.replace_copies, self.folder, seen, new)

    def _seen(self, new: DriveFile | None = None) -> Survey:
        """The copies: of the map of this drive, or of `new` already, of a change that was interrupted.
        `ConflictError`."""
        seen = check_nodes.survey(self.folder)
        if new is None or (seen.file.epoch, seen.file.nodes) != (new.epoch, new.nodes):
            _require_same(self.folder, self.file, seen.file)
        return seen


@asynccontextmanager
async def held(
    folder: str, file: DriveFile, nodes: Mapping[str, Node], lease: Lease
) -> AsyncIterator[HeldDrive]:
    """The drive, with its lease, which is on the nodes of `file`. `LeaseHeldError` if it is mounted,
    `UnavailableError` without a majority of the nodes, `ConflictError` if the map has been changed; when the
    lease is lost, `FencedError` ends the block."""

    async with holding(lease, partial(require_surveyed, folder, file)):
        yield HeldDrive(folder, file, nodes, lease, NotInUse())


@asynccontextmanager
async def holding(
    lease: Lease, require_map: Callable[[], None], *, minimum_epoch: int = 1
) -> AsyncIterator[None]:
    """`lease` is acquired, of `minimum_epoch` at least, renewed while the block runs, and released.
    `require_map` is called in a thread before the block; it raises if the cluster map has been changed.
    `LeaseHeldError`, `UnavailableError`; when the lease is lost, `FencedError` ends the block."""
    await lease.acquire(minimum_epoch=minimum_epoch)
    try:
        await trio.to_thread.run_sync(require_map)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(lease.run)
            nursery.start_soon(_end_when_lost, lease)
            yield
            nursery.cancel_scope.cancel()
    finally:
        with trio.CancelScope(shield=True):
            await lease.release()


def require_surveyed(folder: str, file: DriveFile) -> None:
    """`ConflictError` if the cluster map that most copies have is not that of `file`. Raises as `survey`.
    Blocks."""
    _require_same(folder, file, check_nodes.survey(folder).file)


def require_unchanged(folder: str, file: DriveFile) -> Survey:
    """The copies as they are. `ConflictError` if the drive file that most of them have is not `file`, its
    keys included: a person was asked meanwhile. Raises as `survey`. Blocks."""
    seen = check_nodes.survey(folder)
    if seen.file != file:
        raise ConflictError(f"{folder}: its {drive_file.FILE_NAME} was changed just now; try again")
    return seen


def require_current(folder: str, file: DriveFile) -> None:
    """`ConflictError` if the drive's folder has another cluster map than `file`, which was read before the
    lease was acquired. What reading it raises. Blocks."""
    _require_same(folder, file, drive_file.load(os.path.join(folder, drive_file.FILE_NAME)))


def _require_same(folder: str, file: DriveFile, now: DriveFile) -> None:
    if (now.id, now.epoch, now.nodes) != (file.id, file.epoch, file.nodes):
        raise ConflictError(f"{folder}: the drive's nodes were changed just now; try again")


async def _end_when_lost(lease: Lease) -> None:
    await lease.lost.wait()
    raise FencedError("the drive was taken over by another mount; what was done so far stays")

"""Accepting what was planned: one batch, visible in one step to all doors, durable on return.

Invariants:
1. A plan is made when there is room for it, and accepted before anything else happens: conditions that it
   checks hold in the moment of the change, whoever else changes what by which door. So there are no locks.
2. A plan that raises has changed nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, Literal, TypeVar

from cache.drive import Drive
from cache.errors import FileTooBigError
from cache.journal import Need
from cache.namespace import ROOT_INODE, Operation
from gateway.s3.objects.errors import S3Error
from gateway.s3.objects.names import Batch
from gateway.s3.objects.staging import Staging

Durability = Literal["local", "stored"]
T = TypeVar("T")


class Changing:
    """See the module. `durability`: what survives a power cut of this machine (`local`: in its journal), or
    the loss of it (`stored`: on the nodes, in the commit log)."""

    def __init__(self, drive: Drive, staging: Staging, durability: Durability) -> None:
        self._drive = drive
        self._staging = staging
        self._durability: Final = durability

    async def accept(self, plan: Callable[[Batch], T], *, frees: bool = False) -> T:
        """Do what `plan` puts into the batch; its answer. `frees`: it is well on a full drive too. `S3Error`
        (`EntityTooLarge`) if it is too much for one step."""
        result = await self.accept_soon(plan, frees=frees)
        await self.make_durable()
        return result

    async def accept_soon(self, plan: Callable[[Batch], T], *, frees: bool = False) -> T:
        """The same, to be made durable later."""
        batch, results = Batch(0), []

        def make() -> list[Operation]:
            batch.now = self._drive.now()
            results.append(plan(batch))
            return batch.operations

        try:
            await self._drive.accept_together(make, Need.FREE if frees else Need.CHANGE)
        except FileTooBigError as error:
            raise S3Error("EntityTooLarge", "this is too much for one step") from error
        if batch.names:
            await self._drive.tell_of_names(batch.names, batch.unnamed)
        return results[0]

    async def make_durable(self) -> None:
        """All that was accepted so far survives. A client who is alone is waited for where requests are
        served, if the disk is quick (`cache.journal.syncing`)."""
        if self._durability == "stored":
            await self._drive.sync()
        else:
            await self._drive.fsync(ROOT_INODE, alone=self._staging.active <= 1)

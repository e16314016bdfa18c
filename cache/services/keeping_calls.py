"""The calls about the folders that a running drive keeps on this machine (`cache.messages.keeping`)."""

from __future__ import annotations

from typing import Any

from cache.drive import Drive
from cache.errors import InputOutputError
from cache.messages import KEEP, KEPT, UNKEEP, KeepWanted, Kept, Nothing, Service, UnkeepWanted


def keeping_services(drive: Drive) -> list[Service[Any, Any]]:
    """See the module."""

    async def kept(_: Nothing) -> Kept:
        status = drive.keeper.status()
        return Kept(tuple(await drive.keeper.shown()), "" if status is None else status.problem)

    async def keep(wanted: KeepWanted) -> Kept:
        try:
            drive.keeper.keep(wanted.inode)
        except OSError as error:
            raise _not_noted(error) from error
        if wanted.wait:
            await drive.keeper.complete()
        return await kept(Nothing())

    async def unkeep(wanted: UnkeepWanted) -> Kept:
        try:
            drive.keeper.unkeep(wanted.inode)
        except OSError as error:
            raise _not_noted(error) from error
        return await kept(Nothing())

    return [Service(KEEP, keep), Service(UNKEEP, unkeep), Service(KEPT, kept)]


def _not_noted(error: OSError) -> InputOutputError:
    return InputOutputError(f"the list of the folders that are kept cannot be written: {error}")

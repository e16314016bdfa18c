"""The calls about conflict copies of a running drive, as `cache.messages.conflicts` has them."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote, unquote_to_bytes

from cache.drive import Drive
from cache.errors import InvalidArgumentError
from cache.messages import (
    CONFLICTS,
    CONFLICTS_RESOLVE,
    Conflicts,
    ConflictShown,
    Nothing,
    ResolveWanted,
    Service,
)
from cache.services.conflicts import Copy, Keep, conflict_copies, resolve_conflict


def conflict_services(drive: Drive) -> list[Service[Any, Any]]:
    """See the module."""

    async def conflicts(_: Nothing) -> Conflicts:
        return _shown(await conflict_copies(drive))

    async def resolve(wanted: ResolveWanted) -> Conflicts:
        if wanted.keep not in [keep.value for keep in Keep]:
            raise InvalidArgumentError("what is kept is mine, theirs or both")
        path = unquote_to_bytes(wanted.path).strip(b"/")
        return _shown(await resolve_conflict(drive, path, Keep(wanted.keep)))

    return [Service(CONFLICTS, conflicts), Service(CONFLICTS_RESOLVE, resolve)]


def _shown(copies: list[Copy]) -> Conflicts:
    return Conflicts(
        tuple(
            ConflictShown(
                quote(copy.file.path),
                quote(copy.original),
                copy.file.mtime_ns,
                copy.mark.base,
                quote(copy.mark.by),
            )
            for copy in copies
        )
    )

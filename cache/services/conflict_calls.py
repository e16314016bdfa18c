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
    VersionShown,
)
from cache.services.conflicts import (
    Copy,
    Keep,
    Version,
    conflict_copies,
    conflict_versions,
    copies_of,
    resolve_conflict,
    resolve_version,
)


def conflict_services(drive: Drive) -> list[Service[Any, Any]]:
    """See the module."""

    async def conflicts(_: Nothing) -> Conflicts:
        return _shown(await conflict_copies(drive), await conflict_versions(drive))

    async def resolve(wanted: ResolveWanted) -> Conflicts:
        if wanted.keep not in [keep.value for keep in Keep]:
            raise InvalidArgumentError("what is kept is mine, theirs or both")
        path, keep = unquote_to_bytes(wanted.path).strip(b"/"), Keep(wanted.keep)
        copies = await copies_of(drive, path)
        if copies:
            return _shown(await resolve_conflict(drive, copies, keep), [])
        return _shown([], await resolve_version(drive, path, keep))

    return [Service(CONFLICTS, conflicts), Service(CONFLICTS_RESOLVE, resolve)]


def _shown(copies: list[Copy], versions: list[Version]) -> Conflicts:
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
        ),
        tuple(
            VersionShown(
                quote(version.path),
                version.file.mtime_ns,
                version.mark.base,
                quote(version.mark.by),
                version.file.commit,
            )
            for version in versions
        ),
    )

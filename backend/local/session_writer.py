"""The right of this session to write, handed on from its lease (`backend.commits.lease` decides); or none."""

from __future__ import annotations

from backend.commits import Lease
from backend.errors import ReadOnlyError, UsageError


class SessionWriter:
    """See `backend.blocks.WriteAuthority`. Without `lease` the session is for reading only."""

    def __init__(self, lease: Lease | None) -> None:
        self.lease = lease
        self._has_appended = False

    @property
    def may_write(self) -> bool:
        return self.lease is not None

    @property
    def epoch(self) -> int:
        """The epoch that a commit must carry; 0 if this is for reading only."""
        return self.lease.epoch if self.lease else 0

    def held(self) -> Lease:
        """The lease; `ReadOnlyError`."""
        if self.lease is None:
            raise ReadOnlyError("the drive is open for reading only")
        return self.lease

    def require(self) -> None:
        self.held()

    async def ensure(self) -> None:
        await self.held().ensure()

    async def verify(self) -> None:
        await self.held().verify()

    def note_append(self) -> None:
        """A commit of this session is in the log."""
        self._has_appended = True

    def require_deleting(self) -> None:
        self.require()
        if not self._has_appended:
            raise UsageError("blocks are deleted only when this session has appended a commit")

"""The question for the right to write, which the block store asks before each write; the lease answers."""

from __future__ import annotations

from typing import Protocol


class WriteAuthority(Protocol):
    """The right of a session to write, with its lease."""

    @property
    def may_write(self) -> bool:
        """Whether this session is open for writing at all."""

    def require(self) -> None:
        """`ReadOnlyError` if this session is open for reading only."""

    async def ensure(self) -> None:
        """As `require`; and a lease that ran out is renewed first: `FencedError`, `UnavailableError`."""

    async def verify(self) -> None:
        """Return if a majority of the nodes confirms the lease now; `FencedError`, `UnavailableError`."""

    def require_deleting(self) -> None:
        """`UsageError` unless this session has appended a commit; as `require`."""

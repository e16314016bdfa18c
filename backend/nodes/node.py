"""The interface of a node: a place that keeps whole objects under keys.

A node is a directory or a bucket. It knows nothing of packs, commits or keys. Retry, rate
limit and metrics are wrappers with this same interface; `tests/contract` runs one suite on
every kind of node and on every wrapper.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from backend.buffer import Buffer

KEY_PATTERN = r"[a-z0-9][a-z0-9._-]*(/[a-z0-9][a-z0-9._-]*)*"
"""What a key looks like: lower-case segments joined by `/`; so a key is also a safe path."""


@dataclass(frozen=True, slots=True)
class Space:
    """Capacity of a node in bytes. `free` is what an unprivileged writer may still use."""

    total: int
    free: int
    filesystem: str = ""
    """nodes with the same name here share their space; empty: nobody shares it"""


class Node(Protocol):
    """Async, may be called by many tasks at once. All methods may raise `TransientError`
    (worth a retry), `NodeError` (missing or foreign node) and `ReadOnlyError`/`NoSpaceError`
    where they write."""

    @property
    def name(self) -> str:
        """The node's identity: stable, unique in the drive, shown to people."""

    @property
    def zone(self) -> str:
        """The failure domain: nodes of one zone may fail together."""

    async def put(self, key: str, parts: Sequence[Buffer]) -> None:
        """Store the concatenation of `parts` under `key`, replacing what was there, atomically:
        a reader sees the old or the new object. Durable when it returns. Idempotent."""

    async def create(self, key: str, parts: Sequence[Buffer]) -> None:
        """As `put`, but `ConflictError` if `key` exists. Of several callers one wins."""

    async def get(self, key: str, offset: int = 0, length: int | None = None) -> bytes:
        """The bytes [offset, offset+length) of the object, or to its end. Shorter only where the
        object ends. `NotFoundError` if there is no such key."""

    async def get_soon(self, key: str, offset: int, length: int) -> Buffer | None:
        """What `get` would give, `length` bytes, if the node has them in less than a millisecond; None
        says nothing but that `get` is to be asked. Raises no error: `get` will find and tell."""

    async def size(self, key: str) -> int:
        """The object's length in bytes. `NotFoundError` if there is no such key."""

    async def delete(self, key: str) -> None:
        """Remove the object; no error if it is not there. Durable when it returns."""

    async def keys(self, prefix: str) -> list[str]:
        """All keys that start with the folder `prefix` (for example `packs/`), sorted."""

    async def swap(self, key: str, expected: bytes | None, new: bytes) -> None:
        """Replace the small object `key` by `new` only if it now equals `expected` (None: is
        absent), atomically among all callers on all machines that share the node.
        `ConflictError` otherwise. Not to be retried blindly: read first."""

    async def space(self) -> Space:
        """The node's capacity."""

    async def check(self) -> None:
        """Return if the node is there and is the one it should be; `NodeError` otherwise."""

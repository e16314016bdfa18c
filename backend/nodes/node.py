"""The interface of a node: a place that keeps whole objects under keys.

A node is a directory or a bucket. It knows nothing of packs, commits or keys. Retry, rate
limit and metrics are wrappers with this same interface; `tests/contract` runs one suite on
every kind of node and on every wrapper.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple, Protocol

from backend.buffer import Buffer
from backend.upstream import UNKNOWN_TOTAL

IDENTITY_KEY = "node.toml"
"""Under this name a node says whose it is: no object has it."""
KEY_PATTERN = r"[a-z0-9][a-z0-9._-]*(/[a-z0-9][a-z0-9._-]*)*"
"""The form of a key: lower-case segments joined by `/`; so a key is also a safe path."""


DATA: Final = "packs/"
"""Objects in this folder can wait for room. All others are what a drive cannot do without."""

PAGE = 10_000
"""So many keys are listed at once."""


_KEY = re.compile(KEY_PATTERN)


@dataclass(frozen=True, slots=True)
class Space:
    """Capacity of a node in bytes. `free` is what an unprivileged writer may still use."""

    total: int
    free: int
    filesystem: str = ""
    """nodes with the same name here share their space; empty: nobody shares it"""
    allocates_ahead: bool = True
    """False: its file system does not, as was seen, so that a node there has no ballast"""

    @property
    def is_known(self) -> bool:
        """Whether the node has said it: an object store has no end that it knows of."""
        return self.total < UNKNOWN_TOTAL


UNKNOWN_SPACE: Final = Space(UNKNOWN_TOTAL, UNKNOWN_TOTAL)
"""Of a node that takes whatever is paid for."""


class ObjectState(NamedTuple):
    """The length in bytes, and a tag that is another one when the object was written again (an ETag); empty:
    the node gives none."""

    size: int
    tag: str = ""


def is_key(key: str) -> bool:
    """Whether an object may have that key."""
    return _KEY.fullmatch(key) is not None and key != IDENTITY_KEY


def require_key(key: str) -> None:
    """`ValueError` if no object may have that key."""
    if not is_key(key):
        raise ValueError(f"not a key: {key!r}")


def require_folder(prefix: str) -> None:
    """`ValueError` if keys cannot be listed by that prefix: it is empty, or a key with a "/" behind."""
    if prefix and (not prefix.endswith("/") or not is_key(prefix[:-1])):
        raise ValueError(f"not a folder of keys: {prefix!r}")


class Node(Protocol):
    """Async, may be called by many tasks at once. A call that is cancelled may go on behind its caller,
    unless `PatientNode` is between. All methods may raise `TransientError`
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
        """The answer of `get`, `length` bytes, if the node has them in less than a millisecond; None
        says nothing but that `get` is to be asked. Raises no error: `get` will find and tell."""

    async def state(self, key: str) -> ObjectState:
        """The object's state without its bytes. `NotFoundError` if there is no such key."""

    async def delete(self, key: str) -> None:
        """Remove the object; no error if it is not there. Durable when it returns."""

    async def keys(self, prefix: str, after: str = "", limit: int = PAGE) -> list[str]:
        """Up to `limit` keys above `after` that start with the folder `prefix` (for example `packs/`),
        sorted; fewer only if there are no more. So the last key is where to go on: see `listing.pages`."""

    async def swap(self, key: str, expected: bytes | None, new: bytes) -> None:
        """Replace the small object `key` by `new` only if it now equals `expected` (None: is
        absent), atomically among all callers on all machines that share the node.
        `ConflictError` otherwise. Not to be retried blindly: read first."""

    async def space(self) -> Space:
        """The node's capacity; `UNKNOWN_SPACE` where there is no telling."""

    async def check(self) -> None:
        """Return if the node is there and is the one it should be; `NodeError` otherwise."""

    async def tidy(self) -> None:
        """`check`, and remove what interrupted writes of dead processes left more than a day ago."""

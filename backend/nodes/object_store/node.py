"""A node that is a prefix in a bucket: each object is one object of the store.

Invariants:
1. An object is written by one request, which the store makes visible and durable whole or not at all.
2. Without this node's identity in the bucket nothing is written, and no object counts as absent: a bucket
   that was deleted, or another one under its name, is a node that is away, not one that lost everything. The
   identity is read before the first write, a minute after it was last seen, and whenever an object or all of
   a listing is missing.
3. `create` and `swap` are the store's own conditional writes, sent once, so a refusal is never an answer to
   one's own success. Only a swap that the store was too busy for is sent again, as many take one write of an
   object a second; then equal bytes are one's own, since no two swaps write the same. Whether a creation was
   refused because the object exists is looked up, not believed.
4. Requests run in threads under a limiter, small ones under one of their own: a lease is renewed while packs
   wait for the line. A store that says that it is asked too much is asked less at once, and more again as it
   answers.
5. A call whose caller is cancelled is abandoned; its request may still happen. Its thread tells the caller's
   watch when it ends (`backend.nodes.patient` waits for writes)."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import Final, TypeVar

from backend.buffer import Buffer
from backend.errors import (
    ConflictError,
    DriveError,
    NodeError,
    NotFoundError,
    ReadOnlyError,
    TransientError,
)
from backend.nodes.identity import MAX_FILE_SIZE, NodeIdentity, decode_identity
from backend.nodes.node import (
    IDENTITY_KEY,
    PAGE,
    UNKNOWN_SPACE,
    ObjectState,
    Space,
    require_folder,
    require_key,
)
from backend.nodes.object_store.client import StoreClient
from backend.nodes.object_store.credentials import CredentialsError
from backend.nodes.object_store.errors import AbsentError, BusyError, RefusedError, StoreError, TakenError
from backend.nodes.object_store.listing import list_keys
from backend.nodes.object_store.pace import Pace
from backend.nodes.object_store.spacing import patiently
from backend.nodes.watch import watched
from backend.system import THIS_MACHINE, Environment, Threads

_SMALL_REQUESTS: Final = 8
_LARGE: Final = 128 * 1024
"""Calls with so many bytes, or who knows how many, wait for each other only."""
_IDENTITY_SECONDS: Final = 60.0

Result = TypeVar("Result")


class BusyStoreError(TransientError):
    """The store wants to be asked less."""


class ObjectStoreNode:
    """See `backend.nodes.node.Node`. Construction does no I/O; `check` says whether the node is there."""

    def __init__(
        self,
        client: StoreClient,
        identity: NodeIdentity,
        max_requests: int = 16,
        environment: Environment = THIS_MACHINE,
    ) -> None:
        self._client = client
        self._clock = environment.boot_clock
        self._identity = identity
        self.pace = Pace(max_requests)
        self._small = Threads(_SMALL_REQUESTS)
        self._seen_at = -math.inf

    @property
    def name(self) -> str:
        return self._identity.name

    @property
    def zone(self) -> str:
        return self._identity.zone

    async def check(self) -> None:
        await self._run("cannot be read", self._check)

    async def tidy(self) -> None:
        """An upload is one request: what was interrupted left nothing."""
        await self.check()

    async def put(self, key: str, parts: Sequence[Buffer]) -> None:
        require_key(key)
        await self._write(f"cannot write {key}", partial(self._client.put, key, parts), _length(parts))

    async def create(self, key: str, parts: Sequence[Buffer]) -> None:
        require_key(key)
        await self._write(f"cannot create {key}", partial(self._create, key, parts), _length(parts))

    async def get(self, key: str, offset: int = 0, length: int | None = None) -> bytes:
        if offset < 0 or (length is not None and length < 0):
            raise ValueError(f"no such range: {offset}+{length}")
        require_key(key)
        read = partial(self._client.get, key, offset, length)
        return await self._run(f"cannot read {key}", read, _LARGE if length is None else length)

    async def get_soon(self, key: str, offset: int, length: int) -> Buffer | None:
        return None

    async def state(self, key: str) -> ObjectState:
        require_key(key)
        return await self._run(f"cannot ask for {key}", partial(self._client.state, key))

    async def delete(self, key: str) -> None:
        require_key(key)
        with suppress(NotFoundError):
            await self._write(f"cannot delete {key}", partial(self._client.delete, key))

    async def keys(self, prefix: str, after: str = "", limit: int = PAGE) -> list[str]:
        require_folder(prefix)
        found = await self._run(
            f"cannot list {prefix}", partial(list_keys, self._client, prefix, after, limit)
        )
        if not found and not after:
            await self.check()
        return found

    async def swap(self, key: str, expected: bytes | None, new: bytes) -> None:
        require_key(key)
        what = f"cannot create {key}" if expected is None else f"cannot replace {key}"
        await self._write(what, partial(self._swap, key, expected, new))

    async def space(self) -> Space:
        return UNKNOWN_SPACE

    async def _run(
        self, what: str, work: Callable[[], Result], size: int = 0, writes: bool = False
    ) -> Result:
        """`work` in a thread; `size` is how many bytes it moves."""
        guarded = partial(self._guarded, what, work, writes)
        threads = self.pace.threads if size >= _LARGE else self._small
        try:
            result = await threads.run(guarded)
        except BusyStoreError:
            self.pace.slower()
            raise
        self.pace.faster()
        return result

    async def _write(self, what: str, work: Callable[[], None], size: int = 0) -> None:
        await self._run(what, partial(self._written, work), size, writes=True)

    def _written(self, work: Callable[[], None]) -> None:
        if self._clock() - self._seen_at >= _IDENTITY_SECONDS:
            self._check()
        work()

    def _guarded(self, what: str, work: Callable[[], Result], writes: bool) -> Result:
        with watched():
            try:
                return work()
            except (StoreError, CredentialsError) as error:
                raise self._translated(what, error, writes) from error

    def _translated(self, what: str, error: StoreError | CredentialsError, writes: bool) -> DriveError:
        text = f"{self.name}: {what}: {self._client.location.url}: {error}"
        if isinstance(error, BusyError):
            return BusyStoreError(text)
        if isinstance(error, AbsentError):
            return self._trouble() or NotFoundError(text)
        if isinstance(error, RefusedError) and writes:
            return self._trouble() or ReadOnlyError(text)
        if isinstance(error, (RefusedError, CredentialsError)):
            return NodeError(text, self.name)
        return TransientError(text)

    def _trouble(self) -> DriveError | None:
        """The reason why this is not the node, if there is one."""
        try:
            self._check()
        except DriveError as error:
            return error
        except AbsentError:
            what = f"is not a node ({IDENTITY_KEY} is missing); is its bucket there?"
            return NodeError(f"{self.name}: {self._client.location.url} {what}", self.name)
        except (StoreError, CredentialsError) as error:
            text = f"{self.name}: cannot be read: {self._client.location.url}: {error}"
            return TransientError(text) if _may_pass(error) else NodeError(text, self.name)
        return None

    def _check(self) -> None:
        where = f"{self.name}: {self._client.location.url}"
        data = self._client.get(IDENTITY_KEY, 0, MAX_FILE_SIZE + 1)
        try:
            found = decode_identity(data)
        except ValueError as error:
            raise NodeError(f"{where}/{IDENTITY_KEY} is damaged: {error}", self.name) from error
        if found.drive_id != self._identity.drive_id:
            raise NodeError(f"{where} is a node of another drive", self.name)
        if found.name != self.name:
            raise NodeError(f"{where} is this drive's {found.name}", self.name)
        self._seen_at = self._clock()

    def _swap(self, key: str, expected: bytes | None, new: bytes) -> None:
        """Tried again where the store is busy: it may have happened all the same, so equal bytes are a
        success then."""
        was_busy = False

        def attempt() -> None:
            nonlocal was_busy
            try:
                self._swap_once(key, expected, new)
            except BusyError:
                was_busy = True
                raise
            except ConflictError:
                if not was_busy or self._client.get(key, 0, len(new) + 1) != new:
                    raise

        patiently(attempt)

    def _swap_once(self, key: str, expected: bytes | None, new: bytes) -> None:
        if expected is None:
            self._create(key, [new])
        else:
            self._replace(key, expected, new)

    def _create(self, key: str, parts: Sequence[Buffer]) -> None:
        try:
            self._client.create(key, parts)
        except TakenError as error:
            raise self._refusal(key, error) from error

    def _replace(self, key: str, expected: bytes, new: bytes) -> None:
        try:
            found, tag = self._client.get_tagged(key)
        except AbsentError as error:
            raise self._trouble() or ConflictError(f"{self.name}: {key} is not there") from error
        if found != expected:
            raise ConflictError(f"{self.name}: {key} is not what was expected")
        try:
            self._client.replace(key, new, tag)
        except TakenError as error:
            raise ConflictError(f"{self.name}: {key} is another by now: {error}") from error
        except AbsentError as error:
            raise self._trouble() or ConflictError(f"{self.name}: {key} is gone by now: {error}") from error

    def _refusal(self, key: str, error: TakenError) -> DriveError:
        """After the store said that the object exists. A 409 may mean only that others write as well."""
        try:
            self._client.size(key)
        except AbsentError:
            return self._trouble() or TransientError(f"{self.name}: cannot create {key}: {error}")
        return ConflictError(f"{self.name}: {key} exists")


def _may_pass(error: Exception) -> bool:
    return isinstance(error, StoreError) and not isinstance(error, (AbsentError, RefusedError))


def _length(parts: Sequence[Buffer]) -> int:
    return sum(len(part) for part in parts)

"""A prefix in a bucket as the place for a node. See `backend.nodes.place`."""

from __future__ import annotations

import errno
from collections.abc import Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import cached_property
from typing import Final

from backend.errors import NodeError
from backend.nodes.identity import (
    MAX_FILE_SIZE,
    NodeIdentity,
    decode_identity,
    encode_identity,
    require_nameable,
    require_same,
)
from backend.nodes.node import IDENTITY_KEY, UNKNOWN_SPACE, Node, Space
from backend.nodes.object_store import races
from backend.nodes.object_store.client import AbsentError, Listed, StoreClient, StoreError, TakenError
from backend.nodes.object_store.credentials import CredentialsError
from backend.nodes.object_store.location import Location
from backend.nodes.object_store.node import ObjectStoreNode
from backend.nodes.object_store.settings import StoreSettings
from backend.nodes.place import Whereabouts

_FRAGMENTS: Final = "packs/"
_TROUBLE: Final = (StoreError, CredentialsError)


class ObjectStorePlace:
    """See `NodePlace`. `given` are its settings as `drive.toml` has them."""

    def __init__(self, location: Location, settings: StoreSettings, given: Mapping[str, str | int]) -> None:
        self._location = location
        self._parsed = settings
        self._given = dict(given)

    def __str__(self) -> str:
        return self.url

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ObjectStorePlace) and other.url == self.url

    def __hash__(self) -> int:
        return hash(self.url)

    @property
    def url(self) -> str:
        return self._location.url

    @property
    def settings(self) -> Mapping[str, str | int]:
        return self._given

    @property
    def folder(self) -> str | None:
        return None

    def whereabouts(self) -> Whereabouts | None:
        try:
            found = self._first("") is not None
        except _TROUBLE:
            return None  # it is away, and told to be
        return Whereabouts(self._location) if found else None

    def read(self, name: str, limit: int) -> bytes | None:
        with self._as_os_error():
            try:
                return self._client.get(name, 0, limit + 1)
            except AbsentError:
                return None

    def write(self, name: str, data: bytes) -> None:
        with self._as_os_error():
            self._client.put(name, [data])

    def identity(self, name: str) -> NodeIdentity:
        try:
            return decode_identity(self._client.get(IDENTITY_KEY, 0, MAX_FILE_SIZE + 1))
        except AbsentError:
            what = f"{self} is not a node ({IDENTITY_KEY} is missing); is its bucket there?"
            raise NodeError(f"{name}: {what}", name) from None
        except _TROUBLE as error:
            raise NodeError(f"{name}: {self} cannot be read: {error}", name) from None
        except ValueError as error:
            raise NodeError(f"{name}: {self}/{IDENTITY_KEY} is damaged: {error}", name) from error

    def prepare(self) -> None:
        """A bucket is not made: who pays for it, and where it is, is the person's choice."""
        with self._as_os_error():
            self._first("")

    def initialise(self, identity: NodeIdentity) -> None:
        """Not where the store lets several writers at once be the first."""
        require_nameable(identity)
        with self._as_os_error():
            first = self._first("")
            if first is None:
                self._claim(identity)
                return
        if self.read(IDENTITY_KEY, MAX_FILE_SIZE) is None:
            what = f"{self} is not empty (it holds {first.key}): choose another prefix"
            raise NodeError(f"{identity.name}: {what}", identity.name)
        require_same(self.identity(identity.name), identity, str(self))

    def _claim(self, identity: NodeIdentity) -> None:
        trouble = races.trouble_with_conditions(self._client)
        if trouble is not None:
            raise NodeError(f"{identity.name}: {self} cannot be a node: {trouble}", identity.name)
        try:
            self._client.create(IDENTITY_KEY, [encode_identity(identity)])
        except TakenError:
            require_same(self.identity(identity.name), identity, str(self))

    def failure_domain(self) -> Hashable:
        """The server; of providers, the region or the account."""
        where, region = self._location, self._parsed.region
        return where.service, where.endpoint or where.account or region

    def may_vote(self) -> bool:
        """It was tried when the node was made (`races`)."""
        return True

    def fragments(self) -> Iterator[str]:
        with suppress(*_TROUBLE):
            yield from (each.key for each in self._listed(_FRAGMENTS))

    def holds(self, *folders: str) -> bool:
        with self._as_os_error(), suppress(AbsentError):
            return any(self._first(f"{name.rstrip('/')}/") for name in folders)
        return False

    def tail(self, key: str, size: int) -> bytes:
        with self._as_os_error():
            return self._client.get(key, max(0, self._client.size(key) - size), size)

    def stored_bytes(self) -> int:
        with self._as_os_error():
            return sum(each.size for each in self._listed(_FRAGMENTS))

    def remove(self, names: Sequence[str], folders: Sequence[str]) -> None:
        with self._as_os_error():
            for name in names:
                self._delete(name)
            for folder in folders:
                for each in self._listed(f"{folder.rstrip('/')}/"):
                    self._delete(each.key)

    def clear(self) -> None:
        with self._as_os_error():
            for each in self._listed(""):
                self._delete(each.key)

    def space(self) -> Space:
        return UNKNOWN_SPACE

    def is_writable(self) -> bool:
        """An object is written and deleted to find out; only where a node is."""
        try:
            self._client.size(IDENTITY_KEY)
            self._client.put(f"{races.FOLDER}writable", [b""])
            self._delete(f"{races.FOLDER}writable")
        except _TROUBLE:
            return False
        return True

    def node(self, identity: NodeIdentity) -> Node:
        return ObjectStoreNode(self._client, identity, self._parsed.max_requests)

    @cached_property
    def _client(self) -> StoreClient:
        return StoreClient(self._location, self._parsed)

    def _first(self, folder: str) -> Listed | None:
        return next(iter(self._listed(folder)), None)

    def _listed(self, folder: str) -> Iterator[Listed]:
        for page in self._client.pages(folder):
            yield from page

    def _delete(self, key: str) -> None:
        with suppress(AbsentError):
            self._client.delete(key)

    @contextmanager
    def _as_os_error(self) -> Iterator[None]:
        try:
            yield
        except _TROUBLE as error:
            raise OSError(errno.EIO, f"the store says: {error}", self.url) from error

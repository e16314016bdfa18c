"""A prefix in a bucket as the place for a node. See `backend.nodes.place`."""

from __future__ import annotations

import errno
from collections.abc import Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import cached_property, partial
from typing import Final

from backend.errors import NodeError, UsageError
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
from backend.nodes.object_store.client import Listed, StoreClient
from backend.nodes.object_store.credentials import CredentialsError
from backend.nodes.object_store.errors import AbsentError, RefusedError, StoreError, TakenError
from backend.nodes.object_store.location import Location
from backend.nodes.object_store.node import ObjectStoreNode
from backend.nodes.object_store.settings import StoreSettings
from backend.nodes.object_store.spacing import patiently
from backend.nodes.place import Whereabouts
from backend.system import THIS_MACHINE, Environment

_FRAGMENTS: Final = "packs/"
_TROUBLE: Final = (StoreError, CredentialsError)


class ObjectStorePlace:
    """See `NodePlace`. `given` are its settings as `drive.toml` has them. `environment`: of the device that
    asks."""

    def __init__(
        self,
        location: Location,
        settings: StoreSettings,
        given: Mapping[str, str | int],
        environment: Environment = THIS_MACHINE,
    ) -> None:
        self._location = location
        self._parsed = settings
        self._given = dict(given)
        self._environment = environment

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

    @property
    def way(self) -> tuple[Hashable, ...]:
        where = self._location
        return (
            where.service,
            where.endpoint,
            where.account,
            where.bucket,
            *filter(None, where.prefix.split("/")),
        )

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
            patiently(partial(self._client.put, name, [data]))

    def replace(self, name: str, expected: bytes | None, data: bytes) -> bool:
        with self._as_os_error():
            return patiently(partial(self._replace, name, expected, data))

    def _replace(self, name: str, expected: bytes | None, data: bytes) -> bool:
        """An earlier try may have happened though the store was too busy to say so: equal bytes are its."""
        try:
            found, tag = self._client.get_tagged(name)
        except AbsentError:
            found, tag = None, ""
        if found != expected:
            return found == data
        try:
            if found is None:
                self._client.create(name, [data])
            else:
                self._client.replace(name, data, tag)
        except (TakenError, AbsentError):
            return False
        return True

    def identity(self, name: str) -> NodeIdentity:
        try:
            return decode_identity(self._client.get(IDENTITY_KEY, 0, MAX_FILE_SIZE + 1))
        except AbsentError:
            what = f"{self} is not a node ({IDENTITY_KEY} is missing); is its bucket there?"
            anew = f"if the prefix is empty for good: drivefs node replace DRIVE {name}"
            raise NodeError(
                f"{name}: {what} If the rest is there: fsck.drivefs -y DRIVE; {anew}", name
            ) from None
        except _TROUBLE as error:
            raise NodeError(f"{name}: {self} cannot be read: {error}", name) from None
        except ValueError as error:
            raise NodeError(f"{name}: {self}/{IDENTITY_KEY} is damaged: {error}", name) from error

    def prepare(self) -> None:
        """A bucket is not made: who pays for it, and where it is, is the person's choice."""
        with self._as_os_error():
            self._first("")
            self._require_outside()

    def require_fit(self, name: str, *, emptied: bool = False) -> None:
        with self._as_os_error():
            self._require_outside()
            found = next(self._nodes_within() if emptied else self._foreign(), None)
            if found is not None:
                what = f"{self} is not empty (it holds {found}): choose another prefix"
                raise NodeError(f"{name}: {what}", name)
            trouble = races.trouble_with_conditions(self._client, self._environment)
            if trouble is not None:
                raise NodeError(f"{name}: {self} cannot be a node: {trouble}", name)

    def initialise(self, identity: NodeIdentity) -> None:
        require_nameable(identity)
        if self.read(IDENTITY_KEY, MAX_FILE_SIZE) is None:
            self.require_fit(identity.name)
            with self._as_os_error():
                self._claim(identity)
        require_same(self.identity(identity.name), identity, str(self))

    def _claim(self, identity: NodeIdentity) -> None:
        with suppress(TakenError):
            patiently(partial(self._client.create, IDENTITY_KEY, [encode_identity(identity)]))

    def _require_outside(self) -> None:
        """`UsageError` if it lies in a node."""
        parts = [part for part in self._location.prefix.split("/") if part]
        top = StoreClient(replace(self._location, prefix=""), self._parsed, self._environment)
        for depth in range(len(parts)):
            above = "/".join([*parts[:depth], IDENTITY_KEY])
            if _is_there(top, above):
                what = f"{self}: lies in a node, that of {self._location.bucket}/{above}"
                raise UsageError(f"{what}: choose a prefix outside of it")

    def _foreign(self) -> Iterator[str]:
        """The keys there, but those of probes, which end with their process if need be."""
        return (each.key for each in self._listed("") if not each.key.startswith(races.FOLDER))

    def _nodes_within(self) -> Iterator[str]:
        """The prefixes of the nodes that lie in this one, in it."""
        end = f"/{IDENTITY_KEY}"
        return (each.key.removesuffix(end) for each in self._listed("") if each.key.endswith(end))

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
            spared = tuple(f"{node}/" for node in self._nodes_within())
            for each in self._listed(""):
                if each.key != IDENTITY_KEY and not each.key.startswith(spared):
                    self._delete(each.key)
            self._delete(IDENTITY_KEY)

    def space(self) -> Space:
        return UNKNOWN_SPACE

    def is_writable(self) -> bool:
        """An object is written and deleted to find out; only where a node is."""
        try:
            self._client.size(IDENTITY_KEY)
            patiently(partial(self._client.put, f"{races.FOLDER}writable", [b""]))
            self._delete(f"{races.FOLDER}writable")
        except _TROUBLE:
            return False
        return True

    def node(self, identity: NodeIdentity) -> Node:
        return ObjectStoreNode(self._client, identity, self._parsed.max_requests, self._environment)

    @cached_property
    def _client(self) -> StoreClient:
        return StoreClient(self._location, self._parsed, self._environment)

    def _first(self, folder: str) -> Listed | None:
        return next(iter(self._listed(folder)), None)

    def _listed(self, folder: str) -> Iterator[Listed]:
        for page in self._client.pages(folder):
            yield from page

    def _delete(self, key: str) -> None:
        with suppress(AbsentError):
            patiently(partial(self._client.delete, key))

    @contextmanager
    def _as_os_error(self) -> Iterator[None]:
        try:
            yield
        except _TROUBLE as error:
            raise OSError(errno.EIO, f"the store says: {error}", self.url) from error


def _is_there(client: StoreClient, key: str) -> bool:
    """Whether the object is there. Who has a right to the prefix only may not look above it, and is told
    no."""
    try:
        client.size(key)
    except (AbsentError, RefusedError):
        return False
    return True

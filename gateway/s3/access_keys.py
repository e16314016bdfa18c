"""The access keys of a drive, sealed in the drive itself: docs/format/s3_access_key.md.

A key is an attribute of the drive's root that no program sees. Its record is sealed by a key of the drive, so
that its secret lies in clear nowhere, not even in the namespace's database on this machine; every device of
the drive has the same keys.

Invariants:
1. A secret is shown once, when its key is made.
2. A removed key, or another policy, counts for the next request.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Final

import msgpack

from backend.errors import CorruptError, FormatError, NotFoundError, UsageError
from cache.drive import Drive
from cache.namespace import ROOT_INODE, RemoveXattr, SetXattr
from gateway.s3 import policy
from gateway.s3.access import DEFAULT_USER, Identity
from gateway.s3.objects import S3Error

PREFIX: Final = b"drivefs.s3.key."
VERSION: Final = 1
MAX_KEYS: Final = 1000
MAX_TEXT: Final = 128
_MEANING: Final = frozenset("*?:")
_ID_LETTERS: Final = "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567"


@dataclass(frozen=True, slots=True)
class Sealing:
    """Of records: `seal(record, for_what)`, and `unseal`, which raises `CorruptError`."""

    seal: Callable[[bytes, bytes], bytes]
    unseal: Callable[[bytes, bytes], bytes]


@dataclass(frozen=True, slots=True)
class AccessKey:
    """`policy`: JSON, or empty: all on the buckets of its user."""

    key_id: str
    secret: str
    user: str
    created_ns: int
    note: str = ""
    policy: bytes = b""

    def __repr__(self) -> str:
        return f"AccessKey({self.key_id})"

    def identity(self) -> Identity:
        """As the door asks. `S3Error`: `AccessDenied` if its policy was set by a drivefs that read it
        otherwise: then it may do nothing, until another one is set."""
        try:
            own = policy.parse(self.policy, None) if self.policy else None
        except S3Error:
            raise S3Error("AccessDenied", "The policy of the access key is not understood.") from None
        return Identity(self.user, self.key_id, own)


def encode(key: AccessKey) -> bytes:
    """The record, without the id that it is sealed for."""
    record: bytes = msgpack.packb(
        [VERSION, key.secret, key.user, key.created_ns, key.note, key.policy], use_bin_type=True
    )
    return record


def decode(key_id: str, record: bytes) -> AccessKey:
    """`FormatError`."""
    try:
        version, secret, user, created_ns, note, document = msgpack.unpackb(record)
        if version != VERSION:
            raise FormatError(f"an access key of version {version}; this drivefs knows {VERSION}")
        if not all(isinstance(each, str) for each in (secret, user, note)):
            raise ValueError
        return AccessKey(key_id, secret, user, int(created_ns), note, bytes(document))
    except (ValueError, TypeError, msgpack.UnpackException):
        raise FormatError("a record of an access key is malformed") from None


class AccessKeys:
    """The keys of one drive. Event-loop thread only."""

    def __init__(self, drive: Drive, sealing: Sealing) -> None:
        self._drive = drive
        self._sealing = sealing
        self._opened = lru_cache(maxsize=MAX_KEYS)(self._open)

    def find(self, key_id: str) -> AccessKey | None:
        """The key, as it is now. `FormatError`, `CorruptError`."""
        if not key_id.isascii() or len(key_id) > MAX_TEXT:
            return None
        sealed = self._drive.ledger.namespace.xattr(ROOT_INODE, PREFIX + key_id.encode())
        return None if sealed is None else self._opened(key_id, sealed)

    def listed(self) -> list[AccessKey]:
        """All of them, by id."""
        names = self._drive.ledger.namespace.xattr_names(ROOT_INODE)
        ids = sorted(name.removeprefix(PREFIX).decode() for name in names if name.startswith(PREFIX))
        return [key for key_id in ids if (key := self.find(key_id)) is not None]

    def users(self) -> frozenset[str]:
        """The users who have keys."""
        return frozenset(key.user for key in self.listed())

    async def add(self, user: str = "", note: str = "", document: bytes = b"") -> AccessKey:
        """A new key, durable. `UsageError`; `S3Error` for a policy that is none."""
        if max(len(user), len(note)) > MAX_TEXT or not user.isprintable():
            raise UsageError(f"a user and a note have at most {MAX_TEXT} characters")
        if _MEANING & set(user):
            raise UsageError("a user's name has no *, ? or :, which mean others in policies and access lists")
        if len(self.listed()) >= MAX_KEYS:
            raise UsageError(f"the drive has {MAX_KEYS} access keys already: remove one first")
        _check(document)
        key_id = "AKIA" + "".join(secrets.choice(_ID_LETTERS) for _ in range(16))
        made = AccessKey(
            key_id, secrets.token_urlsafe(30), user or DEFAULT_USER, self._drive.now(), note, document
        )
        await self._keep(made)
        return made

    async def set_policy(self, key_id: str, document: bytes) -> None:
        """Another policy; empty: none. `NotFoundError`; `S3Error`."""
        _check(document)
        await self._keep(replace(self._required(key_id), policy=document))

    async def remove(self, key_id: str) -> None:
        """`NotFoundError`."""
        self._required(key_id)
        name = PREFIX + key_id.encode()
        await self._accept(RemoveXattr(ROOT_INODE, name, self._drive.now()))

    def _required(self, key_id: str) -> AccessKey:
        found = self.find(key_id)
        if found is None:
            raise NotFoundError(f"the drive has no access key {key_id}")
        return found

    async def _keep(self, key: AccessKey) -> None:
        name = PREFIX + key.key_id.encode()
        sealed = self._sealing.seal(encode(key), name)
        await self._accept(SetXattr(ROOT_INODE, name, sealed, self._drive.now()))

    async def _accept(self, operation: SetXattr | RemoveXattr) -> None:
        await self._drive.accept_together(lambda: [operation])
        await self._drive.fsync(ROOT_INODE)

    def _open(self, key_id: str, sealed: bytes) -> AccessKey:
        try:
            return decode(key_id, self._sealing.unseal(sealed, PREFIX + key_id.encode()))
        except CorruptError:
            raise CorruptError(f"the access key {key_id} does not authenticate") from None


def _check(document: bytes) -> None:
    if document:
        policy.parse(document, None)

"""The form of a presence, and its codec: what a hub sees of it is a keyed hash and noise of one size.

Spec: docs/format/presence.md. Thread-safe.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import Enum
from typing import Final

from backend.errors import CorruptError, FormatError
from backend.keys import DriveKeys
from backend.system import SEAL_OVERHEAD, keyed_hash, open_sealed, seal
from backend.upstream import SealedPresence
from backend.wire import PRESENCE_SIZE

VERSION: Final = 1
MAX_HOST: Final = 64
MAX_PATH: Final = 360
"""Bytes of a path; of a longer one these are its last."""
_MAGIC: Final = b"drivefs presence 1\0"
_HEAD: Final = struct.Struct("<BBIQQQQBH")
_NAMED: Final = struct.Struct("<BQ")
_SIZE: Final = PRESENCE_SIZE - SEAL_OVERHEAD


class Activity(Enum):
    """What a device is doing with a file."""

    EDITING = 1
    UPLOADING = 2


_DOES: Final[Mapping[Activity, str]] = {
    Activity.EDITING: "open for writing on",
    Activity.UPLOADING: "being uploaded by",
}
_LATEST: Final = 1 << 62


@dataclass(frozen=True, slots=True)
class Present:
    """`device` does it with `inode` since `since_ns`, and said so at `time_ns`, by its own clock. `size`: of
    the file, in bytes. `path`: from the drive's root; the end of it where it is long; empty: not known.
    `host`: the name of its machine."""

    activity: Activity
    device: int
    inode: int
    since_ns: int
    time_ns: int
    size: int
    host: bytes
    path: bytes


def sentence(present: Present) -> str:
    """One line for people and programs."""
    host = "".join(each if each.isprintable() else "?" for each in present.host.decode(errors="replace"))
    begun = datetime.fromtimestamp(present.since_ns // 10**9, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    return f"{_DOES[present.activity]} {host} (device {present.device}) since {begun}"


class PresenceCodec:
    """Of the drive whose keys these are."""

    def __init__(self, keys: DriveKeys) -> None:
        self._seals = keys.presence
        self._names = keys.presence_id

    def seal(self, present: Present) -> SealedPresence:
        """For the hub. What is too long is cut."""
        key, host, path = self._key(present), present.host[:MAX_HOST], present.path[-MAX_PATH:]
        head = _HEAD.pack(
            VERSION,
            present.activity.value,
            present.device,
            present.inode,
            present.since_ns,
            present.time_ns,
            present.size,
            len(host),
            len(path),
        )
        return SealedPresence(key, seal(self._seals, (head + host + path).ljust(_SIZE, b"\0"), _MAGIC + key))

    def open(self, sealed: SealedPresence) -> Present:
        """`CorruptError`: nobody who has the drive's key said that, or of another file; `FormatError`: of a
        newer version."""
        data = open_sealed(self._seals, sealed.body, _MAGIC + sealed.key)
        version, activity, device, inode, since_ns, time_ns, size, host, path = _HEAD.unpack_from(data)
        if version != VERSION:
            raise FormatError(f"a presence of version {version} is not known here (known: {VERSION})")
        at = _HEAD.size + host
        try:
            found = Activity(activity)
        except ValueError:
            raise CorruptError(f"a presence of an activity {activity}, which is none") from None
        if max(since_ns, time_ns) >= _LATEST:
            raise CorruptError("a presence of no moment")
        names = data[_HEAD.size : at], data[at : at + path]
        present = Present(found, device, inode, since_ns, time_ns, size, *names)
        if self._key(present) != sealed.key:
            raise CorruptError("a presence that lies under the key of another file")
        return present

    def _key(self, present: Present) -> bytes:
        return keyed_hash(self._names, _NAMED.pack(present.activity.value, present.inode))

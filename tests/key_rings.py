"""Key rings in tests: of a drive that has had some epochs, and of a log."""

from __future__ import annotations

from collections.abc import Iterable

from backend.commits.authority_format import decode_authority
from backend.keys.key_ring import KeyRing
from backend.keys.keys import DriveKeys
from backend.upstream import Commit, KeyEpoch

DRIVE = bytes(16)


def ring_of(drive_key: bytes = b"k" * 32, epochs: int = 1, drive: bytes = DRIVE) -> KeyRing:
    """Of a drive with so many epochs."""
    ring = KeyRing(drive, DriveKeys(drive_key, drive))
    add_epochs(ring, None, epochs)
    return ring


def add_epochs(ring: KeyRing, newest: KeyEpoch | None, count: int) -> KeyEpoch | None:
    """So many more epochs after `newest`; the last."""
    for _ in range(count):
        newest = ring.next_after(newest)
        ring.learn_all([newest])
    return newest


def ring_of_log(drive: bytes, keys: DriveKeys, commits: Iterable[tuple[Commit, bytes]]) -> KeyRing:
    """One that knows the epochs which the commits begin."""
    ring = KeyRing(drive, keys)
    for commit, _ in commits:
        begun = decode_authority(commit.authority)
        ring.learn_all([] if begun is None else [begun])
    return ring


def changed(
    epoch: KeyEpoch, *, number: int | None = None, wrapped: bytes | None = None, before: bytes | None = None
) -> KeyEpoch:
    """The same but for what is given."""
    return KeyEpoch(
        epoch.number if number is None else number,
        epoch.wrapped if wrapped is None else wrapped,
        epoch.before if before is None else before,
    )

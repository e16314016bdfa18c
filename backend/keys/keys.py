"""The keys that a drive has for life: a random drive key, and a sub-key for each purpose. What seals content
derives from the key of an epoch (`backend.keys.epoch_keys`), and the drive key wraps that.

No key serves two purposes (a key per mode is what the gocryptfs audit of 2017 asked for). The drive's
id is bound too, so that two drives made from one drive key by mistake still share nothing.
"""

from __future__ import annotations

import os
from typing import Final

from backend.system import KEY_SIZE, derive

DRIVE_ID_SIZE: Final = 16


def new_drive_key() -> bytes:
    """A fresh random drive key."""
    return os.urandom(KEY_SIZE)


class DriveKeys:
    """The 32-byte sub-keys of a drive. Immutable; never shows a key in its repr. Thread-safe."""

    __slots__ = (
        "access",
        "block_id",
        "chunker",
        "device",
        "epoch",
        "lease",
        "object",
        "pack",
        "presence",
        "presence_id",
        "snapshot_hash",
    )

    access: Final[bytes]
    """Seals the access keys of the doors."""
    block_id: Final[bytes]
    """Keys the hash that names a block."""
    chunker: Final[bytes]
    """Keys where content is cut."""
    device: Final[bytes]
    """Seals the private keys of devices in their state folders."""
    epoch: Final[bytes]
    """Wraps the keys of epochs (`backend.keys.epoch_keys`), which seal all content."""
    lease: Final[bytes]
    """Authenticates lease records."""
    object: Final[bytes]
    """Authenticates the copies of commits and roots."""
    pack: Final[bytes]
    """Seals the trailer index of packs (by a key derived per pack), authenticates fragments (by one derived
    from it)."""
    presence: Final[bytes]
    """Seals what a device says of what it is doing."""
    presence_id: Final[bytes]
    """Keys the hash that names the file of it."""
    snapshot_hash: Final[bytes]
    """Keys the hash of a snapshot's database, which its root holds."""

    def __init__(self, drive_key: bytes, drive_id: bytes) -> None:
        """`drive_key` is 32 bytes, `drive_id` 16; `ValueError` otherwise."""
        if len(drive_key) != KEY_SIZE or len(drive_id) != DRIVE_ID_SIZE:
            raise ValueError("a drive key has 32 bytes and a drive id 16")
        self.access = derive(drive_key, "access", drive_id)
        self.block_id = derive(drive_key, "block id", drive_id)
        self.chunker = derive(drive_key, "chunker", drive_id)
        self.device = derive(drive_key, "device", drive_id)
        self.epoch = derive(drive_key, "epoch", drive_id)
        self.lease = derive(drive_key, "lease", drive_id)
        self.object = derive(drive_key, "object", drive_id)
        self.pack = derive(drive_key, "pack", drive_id)
        self.presence = derive(drive_key, "presence", drive_id)
        self.presence_id = derive(drive_key, "presence id", drive_id)
        self.snapshot_hash = derive(drive_key, "snapshot hash", drive_id)

    def __repr__(self) -> str:
        return "DriveKeys(hidden)"

    def __reduce__(self) -> str:
        raise TypeError("keys are not pickled")

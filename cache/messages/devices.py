"""The calls about a drive's devices and key epochs: `drivefs device`, `drivefs key new-epoch`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from cache.messages.call import Call, Nothing


@dataclass(frozen=True, slots=True)
class DeviceShown:
    """`host`: the name of its machine when it was added, percent-encoded. `commits`: how many it made.
    `here`: it is the one that answers."""

    number: int
    host: str
    commits: int
    revoked: bool
    here: bool


@dataclass(frozen=True, slots=True)
class DevicesShown:
    """All that the drive ever had, by number, and the newest key epoch."""

    devices: tuple[DeviceShown, ...]
    key_epoch: int


@dataclass(frozen=True, slots=True)
class DeviceNamed:
    number: int


@dataclass(frozen=True, slots=True)
class DeviceRevoked:
    """The device, and the key epoch that began with that."""

    device: DeviceShown
    key_epoch: int


@dataclass(frozen=True, slots=True)
class EpochBegun:
    key_epoch: int


DEVICES: Final = Call("devices", Nothing, DevicesShown)
DEVICE_REVOKE: Final = Call("device-revoke", DeviceNamed, DeviceRevoked)
EPOCH_BEGIN: Final = Call("key-epoch-begin", Nothing, EpochBegun)

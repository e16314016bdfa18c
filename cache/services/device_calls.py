"""The calls about the devices of a running drive, as `cache.messages.devices` has them."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

from cache.drive import Drive
from cache.messages import (
    DEVICE_REVOKE,
    DEVICES,
    EPOCH_BEGIN,
    DeviceNamed,
    DeviceRevoked,
    DeviceShown,
    DevicesShown,
    EpochBegun,
    Nothing,
    Service,
)
from cache.services.devices import Devices


def device_services(drive: Drive) -> list[Service[Any, Any]]:
    """See the module."""
    devices = Devices(drive)

    def shown() -> list[DeviceShown]:
        return [
            DeviceShown(row.number, quote(row.host), commits, row.is_revoked, row.number == devices.own)
            for row, commits in devices.all()
        ]

    async def listed(_: Nothing) -> DevicesShown:
        return DevicesShown(tuple(shown()), devices.key_epoch)

    async def revoke(named: DeviceNamed) -> DeviceRevoked:
        row = await devices.revoke(named.number)
        (device,) = [each for each in shown() if each.number == row.number]
        return DeviceRevoked(device, devices.key_epoch)

    async def begin_epoch(_: Nothing) -> EpochBegun:
        return EpochBegun(await devices.begin_epoch())

    return [Service(DEVICES, listed), Service(DEVICE_REVOKE, revoke), Service(EPOCH_BEGIN, begin_epoch)]

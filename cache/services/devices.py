"""The devices of a running drive: who they are, having one revoked, and a new key epoch.

Invariants:
1. A device is revoked, and a key epoch begins, by one commit (`cache.publish.key_epochs`). When a call
   returns that commit is in the log. If a call fails after it was accepted, it is in the journal and will be.
2. Nobody revokes the device that it is: its changes could not be published any more.

Event-loop thread only.
"""

from __future__ import annotations

from collections.abc import Sequence

from backend.errors import NotFoundError, ReadOnlyError, UsageError
from cache.drive import Drive
from cache.namespace import DeviceRow, Namespace, Operation, RevokeDevice
from cache.publish import next_epoch


class Devices:
    """See the module."""

    def __init__(self, drive: Drive) -> None:
        self._drive = drive

    @property
    def _namespace(self) -> Namespace:
        return self._drive.ledger.namespace

    @property
    def own(self) -> int:
        """The number of the device that this is; 0 if it only reads."""
        return 0 if self._drive.read_only else self._namespace.device

    @property
    def key_epoch(self) -> int:
        """The newest that is published; 0 if there is none yet."""
        newest = self._namespace.epochs.as_of(self._namespace.head().number)
        return 0 if newest is None else newest.number

    def all(self) -> Sequence[tuple[DeviceRow, int]]:
        """All that the drive ever had, by number, each with the number of its commits."""
        devices = self._namespace.devices
        return [(each, devices.sequence_of(each.number)) for each in devices.all()]

    async def revoke(self, number: int) -> DeviceRow:
        """`NotFoundError`: there is none of that number. `UsageError`: it is revoked already, or this one, or
        as of `next_epoch`. `ReadOnlyError`; what accepting and publishing raise."""
        self._require_writing()
        await self._drive.sync()
        await self._drive.accept_together(lambda: self._revocation(number))
        await self._drive.sync()
        return self._required(number)

    def _revocation(self, number: int) -> list[Operation]:
        row = self._required(number)
        if row.is_revoked:
            raise UsageError(f"device {number} is revoked already")
        if number == self.own:
            raise UsageError(f"this is device {number}: another device of the drive has to revoke it")
        return [RevokeDevice(number), *self._next_epoch()]

    def _required(self, number: int) -> DeviceRow:
        row = self._namespace.devices.of(number)
        if row is None:
            raise NotFoundError(f"the drive has no device {number}; drivefs device list shows those it has")
        return row

    async def begin_epoch(self) -> int:
        """A key epoch that began after the call, by this device or by another; its number. `ReadOnlyError`,
        `UsageError` as of `next_epoch`; what accepting and publishing raise."""
        self._require_writing()
        await self._drive.sync()
        await self._drive.accept_together(self._next_epoch)
        await self._drive.sync()
        return self.key_epoch

    def _next_epoch(self) -> list[Operation]:
        return next_epoch(self._drive.ledger, self._drive.publisher.identity.ring)

    def _require_writing(self) -> None:
        if self._drive.read_only:
            raise ReadOnlyError("the drive is open for reading only")

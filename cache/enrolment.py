"""Enrolment: a state folder becomes a device of its drive before it accepts the first change.

Invariants:
1. The file with number and private key is durable before the log says that there is such a device. A process
   that is killed between the two adds the same device at its next opening, or finds it added.
2. The commit that adds a device is made by it, holds nothing else but the name of its host and, on a drive
   that has none, the first key epoch, and comes before all its other commits. Holding the drive's keys is the
   authority for it (no hub gives numbers).
3. A folder becomes a new device when the log has commits of its device that the folder does not know as its
   own. Then the folder is a copy of another one, or another one is its copy (a restored home, a cloned
   machine).
4. The namespace counts the commits that the journal calls published as those of the device that wrote the
   journal. So it is saved, and durable, before another device goes on with it.
5. A number is taken from the state at the head of the log: a device that came second takes the next.

A folder that is known costs a small file to read. Event-loop thread only.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import Final

import trio

from backend.errors import AwayError, ConflictError, CorruptError, ReadOnlyError
from backend.failpoints import declare
from backend.keys import DriveKeys, KeyRing
from backend.system import new_signing_key, verifying_key
from backend.upstream import Commit, Upstream
from cache.local import DeviceFile, DeviceIdentity, LocalState
from cache.namespace import AddDevice, NewEpoch, Operation, SetWriter, encode
from cache.publish import CommitIdentity, require_growth, sealed

log = logging.getLogger(__name__)

KEPT: Final = declare("enrolment.kept", "the state folder is a device; the log does not know it")
ADDED: Final = declare("enrolment.added", "the log knows the device; its namespace does not")
BECAME: Final = declare("enrolment.became", "the namespace is the device's; nothing of it is in the journal")


class Enrolment:
    """Of one opening, after recovery. `is_copy`: commits of this device came from the log. `follow` applies
    the commits that the drive lacks, and has what is not published go on from there. `is_shared`: others
    write the drive at the same time."""

    def __init__(
        self,
        local: LocalState,
        upstream: Upstream,
        ring: KeyRing,
        keys: DriveKeys,
        host: bytes,
        follow: Callable[[], Awaitable[None]],
        *,
        is_copy: bool,
        is_shared: bool,
    ) -> None:
        self._local = local
        self._file = DeviceFile(local.folder, local.environment)
        self._upstream = upstream
        self._ring = ring
        self._sealing_key = keys.device
        self._host = host
        self._is_copy = is_copy
        self._follow = follow
        self._is_shared = is_shared

    async def run(self) -> DeviceIdentity:
        """The device that this folder is, which the log knows. Raises what `enrolled` raises."""
        identity = await self.enrolled()
        await self._become(identity.number)
        return identity

    async def enrolled(self) -> DeviceIdentity:
        """The device that this folder is to be, which the log knows. `ReadOnlyError`: it was revoked; what
        the upstream raises."""
        identity = self._kept()
        if identity is not None and self._is_copy and self._is_copied(identity):
            identity = self._made()
        while identity is None or not self._is_known(identity):
            if identity is None or self._local.namespace.devices.of(identity.number) is not None:
                identity = self._made()
            try:
                await self._add(identity)
            except AwayError as error:
                raise AwayError(
                    f"{error}; {self._local.folder} is no device of the drive yet, and becomes one only "
                    "with the upstream"
                ) from error
        return identity

    async def _become(self, number: int) -> None:
        """Later records of the journal are of device `number`. The namespace, which says so, is durable
        before them: after a power cut it would count them as those of the device before."""
        if number != self._local.device:
            self._local.namespace.become(number)
            self._local.ledger.save()
            await trio.to_thread.run_sync(self._local.namespace.checkpoint)
            self._local.environment.failpoints.reached(BECAME)

    def _kept(self) -> DeviceIdentity | None:
        try:
            return self._file.load(self._sealing_key, self._ring.drive_id)
        except CorruptError as error:
            self._local.note(
                f"the key by which {self._local.folder} is a device of the drive cannot be used ({error}): "
                f"it is kept as {self._file.set_aside()}, and the folder is a new device now"
            )
            return None

    def _is_known(self, identity: DeviceIdentity) -> bool:
        row = self._local.namespace.devices.of(identity.number)
        if row is None or row.key != verifying_key(identity.key):
            return False
        if row.is_revoked:
            raise ReadOnlyError(
                f"this machine is device {identity.number} of the drive, which was revoked: the drive can be "
                "mounted for reading only"
            )
        return True

    def _is_copied(self, identity: DeviceIdentity) -> bool:
        """Whether a copy made commits as that device. A first commit that was not noted is its own. Raises as
        `_is_known`: whoever revokes a device means all copies of it."""
        return self._is_known(identity) and self._local.namespace.devices.sequence_of(identity.number) > 1

    def _made(self) -> DeviceIdentity:
        """A new device, which the folder is from now on."""
        identity = DeviceIdentity(self._local.namespace.devices.next_number(), new_signing_key())
        self._file.keep(identity, self._sealing_key, self._ring.drive_id)
        self._local.environment.failpoints.reached(KEPT)
        return identity

    async def _add(self, identity: DeviceIdentity) -> None:
        head = self._local.ledger.head
        try:
            await self._upstream.log.append(self._first_commit(identity), head)
        except ConflictError:
            if not self._is_shared:
                raise
        self._local.environment.failpoints.reached(ADDED)
        await self._follow()
        await require_growth(self._upstream.log, head, self._local.ledger.head)

    def _first_commit(self, identity: DeviceIdentity) -> Commit:
        namespace, device, epoch = self._local.namespace, identity.number, self._upstream.epoch
        head = namespace.head()
        operations: tuple[Operation, ...] = (
            AddDevice(device, verifying_key(identity.key), self._host),
            SetWriter(device, self._host),
        )
        newest = namespace.epochs.newest()
        if newest is None:
            newest = self._ring.next_after(None)
            operations = (*operations, NewEpoch(*newest))
        time_ns = max(self._local.environment.wall_clock(), namespace.last_commit_time() + 1)
        draft = Commit(head.number + 1, head.hash, device, epoch, time_ns, (), (), b"", 1, newest.number)
        maker = CommitIdentity(self._ring, device, self._host, identity.key)
        return sealed(maker, draft, list(map(encode, operations)))

"""The devices of a drive: numbers and public keys, system-versioned like all else.

Invariants (event-loop thread only):
1. A number is given once. The row of a device stays when it is revoked, so that nobody gets its number or its
   key again.
2. The rows as of commit N-1 say who may make commit N, and with which sequence.
3. Sequences change when a commit is recorded and at no other time.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from backend.errors import NoSpaceError
from cache.namespace.operations import MAX_DEVICE
from cache.namespace.refusals import OutOfDateError
from cache.namespace.row_store import RowStore, insert
from cache.namespace.schema import value_of

_COLUMNS: Final = ("number", "key", "host", "revoked", "born")
_PUT: Final = insert("device", _COLUMNS)
_OF: Final = "SELECT number, key, host, revoked FROM device WHERE number = ?"
_EACH: Final = "SELECT number, key, host, revoked FROM device ORDER BY number"
_REVOKED_IN: Final = "SELECT 1 FROM device WHERE revoked AND born = ? LIMIT 1"
_TAKEN: Final = "SELECT 1 FROM device WHERE number = ? OR key = ?"
_PUT_SEQUENCE: Final = insert("device_sequence", ("number", "sequence", "born"))
_PUT_PAST_SEQUENCE: Final = insert("past_device_sequence", ("number", "sequence", "born", "died"))
_SEQUENCE_OF: Final = "SELECT sequence, born FROM device_sequence WHERE number = ?"
_HIGHEST: Final = "SELECT coalesce(max(number), 0) FROM device"
_KEEP: Final = (
    f"INSERT INTO past_device SELECT {', '.join(_COLUMNS)}, ? FROM device WHERE number = ? AND born < ?"
)


class DeviceRow(NamedTuple):
    """A device. `key`: the 32 bytes of its Ed25519 public key. `host`: the name of its machine when it was
    added, for people."""

    number: int
    key: bytes
    host: bytes
    is_revoked: bool


class DeviceStore:
    """The tables `device` and `device_sequence`, and their past."""

    def __init__(self, store: RowStore) -> None:
        self._store = store
        self._newest: dict[int, tuple[int, int]] = {}
        """by device, the sequence of its newest recorded commit, and that commit; zeros if it has none"""

    def forget(self) -> None:
        """Drop the cache."""
        self._newest.clear()

    def of(self, number: int) -> DeviceRow | None:
        """The device of that number, revoked or not; None if there never was one."""
        found = self._store.connection.execute(_OF, (number,)).fetchone()
        if found is None:
            return None
        _, key, host, revoked = found
        return DeviceRow(number, key, host, bool(revoked))

    def sequence_of(self, number: int) -> int:
        """The sequence of the device's newest recorded commit; 0 if it has none."""
        return self._newest_of(number)[0]

    def _newest_of(self, number: int) -> tuple[int, int]:
        if number not in self._newest:
            found = self._store.connection.execute(_SEQUENCE_OF, (number,)).fetchone()
            self._newest[number] = found or (0, 0)
        return self._newest[number]

    def recorded(self, commit: int, number: int) -> None:
        """The device has made `commit`, which comes after all that were recorded."""
        sequence, born = self._newest_of(number)
        if sequence:
            self._store.put_off(_PUT_PAST_SEQUENCE, (number, sequence, born, commit))
        self._store.put_off(_PUT_SEQUENCE, (number, sequence + 1, commit))
        self._newest[number] = sequence + 1, commit

    def next_number(self) -> int:
        """One that nobody had. `NoSpaceError`: all are given."""
        highest = int(value_of(self._store.connection, _HIGHEST))
        if highest >= MAX_DEVICE:
            raise NoSpaceError("the drive has given all its device numbers: no other machine can write it")
        return highest + 1

    def add(self, number: int, key: bytes, host: bytes) -> None:
        """`OutOfDateError` if another device has or had the number or the key."""
        if self._store.connection.execute(_TAKEN, (number, key)).fetchone() is not None:
            raise OutOfDateError(f"an operation adds device {number}, whose number or key is given already")
        self._store.write(_PUT, [(number, key, host, 0, self._store.commit)])

    def is_any_revoked_in(self, commit: int) -> bool:
        """Whether a device is revoked by that commit."""
        return self._store.connection.execute(_REVOKED_IN, (commit,)).fetchone() is not None

    def all(self) -> list[DeviceRow]:
        """All that were ever added, by number."""
        found = self._store.connection.execute(_EACH)
        return [DeviceRow(number, key, host, bool(revoked)) for number, key, host, revoked in found]

    def revoke(self, number: int) -> None:
        """`OutOfDateError` if there is no such device, or it is revoked."""
        device = self.of(number)
        if device is None or device.is_revoked:
            raise OutOfDateError(f"an operation revokes device {number}, which is none of the drive's")
        commit = self._store.commit
        self._store.write(_KEEP, [(commit, number, commit)])
        self._store.write(_PUT, [(number, device.key, device.host, 1, commit)])

"""The key ring: the key epochs of a drive that this machine has heard of, each opened at its first use.

Invariants:
1. An epoch is learnt from the log, or from what the log's commits made: the ring never has one that was not
   published.
2. The newest epoch that was followed seals what is new. All that the ring knows open what is there, those too
   that are ahead: the log has them after what was followed, and others have sealed under them since.

`learn` and `learn_ahead` are for one thread at a time; all else is thread-safe.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from backend.errors import CorruptError, UnknownEpochError
from backend.keys.epoch_keys import (
    FIRST_EPOCH,
    EpochKeys,
    new_epoch_key,
    open_before,
    seal_before,
    unwrap,
    wrap,
)
from backend.keys.keys import DriveKeys
from backend.upstream import KeyEpoch


class KeyRing:
    """Of the drive `drive_id`, whose keys are `keys`."""

    def __init__(self, drive_id: bytes, keys: DriveKeys) -> None:
        self.drive_id: Final = drive_id
        self._wrapping_key = keys.epoch
        self._wrapped: dict[int, bytes] = {}
        self._ahead: dict[int, bytes] = {}
        self._keys: dict[int, tuple[bytes, EpochKeys]] = {}
        """those that were opened, each with what it was opened from"""
        self._newest = 0

    def learn(self, number: int, wrapped: bytes) -> None:
        """The drive has this epoch. Idempotent; the later word counts."""
        self._wrapped[number] = wrapped
        self._newest = max(self._newest, number)

    def learn_all(self, epochs: Iterable[KeyEpoch]) -> None:
        """As `learn`, of each."""
        for epoch in epochs:
            self.learn(epoch.number, epoch.wrapped)

    def learn_ahead(self, epoch: KeyEpoch) -> None:
        """The log has this epoch after what was followed. Idempotent; the later word counts, and that of
        `learn` before it. `CorruptError` as of `opened`."""
        self.opened(epoch.number, epoch.wrapped)
        self._ahead[epoch.number] = epoch.wrapped

    @property
    def newest(self) -> EpochKeys:
        """Those that seal what is new. `UnknownEpochError`: the drive has none yet; `CorruptError` as of
        `opened`."""
        return self.of(self._newest)

    def of(self, number: int) -> EpochKeys:
        """The keys of an epoch. `UnknownEpochError`: the ring has not heard of it; `CorruptError` as of
        `opened`."""
        wrapped = self._wrapped.get(number) or self._ahead.get(number)
        known = self._keys.get(number)
        if known is not None and known[0] == wrapped:
            return known[1]
        if wrapped is None:
            raise UnknownEpochError(
                f"it is sealed under key epoch {number}, and this machine knows those up to {self._newest}"
            )
        keys = self.opened(number, wrapped)
        self._keys[number] = wrapped, keys
        return keys

    def opened(self, number: int, wrapped: bytes) -> EpochKeys:
        """The keys of an epoch, which need not be published. `CorruptError`: who made it has not the drive's
        key, or made it as another one."""
        return EpochKeys(number, self._unwrapped(number, wrapped), self.drive_id)

    def up_to(self, number: int) -> list[bytes]:
        """The wrapped keys of the epochs from the first to `number`. `UnknownEpochError`."""
        for each in range(FIRST_EPOCH, number + 1):
            self.of(each)
        return [self._wrapped[each] for each in range(FIRST_EPOCH, number + 1)]

    def next_after(self, before: KeyEpoch | None) -> KeyEpoch:
        """A new epoch after `before`; None: the first. `CorruptError`: `before` does not open."""
        key, number = new_epoch_key(), FIRST_EPOCH if before is None else before.number + 1
        sealed = b""
        if before is not None:
            earlier = self._unwrapped(before.number, before.wrapped)
            sealed = seal_before(key, self.drive_id, number, earlier)
        return KeyEpoch(number, wrap(self._wrapping_key, self.drive_id, number, key), sealed)

    def check(self, epoch: KeyEpoch, before: KeyEpoch | None) -> None:
        """`CorruptError` unless `epoch` was made by who has the drive's key, for its number, and whoever has
        its key can open `before` and so all earlier ones."""
        key = self._unwrapped(epoch.number, epoch.wrapped)
        if before is None:
            return
        earlier = open_before(key, self.drive_id, epoch.number, epoch.before)
        if earlier != self._unwrapped(before.number, before.wrapped):
            raise CorruptError(f"key epoch {epoch.number} does not open the one before it")

    def _unwrapped(self, number: int, wrapped: bytes) -> bytes:
        try:
            return unwrap(self._wrapping_key, self.drive_id, number, wrapped)
        except CorruptError:
            raise CorruptError(f"key epoch {number} does not open: its key was made by nobody here") from None

    def __repr__(self) -> str:
        return f"KeyRing({self._newest} epochs, hidden)"

    def __reduce__(self) -> str:
        raise TypeError("keys are not pickled")

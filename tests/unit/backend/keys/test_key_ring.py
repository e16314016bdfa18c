"""Key epochs: what is sealed under one opens for whoever has the drive's key, or a later epoch's, and no one
else."""

from __future__ import annotations

import pickle

import pytest

from backend.errors import CorruptError, UnknownEpochError
from backend.keys.epoch_keys import EpochKeys, new_epoch_key, open_before, unwrap
from backend.keys.key_ring import KeyRing
from backend.keys.keys import DriveKeys
from backend.upstream import KeyEpoch
from tests.key_rings import DRIVE, add_epochs, changed, ring_of

KEYS = DriveKeys(b"k" * 32, DRIVE)


def values(keys: EpochKeys) -> list[bytes]:
    return [keys.block, keys.commit, keys.root]


def epochs_of(ring: KeyRing, count: int) -> list[KeyEpoch]:
    found: list[KeyEpoch] = []
    for _ in range(count):
        found.append(ring.next_after(found[-1] if found else None))
    return found


def test_each_epoch_and_purpose_has_a_key_of_its_own() -> None:
    ring = ring_of(epochs=5)
    keys = [key for number in range(1, 6) for key in values(ring.of(number))]
    assert len({*keys}) == 15
    assert {len(key) for key in keys} == {32}
    assert not {*keys} & {getattr(KEYS, name) for name in DriveKeys.__slots__}


def test_keys_are_the_same_every_time() -> None:
    assert values(EpochKeys(1, bytes(range(32)), DRIVE)) == values(EpochKeys(7, bytes(range(32)), DRIVE))
    # Kept: a change here would make every drive unreadable.
    assert EpochKeys(1, bytes(range(32)), DRIVE).block.hex()[:16] == "4db208e20f17c5e9"


def test_who_has_the_drive_key_and_the_public_part_opens_all() -> None:
    ring = ring_of()
    epochs = epochs_of(ring, 4)
    other = KeyRing(DRIVE, KEYS)
    other.learn_all(reversed(epochs))
    assert other.newest.number == 4
    for epoch in epochs:
        assert values(other.of(epoch.number)) == values(ring.opened(epoch.number, epoch.wrapped))


def test_who_has_one_epoch_opens_those_before_it() -> None:
    epochs = epochs_of(ring_of(), 4)
    keys = [unwrap(KEYS.epoch, DRIVE, each.number, each.wrapped) for each in epochs]
    for at in range(3, 0, -1):
        assert open_before(keys[at], DRIVE, at + 1, epochs[at].before) == keys[at - 1]
        with pytest.raises(CorruptError):
            open_before(keys[at - 1], DRIVE, at + 1, epochs[at].before)


def test_an_epoch_is_bound_to_drive_and_number() -> None:
    ring = ring_of()
    one, two, three = epochs_of(ring, 3)
    for wrong in (
        changed(two, number=3),
        changed(two, wrapped=one.wrapped),
        changed(two, wrapped=two.wrapped[:-1] + bytes([two.wrapped[-1] ^ 1])),
        changed(two, before=three.before),
        changed(three, number=2),
    ):
        with pytest.raises(CorruptError):
            ring.check(wrong, one)
    for other in (ring_of(b"o" * 32), ring_of(drive=b"d" * 16)):
        with pytest.raises(CorruptError):
            other.check(two, one)
    ring.check(one, None)
    ring.check(two, one)
    ring.check(three, two)


def test_an_epoch_that_leads_to_another_past_is_refused() -> None:
    """Whoever is given its key later could not read what came before."""
    ring = ring_of()
    one, other = epochs_of(ring, 1) + epochs_of(ring, 1)
    with pytest.raises(CorruptError, match="does not open the one before"):
        ring.check(ring.next_after(other), one)


def test_what_nobody_has_said_is_unknown() -> None:
    ring = KeyRing(DRIVE, KEYS)
    with pytest.raises(UnknownEpochError):
        _ = ring.newest
    newest = add_epochs(ring, None, 2)
    for number in (0, 3, 2**32 - 1):
        with pytest.raises(UnknownEpochError, match="up to 2"):
            ring.of(number)
    add_epochs(ring, newest, 1)
    assert ring.of(3) is ring.newest
    assert len(ring.up_to(3)) == 3


def test_the_later_word_counts() -> None:
    ring = ring_of()
    before, epoch = ring.newest, epochs_of(ring, 1)[0]
    ring.learn_all([epoch])
    assert values(ring.newest) != values(before)
    assert ring.up_to(1) == [epoch.wrapped]


def test_an_epoch_that_is_to_be_followed_opens_and_seals_nothing() -> None:
    ring = ring_of(epochs=0)
    first, second, third = epochs_of(ring, 3)
    ring.learn_all([first])
    ring.learn_ahead(third)
    assert values(ring.of(3)) == values(ring.opened(3, third.wrapped))
    assert ring.newest.number == 1
    with pytest.raises(UnknownEpochError, match="up to 1"):
        ring.of(2)
    for wrong in (changed(second, number=3), changed(second, wrapped=bytes(60))):
        with pytest.raises(CorruptError):
            ring.learn_ahead(wrong)
    followed = epochs_of(ring, 3)
    ring.learn_all(followed)
    assert values(ring.of(3)) == values(ring.opened(3, followed[2].wrapped))
    assert ring.newest.number == 3


def test_keys_are_not_shown_or_pickled() -> None:
    ring = ring_of()
    assert repr(ring) == "KeyRing(1 epochs, hidden)"
    assert repr(ring.newest) == "EpochKeys(1, hidden)"
    for secret in (ring, ring.newest):
        with pytest.raises(TypeError):
            pickle.dumps(secret)


def test_epoch_keys_are_random() -> None:
    assert len({new_epoch_key() for _ in range(10)}) == 10

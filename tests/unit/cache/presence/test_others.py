"""What is believed of others' presences: a hub may show old ones, and does not make them last."""

from __future__ import annotations

import os
from dataclasses import replace

from trio.testing import MockClock

from backend.upstream import PRESENCE_SECONDS, SealedPresence
from backend.wire import PRESENCE_SIZE
from cache.presence import Activity, Others, PresenceCodec, Present
from cache.presence.others import SKEW
from tests.drives import KEYS
from tests.mock_time import environment_of

CODEC = PresenceCodec(KEYS)
BEGUN = 1_000.0


def present(seconds: float, inode: int = 7, device: int = 2) -> Present:
    """Said at that time of the mock clock."""
    now = int((BEGUN + seconds) * 1e9)
    return Present(Activity.EDITING, device, inode, now, now, 5, b"laptop", b"f%d" % inode)


def others_at(clock: MockClock) -> Others:
    clock.jump(BEGUN - clock.current_time())
    return Others(CODEC, environment_of(clock), lambda device: device < 9)


def take(others: Others, *shown: Present) -> list[int]:
    """The files that count, when the hub shows these."""
    others.take([CODEC.seal(each) for each in shown])
    return [each.inode for each in others.now()]


async def test_a_set_counts_until_the_next_and_for_a_minute_at_most(mock_clock: MockClock) -> None:
    others = others_at(mock_clock)
    assert take(others, present(0, 7), present(0, 8)) == [7, 8]
    mock_clock.jump(PRESENCE_SECONDS / 2)
    assert take(others, present(30, 8)) == [8]
    mock_clock.jump(PRESENCE_SECONDS - 1)
    assert [each.inode for each in others.now()] == [8]
    mock_clock.jump(1)
    assert others.now() == []


async def test_what_is_shown_again_does_not_last_longer(mock_clock: MockClock) -> None:
    others, shown = others_at(mock_clock), present(0)
    for _ in range(3):
        assert take(others, shown) == [7]
        mock_clock.jump(PRESENCE_SECONDS / 3)
    for _ in range(30):
        assert take(others, shown) == []
        mock_clock.jump(PRESENCE_SECONDS)


async def test_an_older_set_is_never_shown_after_a_newer_one(mock_clock: MockClock) -> None:
    others = others_at(mock_clock)
    old, new = present(0, 7), present(1, 8)
    assert take(others, old) == [7]
    assert take(others, new) == [8]
    assert take(others, old) == []
    assert take(others, old, new) == [8]
    assert take(others) == []
    assert take(others, old) == []


async def test_one_of_another_time_is_not_shown_to_who_has_just_begun(mock_clock: MockClock) -> None:
    for seconds in (-SKEW - 1, SKEW + 1):
        assert take(others_at(mock_clock), present(seconds)) == []
    assert take(others_at(mock_clock), present(1 - SKEW)) == [7]


async def test_nobody_but_devices_of_the_drive_is_heard(mock_clock: MockClock) -> None:
    others = others_at(mock_clock)
    assert take(others, present(0, 7, device=9), present(0, 8, device=3)) == [8]
    junk = SealedPresence(os.urandom(32), os.urandom(PRESENCE_SIZE))
    moved = SealedPresence(CODEC.seal(present(5, 6)).key, CODEC.seal(present(5, 5)).body)
    others.take([junk, moved, CODEC.seal(replace(present(6, 4), path=b""))])
    assert [each.inode for each in others.now()] == [4]

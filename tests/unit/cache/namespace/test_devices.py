"""cache.namespace.devices: devices are added once, revoked for good, and seen as of each commit."""

from __future__ import annotations

from pathlib import Path

import pytest

from cache.namespace.devices import DeviceRow
from cache.namespace.namespace import Namespace
from cache.namespace.operations import MAX_DEVICE, AddDevice, RevokeDevice
from cache.namespace.refusals import OutOfDateError

ONE, OTHER = b"1" * 32, b"2" * 32


@pytest.fixture
def namespace(tmp_path: Path) -> Namespace:
    """Device 7 was added in commit 1, which is recorded; commit 2 is open."""
    made = Namespace(str(tmp_path / "namespace.db"))
    made.apply(AddDevice(7, ONE, b"desk"))
    made.record_commit(1, bytes(32), 1)
    made.begin_commit(2)
    return made


def test_a_device_is_there_until_it_is_revoked(namespace: Namespace) -> None:
    assert namespace.devices.of(7) == DeviceRow(7, ONE, b"desk", is_revoked=False)
    assert namespace.devices.of(8) is None
    namespace.apply(RevokeDevice(7))
    assert namespace.devices.of(7) == DeviceRow(7, ONE, b"desk", is_revoked=True)
    with pytest.raises(OutOfDateError):
        namespace.apply(RevokeDevice(7))


@pytest.mark.parametrize("revoked", [False, True])
def test_neither_number_nor_key_is_given_twice(namespace: Namespace, *, revoked: bool) -> None:
    if revoked:
        namespace.apply(RevokeDevice(7))
    for again in (AddDevice(7, OTHER, b"x"), AddDevice(8, ONE, b"x")):
        with pytest.raises(OutOfDateError):
            namespace.apply(again)
    namespace.apply(AddDevice(MAX_DEVICE, OTHER, b"x"))


def test_what_is_taken_back_was_never_added_or_revoked(namespace: Namespace) -> None:
    namespace.apply(RevokeDevice(7))
    namespace.apply(AddDevice(8, OTHER, b"x"))
    namespace.undo(1)
    assert namespace.devices.of(7) == DeviceRow(7, ONE, b"desk", is_revoked=False)
    assert namespace.devices.of(8) is None


def test_sequences_count_recorded_commits_and_are_taken_back(namespace: Namespace) -> None:
    for commit, device in ((2, 7), (3, 8), (4, 7)):
        namespace.begin_commit(commit)
        namespace.record_commit(commit, bytes(32), commit, device)
    assert [namespace.devices.sequence_of(device) for device in (7, 8, 9)] == [2, 1, 0]
    namespace.undo(3)
    assert [namespace.devices.sequence_of(device) for device in (7, 8, 9)] == [1, 1, 0]
    namespace.undo(1)
    assert [namespace.devices.sequence_of(device) for device in (7, 8, 9)] == [0, 0, 0]

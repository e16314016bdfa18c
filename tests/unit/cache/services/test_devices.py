"""The devices of a running drive: listed, revoked, and the key epochs that begin with that."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from backend.errors import FencedError, NotFoundError, ReadOnlyError, TransientError, UsageError
from cache.drive import Drive
from cache.namespace.operations import Operation, RevokeDevice
from cache.publish.key_epochs import next_epoch
from cache.services.calls import services_of
from cache.services.devices import Devices
from tests.contents import KINDS, Kind, content
from tests.drives import QUIET, content_of, make_file, opened
from tests.memory_upstream import MemoryUpstream

SHARED = replace(QUIET, is_shared=True)


async def call(drive: Drive, name: str, **arguments: Any) -> dict[str, Any]:
    return dict(await services_of(drive)[name](arguments))


def new_epoch(drive: Drive) -> list[Operation]:
    return next_epoch(drive.ledger, drive.publisher.identity.ring)


async def with_two(folder: Path, upstream: MemoryUpstream) -> None:
    """A drive that two folders were devices of."""
    for name in ("desk", "lap top"):
        async with opened(folder / name, upstream, replace(QUIET, host=name)) as drive:
            await make_file(drive, name.encode(), name.encode() * 1000)
            await drive.sync()


async def test_they_are_listed(tmp_path: Path) -> None:
    upstream = MemoryUpstream()
    await with_two(tmp_path, upstream)
    async with opened(tmp_path / "desk", upstream) as drive:
        listed = await call(drive, "devices")
        await Devices(drive).revoke(2)
        after = await call(drive, "devices")
    assert [tuple(each.values()) for each in listed["devices"]] == [
        (1, "desk", 2, False, True),
        (2, "lap%20top", 2, False, False),
    ]
    assert (listed["key_epoch"], after["key_epoch"]) == (1, 2)
    assert [each["revoked"] for each in after["devices"]] == [False, True]
    async with opened(tmp_path / "reader", upstream, read_only=True) as drive:
        assert [each["here"] for each in (await call(drive, "devices"))["devices"]] == [False, False]


async def test_one_commit_revokes_and_begins_an_epoch(tmp_path: Path) -> None:
    upstream = MemoryUpstream()
    await with_two(tmp_path, upstream)
    async with opened(tmp_path / "desk", upstream) as drive:
        await make_file(drive, b"unpublished", b"u" * 5000)
        told = await call(drive, "device-revoke", number=2)
        assert told == {"device": told["device"], "key_epoch": 2}
        assert told["device"]["revoked"]
        await make_file(drive, b"after", b"a" * 5000)
        await drive.sync()
    commits = [commit for commit, _ in upstream.commits]
    assert [commit.key_epoch for commit in commits] == [1] * 5 + [2, 2]
    assert [bool(commit.authority) for commit in commits] == [True, *[False] * 4, True, False]
    with pytest.raises(ReadOnlyError, match=r"device 2 .* was revoked"):
        async with opened(tmp_path / "lap top", upstream):
            pass
    for reader in ("lap top", "new"):
        async with opened(tmp_path / reader, upstream, read_only=True) as drive:
            assert await content_of(drive, b"after") == b"a" * 5000
            assert await content_of(drive, b"desk") == b"desk" * 1000


@pytest.mark.parametrize(
    ("number", "kind", "text"),
    [
        (3, NotFoundError, "no device 3"),
        (0, NotFoundError, "no device 0"),
        (1, UsageError, "is device 1"),
    ],
)
async def test_what_cannot_be_revoked_changes_nothing(
    tmp_path: Path, number: int, kind: type[Exception], text: str
) -> None:
    upstream = MemoryUpstream()
    await with_two(tmp_path, upstream)
    async with opened(tmp_path / "desk", upstream) as drive:
        with pytest.raises(kind, match=text):
            await Devices(drive).revoke(number)
        await Devices(drive).revoke(2)
        with pytest.raises(UsageError, match="already"):
            await Devices(drive).revoke(2)
        assert Devices(drive).key_epoch == 2
        assert not drive.ledger.unpublished
    async with opened(tmp_path / "reader", upstream, read_only=True) as drive:
        for change in (lambda: Devices(drive).revoke(1), Devices(drive).begin_epoch):
            with pytest.raises(ReadOnlyError):
                await change()


async def test_after_the_last_key_epoch_none_begins_and_the_drive_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Regression: the journal took one more, which no namespace does, and the drive could not be opened."""
    for module in ("backend.commits.authority_format", "cache.namespace.form", "cache.publish.key_epochs"):
        monkeypatch.setattr(f"{module}.MAX_EPOCH", 2)
    upstream = MemoryUpstream()
    await with_two(tmp_path, upstream)
    async with opened(tmp_path / "desk", upstream) as drive:
        assert await Devices(drive).begin_epoch() == 2
        for change in (lambda: Devices(drive).revoke(2), Devices(drive).begin_epoch):
            with pytest.raises(UsageError, match="2 key epochs"):
                await change()
        assert not drive.ledger.unpublished
        await make_file(drive, b"after", b"after")
        await drive.sync()
    async with opened(tmp_path / "reader", upstream, read_only=True) as drive:
        assert await content_of(drive, b"after") == b"after"


@pytest.mark.parametrize("kind", KINDS)
async def test_contents_of_all_epochs_are_read_cold_and_in_any_order(tmp_path: Path, kind: Kind) -> None:
    """One file has blocks of several, and equal content of an earlier one is not stored again."""
    upstream, size = MemoryUpstream(), 300_000
    expected = bytearray(4 * size)
    async with opened(tmp_path / "one", upstream) as drive:
        made = await make_file(drive, b"f", bytes(1))
        for epoch in range(1, 5):
            data = content(kind, size, epoch)
            expected[(epoch - 1) * size : epoch * size] = data
            await drive.write(made.inode, (epoch - 1) * size, data)
            await drive.settle(made.inode)
            await drive.sync()
            stored = len(upstream.stored)
            await make_file(drive, b"copy of the first %d" % epoch, content(kind, size, 1))
            await drive.sync()
            assert epoch == 1 or len(upstream.stored) == stored
            assert await Devices(drive).begin_epoch() == epoch + 1
        await drive.snapshots.make()
    for folder in ("one", "two"):
        async with opened(tmp_path / folder, upstream, read_only=folder == "two") as drive:
            inode = drive.lookup(1, b"f").inode
            for start in (3 * size - 50, 0, 2 * size, size - 7, 4 * size - 9, 100, 3 * size + 70_000):
                drive.blocks.clear()
                assert bytes(await drive.read(inode, start, 4000)) == expected[start : start + 4000]
            drive.blocks.clear()
            assert await content_of(drive, b"f") == expected
            for epoch in range(1, 5):
                assert await content_of(drive, b"copy of the first %d" % epoch) == content(kind, size, 1)


@pytest.mark.logs_warnings
async def test_what_could_not_be_published_is_published_later(tmp_path: Path) -> None:
    upstream = MemoryUpstream()
    await with_two(tmp_path, upstream)
    async with opened(tmp_path / "desk", upstream, crash=True) as drive:
        upstream.fail_after_append = True
        with pytest.raises(TransientError):
            await Devices(drive).revoke(2)
    async with opened(tmp_path / "desk", upstream) as drive:
        await drive.sync()
        assert Devices(drive).key_epoch == 2
        assert [row.is_revoked for row, _ in Devices(drive).all()] == [False, True]
        await make_file(drive, b"after", b"a" * 5000)
        await drive.sync()
    async with opened(tmp_path / "new", upstream, read_only=True) as drive:
        assert await content_of(drive, b"after") == b"a" * 5000


@pytest.mark.logs_warnings
async def test_two_devices_that_begin_an_epoch_at_once_begin_one(tmp_path: Path) -> None:
    """And a device that is revoked while others write is revoked all the same."""
    upstream = MemoryUpstream()
    async with (
        opened(tmp_path / "one", upstream, SHARED) as one,
        opened(tmp_path / "two", upstream, SHARED) as two,
        opened(tmp_path / "three", upstream, SHARED, crash=True) as three,
    ):
        await two.publisher.follow()
        await one.publisher.follow()
        for drive, name in ((one, b"1"), (two, b"2")):
            await make_file(drive, name, name * 5000)
        two.ledger.accept_all(new_epoch(two))
        assert await Devices(one).begin_epoch() == 2
        await two.sync()
        assert Devices(two).key_epoch == 2
        await one.publisher.follow()
        revoked = three.ledger.namespace.device
        await make_file(two, b"more", b"m" * 5000)
        two.ledger.accept_all([RevokeDevice(revoked)])
        assert await Devices(one).begin_epoch() == 3
        await two.sync()
        assert Devices(two).key_epoch == 4
        with pytest.raises(FencedError, match="was revoked"):
            await three.sync()
        await one.publisher.follow()
        for drive in (one, two):
            drive.blocks.clear()
            for name in (b"1", b"2"):
                assert await content_of(drive, name) == name * 5000
    async with opened(tmp_path / "new", upstream, read_only=True) as drive:
        assert await content_of(drive, b"more") == b"m" * 5000

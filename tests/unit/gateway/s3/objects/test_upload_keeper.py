"""Uploads that are not complete: listed, aborted by hand, and ended when nothing comes."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import NoReturn

import pytest
import trio

from backend.errors import NotFoundError, TransientError, UsageError
from backend.system import THIS_MACHINE
from cache.drive import Drive
from cache.errors import StaleError
from cache.file_clock import FileClock
from cache.journal import Need
from cache.namespace import ROOT_INODE, Operation
from gateway.s3.objects import (
    Metadata,
    ObjectLayer,
    S3Error,
    Upload,
    UploadKeeper,
    open_objects,
    upload_keeper,
)
from tests.contents import content
from tests.memory_hub import Line
from tests.object_layers import BUCKET, accepting, body_of, code_of, keys, layer_on, put, refused
from tests.sync.drives import Hub

DAY = 86400
OTHER = "other"


class Calendar:
    """The time of a drive, its files' stamps too: now, and days later."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.days = 0.0
        monkeypatch.setattr(FileClock, "now", lambda _: self.now())

    def now(self) -> int:
        return time.time_ns() + int(self.days * DAY) * 10**9

    @asynccontextmanager
    async def layer(self, folder: Path) -> AsyncIterator[tuple[ObjectLayer, Drive, UploadKeeper]]:
        environment = replace(THIS_MACHINE, wall_clock=self.now)
        async with layer_on(folder, buckets=(BUCKET, OTHER), environment=environment) as (layer, drive):
            yield layer, drive, UploadKeeper(drive)


@pytest.fixture
def calendar(monkeypatch: pytest.MonkeyPatch) -> Calendar:
    return Calendar(monkeypatch)


async def begin(layer: ObjectLayer, key: bytes, bucket: str = BUCKET, parts: int = 1) -> Upload:
    upload = await layer.create_upload(bucket, key, Metadata())
    for number in range(1, parts + 1):
        await part(layer, upload, number)
    return upload


async def part(layer: ObjectLayer, upload: Upload, number: int) -> None:
    data = content("log", 3000 + number, number)
    await layer.put_part(
        upload.bucket, upload.key, upload.upload_id, number, body_of(data), len(data), accepting
    )


def begun(layer: ObjectLayer, bucket: str = BUCKET) -> list[bytes]:
    return [item if isinstance(item, bytes) else item.key for item in layer.uploads(bucket).items]


async def test_uploads_to_which_nothing_comes_end_after_a_week(tmp_path: Path, calendar: Calendar) -> None:
    async with calendar.layer(tmp_path) as (layer, drive, keeper):
        await put(layer, "object", b"stays")
        left = await begin(layer, b"left", parts=3)
        gone_on_with = await begin(layer, b"gone on with")
        folder = next(each.folder for each in keeper.left() if each.upload == left)
        assert [entry.name for entry in drive.entries(folder, 0, 9)] == [b"00001", b"00002", b"00003"]
        calendar.days = 6.9
        assert await keeper.sweep() == 0
        await part(layer, gone_on_with, 2)
        calendar.days = 7.1
        assert await keeper.sweep() == 1
        assert begun(layer) == [b"gone on with"]
        await drive.sync()
        with pytest.raises(StaleError):
            drive.live_row(folder)
        assert refused(lambda: layer.upload(BUCKET, b"left", left.upload_id)) == "NoSuchUpload"
        assert await code_of(part(layer, left, 4)) == "NoSuchUpload"
        calendar.days = 14.2
        assert await keeper.sweep() == 1
        assert (begun(layer), await keys(layer)) == ([], [b"object"])


async def test_a_bucket_says_for_how_long(tmp_path: Path, calendar: Calendar) -> None:
    async with calendar.layer(tmp_path) as (layer, _, keeper):
        for bucket in (BUCKET, OTHER):
            await begin(layer, b"key", bucket)
        await keeper.keep(BUCKET, 30 * DAY)
        with pytest.raises(UsageError, match="a day at least"):
            await keeper.keep(OTHER, DAY - 1)
        with pytest.raises(S3Error):
            await keeper.keep("missing", DAY)
        calendar.days = 29
        assert await keeper.sweep() == 1
        assert (begun(layer), begun(layer, OTHER)) == ([b"key"], [])
        await keeper.keep(BUCKET, DAY)
        assert await keeper.sweep() == 1


async def test_what_is_left_is_listed_and_aborted_by_its_id(tmp_path: Path, calendar: Calendar) -> None:
    async with calendar.layer(tmp_path) as (layer, _, keeper):
        assert keeper.left() == []
        second = await begin(layer, b"a", OTHER)
        calendar.days = 1
        first = await begin(layer, b"b", BUCKET, parts=2)
        left = keeper.left()
        assert [each.upload for each in left] == [first, second]
        assert [each.bucket.name for each in left] == [BUCKET, OTHER]
        assert [each.kept for each in left] == [7 * DAY, 7 * DAY]
        assert [keeper.parts(each) for each in left] == [(2, 3001 + 3002), (1, 3001)]
        assert left[0].touched_ns - left[1].touched_ns >= DAY * 10**9
        await keeper.abort(first.upload_id)
        assert [each.upload for each in keeper.left()] == [second]
        with pytest.raises(NotFoundError, match=first.upload_id):
            await keeper.abort(first.upload_id)


async def test_what_is_left_of_a_bucket_that_the_mount_took_away_ends_too(
    tmp_path: Path, calendar: Calendar
) -> None:
    async with calendar.layer(tmp_path) as (layer, drive, keeper):
        await keeper.keep(BUCKET, 30 * DAY)
        await begin(layer, b"key", parts=2)
        await drive.remove_directory(ROOT_INODE, BUCKET.encode())
        assert [each.bucket.name for each in keeper.left()] == [""]
        calendar.days = 6
        assert await keeper.sweep() == 0
        calendar.days = 8
        assert await keeper.sweep() == 1
        assert keeper.left() == []


async def test_a_clock_that_jumped_ends_nothing(tmp_path: Path, calendar: Calendar) -> None:
    async with calendar.layer(tmp_path) as (layer, drive, keeper):
        await begin(layer, b"key")
        await drive.sync()
        calendar.days = 1000
        assert await keeper.sweep() == 0
        assert begun(layer) == [b"key"]


@pytest.mark.logs_warnings
async def test_a_device_that_its_hub_does_not_reach_ends_no_uploads_of_others(
    tmp_path: Path, calendar: Calendar
) -> None:
    """Regression: it did not know of the parts that came elsewhere, and took those that it knew away."""
    hub, line = Hub(tmp_path), Line()
    environment = replace(THIS_MACHINE, wall_clock=calendar.now)
    async with (
        hub.device(1, environment=environment) as first,
        hub.device(2, environment=environment, line=line) as second,
    ):
        layer, keeper = await open_objects(first), UploadKeeper(second)
        await layer.create_bucket(BUCKET)
        upload = await begin(layer, b"key")
        await first.sync()
        await second.reach_head(told=False)
        line.cut()
        calendar.days = 8
        await part(layer, upload, 2)
        await first.sync()
        assert await keeper.sweep() == 0
        line.mend()
        with trio.fail_after(30):
            await second.contact.there()
        assert await keeper.sweep() == 0
        assert [keeper.parts(left)[0] for left in keeper.left()] == [2]
        calendar.days = 16
        assert await keeper.sweep() == 1


@pytest.mark.logs_warnings
async def test_a_device_that_cannot_follow_its_hub_ends_no_uploads_of_others(
    tmp_path: Path, calendar: Calendar, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The hub answers, and says that there is more than this device knows."""
    hub = Hub(tmp_path)
    environment = replace(THIS_MACHINE, wall_clock=calendar.now)
    async with (
        hub.device(1, environment=environment) as first,
        hub.device(2, environment=environment) as second,
    ):
        layer, keeper = await open_objects(first), UploadKeeper(second)
        await layer.create_bucket(BUCKET)
        upload = await begin(layer, b"key")
        await first.sync()
        assert await second.reach_head(told=False)

        async def fail(*_: object) -> NoReturn:
            raise TransientError("no commits now")

        with monkeypatch.context() as patch:
            patch.setattr(second.upstream.log, "commits_after", fail)
            calendar.days = 8
            await part(layer, upload, 2)
            await first.sync()
            assert not await second.reach_head(told=False)
            assert await keeper.sweep() == 0
            assert not second.contact.is_lost
        assert [keeper.parts(left)[0] for left in keeper.left()] == [1]
        assert await second.reach_head(told=False)
        assert [keeper.parts(left)[0] for left in keeper.left()] == [2]


def before_next_change(
    monkeypatch: pytest.MonkeyPatch, drive: Drive, happen: Callable[[], Awaitable[object]]
) -> None:
    """Have this happen while the next change waits for room."""
    accept = drive.accept_together

    async def later(make: Callable[[], list[Operation]], need: Need) -> None:
        monkeypatch.setattr(drive, "accept_together", accept)
        await happen()
        await accept(make, need)

    monkeypatch.setattr(drive, "accept_together", later)


async def test_a_part_that_comes_in_between_keeps_the_upload(
    tmp_path: Path, calendar: Calendar, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with calendar.layer(tmp_path) as (layer, drive, keeper):
        upload = await begin(layer, b"key")
        calendar.days = 8
        before_next_change(monkeypatch, drive, partial(part, layer, upload, 2))
        assert await keeper.sweep() == 0
        assert begun(layer) == [b"key"]
        calendar.days = 16
        assert await keeper.sweep() == 1


async def test_an_upload_that_ends_in_between_is_not_aborted_again(
    tmp_path: Path, calendar: Calendar, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with calendar.layer(tmp_path) as (layer, drive, keeper):
        upload = await begin(layer, b"key", parts=2)
        before_next_change(monkeypatch, drive, partial(keeper.abort, upload.upload_id))
        with pytest.raises(NotFoundError, match=upload.upload_id):
            await keeper.abort(upload.upload_id)
        assert keeper.left() == []


async def test_it_sweeps_at_once_and_again_and_again(
    tmp_path: Path, calendar: Calendar, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(upload_keeper, "PERIOD", 0.01)
    async with calendar.layer(tmp_path) as (layer, _, keeper), trio.open_nursery() as nursery:
        nursery.start_soon(keeper.run)
        for turn in (1, 2):
            await begin(layer, b"key")
            calendar.days = 8 * turn
            with trio.fail_after(30):
                while begun(layer):
                    await trio.sleep(0.01)
        nursery.cancel_scope.cancel()

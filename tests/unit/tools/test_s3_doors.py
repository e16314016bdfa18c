"""The S3 doors of a running drive."""

from __future__ import annotations

import math
import time
from dataclasses import replace
from pathlib import Path

import pytest
import trio

from backend.errors import NotFoundError, UsageError
from backend.system import THIS_MACHINE
from cache.file_clock import FileClock
from cache.messages import (
    S3_UPLOAD_ABORT,
    S3_UPLOAD_KEEP,
    S3_UPLOADS,
    S3DoorWanted,
    S3Served,
    S3UploadNamed,
    S3UploadsKept,
    by_name,
)
from gateway.s3.objects import Metadata, open_objects
from tests.drives import KEYS, opened
from tests.memory_upstream import MemoryUpstream
from tests.past import make_folder
from tools.s3_doors import S3Doors

DAY = 86400
LISTENING = S3DoorWanted("127.0.0.1:0", "served")


async def test_a_door_ends_what_was_left_in_the_folder_that_it_serves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    days = 0
    environment = replace(THIS_MACHINE, wall_clock=lambda: time.time_ns() + days * DAY * 10**9)
    monkeypatch.setattr(FileClock, "now", lambda _: environment.wall_clock())
    async with opened(tmp_path, MemoryUpstream(), environment=environment) as drive:
        layer = await open_objects(drive, await make_folder(drive, b"served"))
        await layer.create_bucket("bucket")
        await layer.create_upload("bucket", b"key", Metadata())
        days = 8
        doors = S3Doors(drive, KEYS)
        async with trio.open_nursery() as nursery:
            await nursery.start(doors.run)
            await doors.open(LISTENING)
            with trio.fail_after(30):
                while layer.uploads("bucket").items:
                    await trio.sleep(0.01)
                await doors.end()


async def test_doors_are_idle_for_as_long_as_the_one_that_answered_last(tmp_path: Path) -> None:
    async with opened(tmp_path, MemoryUpstream()) as drive:
        await make_folder(drive, b"served")
        doors = S3Doors(drive, KEYS)
        assert doors.idle_seconds() == math.inf
        async with trio.open_nursery() as nursery:
            await nursery.start(doors.run)
            ports = [int((await doors.open(LISTENING)).addresses[0].rpartition(":")[2]) for _ in range(2)]
            for port in ports:
                before = trio.current_time()
                stream = await trio.open_tcp_stream("127.0.0.1", port)
                async with stream:
                    await stream.send_all(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
                    assert b"".join([part async for part in stream]).startswith(b"HTTP/1.1")
                assert doors.idle_seconds() <= trio.current_time() - before
            await doors.end()


async def test_uploads_are_asked_for_without_a_door(tmp_path: Path) -> None:
    async with opened(tmp_path, MemoryUpstream()) as drive:
        layer = await open_objects(drive, await make_folder(drive, b"served"))
        await layer.create_bucket("bucket")
        upload = await layer.create_upload("bucket", b"key", Metadata())
        calls = by_name(S3Doors(drive, KEYS).services())
        served = S3Served("served")
        assert (await calls[S3_UPLOADS.name].answer(S3Served(""))).uploads == ()
        await calls[S3_UPLOAD_KEEP.name].answer(S3UploadsKept("served", "bucket", 30 * DAY))
        (shown,) = (await calls[S3_UPLOADS.name].answer(served)).uploads
        assert (shown.bucket, shown.key, shown.upload_id) == ("bucket", "key", upload.upload_id)
        assert (shown.begun_ns, shown.kept) == (upload.initiated_ns, 30 * DAY)
        await calls[S3_UPLOAD_ABORT.name].answer(S3UploadNamed("served", upload.upload_id))
        assert (await calls[S3_UPLOADS.name].answer(served)).uploads == ()
        with pytest.raises(NotFoundError, match="no upload"):
            await calls[S3_UPLOAD_ABORT.name].answer(S3UploadNamed("served", upload.upload_id))
        with pytest.raises(NotFoundError, match="other"):
            await calls[S3_UPLOAD_KEEP.name].answer(S3UploadsKept("served", "other", DAY))
        with pytest.raises(UsageError, match="no such folder"):
            await calls[S3_UPLOADS.name].answer(S3Served("elsewhere"))

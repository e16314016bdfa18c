"""Objects of a drive that other devices write, too: what is sent is of one state."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from cache.attributes import AttributeChange
from cache.drive import Drive
from cache.namespace.operations import ROOT_INODE
from gateway.s3.objects import ChangedError, ObjectLayer, open_objects
from tests import contents
from tests.contents import KINDS, Kind
from tests.drives import QUIET
from tests.object_layers import BUCKET, get, put
from tests.sync.drives import Hub

SIZE = (2 << 20) + 5
"""Three pieces are sent."""


@asynccontextmanager
async def two_devices(folder: Path, data: bytes) -> AsyncIterator[tuple[ObjectLayer, Drive, Drive]]:
    """The door of a device that has an object `a`, its drive, and another device."""
    hub = Hub(folder)
    async with hub.device(1, options=QUIET) as drive, hub.device(2, options=QUIET) as other:
        layer = await open_objects(drive)
        await layer.create_bucket(BUCKET)
        await put(layer, "a", data)
        await publish(drive, other)
        yield layer, drive, other


async def publish(maker: Drive, follower: Drive) -> None:
    """What one device has changed, the other has."""
    await maker.sync()
    await follower.publisher.follow()


def place(drive: Drive) -> tuple[int, int]:
    """The bucket, and the inode of the object."""
    bucket = drive.lookup(ROOT_INODE, BUCKET.encode()).inode
    return bucket, drive.lookup(bucket, b"a").inode


async def write(drive: Drive, data: bytes) -> None:
    _, inode = place(drive)
    await drive.write(inode, 0, data)
    await drive.settle(inode)


async def shorten(drive: Drive, data: bytes) -> None:
    await drive.set_attributes(place(drive)[1], AttributeChange(size=len(data) // 2))


async def delete(drive: Drive, data: bytes) -> None:
    await drive.unlink(place(drive)[0], b"a")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("change", [write, shorten, delete])
async def test_an_object_that_another_device_changes_while_it_is_sent_is_cut_off(
    tmp_path: Path, kind: Kind, change: Callable[[Drive, bytes], Awaitable[None]]
) -> None:
    """Regression: the rest was of the new state, or the door failed with an error of the drive."""
    data, later = contents.content(kind, SIZE, 1), contents.content("random", SIZE, 2)
    async with two_devices(tmp_path, data) as (layer, drive, other):
        opened = layer.open(BUCKET, b"a")
        pieces = opened.read(0, SIZE)
        assert data.startswith(bytes(await anext(pieces)))
        await change(other, later)
        await publish(other, drive)
        with pytest.raises(ChangedError):
            await anext(pieces)
        opened.close()


async def test_an_object_beside_is_sent_whole(tmp_path: Path) -> None:
    data = contents.content("text", SIZE, 1)
    async with two_devices(tmp_path, data) as (layer, drive, other):
        await put(layer, "b", data)
        opened = layer.open(BUCKET, b"b")
        pieces = opened.read(0, SIZE)
        first = bytes(await anext(pieces))
        await write(other, contents.content("random", SIZE, 2))
        await publish(other, drive)
        await publish(drive, other)
        assert first + b"".join([bytes(piece) async for piece in pieces]) == data
        opened.close()
        assert await get(layer, "a") == contents.content("random", SIZE, 2)

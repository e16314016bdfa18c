"""Any calls of the S3 door and of the mount, in any state of versioning, in the door's own folder too: each
is answered or refused, the drive goes on, and what is listed can be had."""

from __future__ import annotations

import contextlib
import random
from pathlib import Path
from tempfile import TemporaryDirectory

from hypothesis import given, settings
from hypothesis import strategies as st

from cache.drive import Drive
from cache.errors import FileSystemError
from cache.namespace import ROOT_INODE
from gateway.s3.objects import (
    Metadata,
    ObjectLayer,
    PartToJoin,
    S3Error,
    Source,
    ToDelete,
    VersionInfo,
)
from tests.drives import make_file
from tests.memory_upstream import MemoryUpstream
from tests.object_layers import BUCKET, accepting, body_of, get, keys, layer_on, put

KEYS = [b"a", b"a/", b"a/b", b"a/b/c", b"a//b", b"/", b"b", b"n" * 260, b".s3~x"]
NAMES = [b"a", b"b", b".s3~self", b".s3~e", b"\xff", b".s3~n" + b"n" * 250]
DOOR = ["put", "put", "delete", "delete", "version", "copy", "tags", "upload", "part", "complete", "abort"]
MOUNT = ["file", "folder", "remove", "rename", "write", "exchange"]
OTHER = ["enable", "suspend", "sync", "many"]


class Caller:
    """Makes random calls of both."""

    def __init__(self, layer: ObjectLayer, drive: Drive, chance: random.Random) -> None:
        self.layer = layer
        self.drive = drive
        self.chance = chance

    async def call(self, name: str) -> None:
        with contextlib.suppress(S3Error, FileSystemError):
            if name in DOOR:
                await self._of_door(name, self.chance.choice(KEYS))
            elif name in MOUNT:
                await self._of_mount(name)
            else:
                await self._other(name)

    async def _of_door(self, name: str, key: bytes) -> None:
        layer, data = self.layer, self.chance.choice([b"", b"x" * 500, b"y" * 3000])
        if name == "put":
            await put(layer, key, data)
        elif name == "delete":
            await layer.delete(BUCKET, key)
        elif name == "version":
            version = await self._version()
            await layer.delete(BUCKET, version.key, version.version_id)
        elif name == "copy":
            version = await self._version()
            await layer.copy(Source(BUCKET, version.key, version.version_id), BUCKET, key)
        elif name == "tags":
            version = await self._version()
            await layer.set_tags(BUCKET, version.key, {"k": "v"}, version.version_id)
        elif name == "upload":
            await layer.create_upload(BUCKET, key, Metadata())
        else:
            await self._of_upload(name, data)

    async def _version(self) -> VersionInfo:
        found = (await self.layer.list_versions(BUCKET)).items
        if not found:
            raise S3Error("NoSuchKey")
        version = self.chance.choice(found)
        assert isinstance(version, VersionInfo)
        return version

    async def _of_upload(self, name: str, data: bytes) -> None:
        layer, begun = self.layer, self.layer.uploads(BUCKET).items
        if not begun:
            return
        upload = self.chance.choice(begun)
        assert not isinstance(upload, bytes)
        at = (BUCKET, upload.key, upload.upload_id)
        if name == "part":
            await layer.put_part(*at, self.chance.choice([1, 2]), body_of(data), len(data), accepting)
        elif name == "abort":
            await layer.abort(*at)
        else:
            parts = layer.parts_of(*at, 0, 10).parts
            named = [PartToJoin(part.number, part.etag) for part in parts[:1]]
            await layer.complete(*at, named, lambda _: accepting(""))

    async def _of_mount(self, name: str) -> None:
        drive, directory = self.drive, self._folder()
        what = self.chance.choice(NAMES)
        if name == "file":
            await make_file(drive, what, b"mount", directory)
        elif name == "folder":
            await drive.make_node(directory, what, 0o040755, 0, 0, 0)
        elif name == "write":
            await drive.write(drive.lookup(directory, self._name(directory)).inode, 0, b"new")
        elif name == "remove":
            await self._remove(directory, self._name(directory))
        else:
            other = self._folder()
            swap = name == "exchange"
            there = self._name(other) if swap else what
            await drive.rename(directory, self._name(directory), other, there, exchange=swap)

    async def _remove(self, directory: int, name: bytes) -> None:
        if self.drive.live_row(self.drive.lookup(directory, name).inode).is_directory:
            await self.drive.remove_directory(directory, name)
        else:
            await self.drive.unlink(directory, name)

    def _folder(self) -> int:
        """A folder somewhere below the root."""
        inode = ROOT_INODE
        while self.chance.random() < 0.8:
            inner = [
                entry.attributes.inode
                for entry in self.drive.entries(inode, 0, 100)
                if self.drive.live_row(entry.attributes.inode).is_directory
            ]
            if not inner:
                break
            inode = self.chance.choice(inner)
        return inode

    def _name(self, directory: int) -> bytes:
        names = [entry.name for entry in self.drive.entries(directory, 0, 100)]
        return self.chance.choice(names or [b"none"])

    async def _other(self, name: str) -> None:
        if name == "sync":
            await self.drive.sync()
        elif name == "many":
            await self.layer.delete_many(BUCKET, [ToDelete(key) for key in KEYS])
        else:
            await self.layer.set_versioning(BUCKET, "Enabled" if name == "enable" else "Suspended")


async def check(layer: ObjectLayer) -> None:
    if BUCKET not in [bucket.name for bucket in layer.buckets()]:
        return  # the mount moved it away
    found = await keys(layer)
    assert found == sorted({*found})
    for key in found:
        assert len(await get(layer, key)) == layer.head(BUCKET, key).size
    listed = [item for item in (await layer.list_versions(BUCKET)).items if isinstance(item, VersionInfo)]
    assert [item.key for item in listed] == sorted(item.key for item in listed)
    latest = [item.key for item in listed if item.is_latest and not item.is_delete_marker]
    assert latest == found
    for item in listed:
        if not item.is_delete_marker:
            assert len(await get(layer, item.key, item.version_id)) == item.size


@settings(max_examples=60, deadline=None)
@given(st.lists(st.sampled_from([*DOOR, *MOUNT, *OTHER]), max_size=60), st.integers(0, 10**6), st.booleans())
async def test_the_drive_goes_on(calls: list[str], seed: int, crash: bool) -> None:
    with TemporaryDirectory() as folder:
        await run(Path(folder), calls, seed, crash)


async def run(folder: Path, calls: list[str], seed: int, crash: bool) -> None:
    upstream = MemoryUpstream()
    async with layer_on(folder, upstream, crash=crash) as (layer, drive):
        caller = Caller(layer, drive, random.Random(seed))
        for name in calls:
            await caller.call(name)
        await drive.fsync(ROOT_INODE)
        drive.ledger.save()
        await check(layer)
    async with layer_on(folder, upstream, buckets=()) as (layer, drive):
        await check(layer)
        await drive.sync()

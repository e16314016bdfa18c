"""Many clients at once, and the mount among them: what each is told is true."""

from __future__ import annotations

from pathlib import Path
from stat import S_IFDIR
from typing import Any

import pytest
import trio
import trio.testing

from cache.errors import FileSystemError, StaleError
from cache.namespace import ROOT_INODE
from gateway.s3.objects import (
    Checksums,
    Conditions,
    Metadata,
    ObjectLayer,
    PartToJoin,
    Source,
    ToDelete,
    open_objects,
)
from gateway.s3.objects.names import Names
from gateway.s3.objects.system_folder import SystemFolder
from tests.contents import content as made_of
from tests.drives import make_file, opened
from tests.memory_upstream import MemoryUpstream
from tests.object_layers import BUCKET, accepting, body_of, code_of, get, keys, layer_on, put

CLIENTS = 16
NEW = Conditions(if_none_match=("*",))


async def test_one_of_sixteen_makes_the_object(tmp_path: Path) -> None:
    async with layer_on(tmp_path) as (layer, _):
        codes: list[str] = []

        async def client(number: int) -> None:
            codes.append(await code_of(put(layer, "a", b"%d" % number * 3000, conditions=NEW)))

        async with trio.open_nursery() as nursery:
            for number in range(CLIENTS):
                nursery.start_soon(client, number)
        assert sorted(codes) == ["", *["PreconditionFailed"] * (CLIENTS - 1)]


@pytest.mark.parametrize("is_held", [True, False])
async def test_a_bucket_in_a_served_folder_that_the_mount_removed_changes_nothing(
    tmp_path: Path, is_held: bool
) -> None:
    """Its row is there still: a name in it would be in the journal, and in no namespace."""
    async with opened(tmp_path / "cache", MemoryUpstream()) as drive:
        served = (await drive.make_node(ROOT_INODE, b"served", S_IFDIR | 0o755, 0, 0, 0)).inode
        layer = await open_objects(drive, served)
        if is_held:
            drive.hold(served)
        await drive.remove_directory(ROOT_INODE, b"served")
        with pytest.raises(StaleError):
            await layer.create_bucket("bucket")
        with pytest.raises(StaleError):
            await SystemFolder(drive, Names(drive), served).make()
        assert not drive.ledger.has_diverged
        await make_file(drive, b"after")
        await drive.sync()


async def test_the_mount_may_be_the_one(tmp_path: Path) -> None:
    async with layer_on(tmp_path) as (layer, drive):
        bucket = layer.bucket(BUCKET).inode
        results: list[str] = []

        async def by_mount() -> None:
            try:
                await make_file(drive, b"a", b"mount", bucket)
                results.append("")
            except FileSystemError:
                results.append("EEXIST")

        async def client() -> None:
            results.append(await code_of(put(layer, "a", b"x" * 3000, conditions=NEW)))

        for _ in range(20):
            results.clear()
            async with trio.open_nursery() as nursery:
                for task in (client, by_mount, client):
                    nursery.start_soon(task)
            assert results.count("") == 1
            await layer.delete(BUCKET, b"a")


async def test_a_counter_by_conditions(tmp_path: Path) -> None:
    """Each of 16 clients adds one, ten times, by If-Match: none is lost."""
    async with layer_on(tmp_path) as (layer, _):
        await put(layer, "n", b"0")

        async def client() -> None:
            added = 0
            while added < 10:
                etag = layer.head(BUCKET, b"n").etag
                number = int(await get(layer, "n"))
                if layer.head(BUCKET, b"n").etag != etag:
                    continue
                said = Conditions(if_match=(etag,))
                added += not await code_of(put(layer, "n", b"%d" % (number + 1), conditions=said))

        async with trio.open_nursery() as nursery:
            for _ in range(CLIENTS):
                nursery.start_soon(client)
        assert int(await get(layer, "n")) == 10 * CLIENTS


async def test_objects_and_folders_of_one_name_at_once(tmp_path: Path) -> None:
    upstream = MemoryUpstream()
    async with layer_on(tmp_path, upstream, crash=True) as (layer, drive):

        async def client(number: int) -> None:
            for turn in range(12):
                key = (b"a", b"a/b", b"a/b/c", b"a/")[(number + turn) % 4]
                if (number * turn) % 3:
                    await put(layer, key, b"%d" % number)
                else:
                    await layer.delete_many(BUCKET, [ToDelete(key)])

        async with trio.open_nursery() as nursery:
            for number in range(8):
                nursery.start_soon(client, number)
        found = await keys(layer)
        await drive.sync()
    async with layer_on(tmp_path, upstream) as (layer, _):
        assert await keys(layer) == found
        for key in found:
            await get(layer, key)
            await layer.delete(BUCKET, key)
        await layer.delete_bucket(BUCKET)


async def test_layers_that_open_at_once_say_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with opened(tmp_path, MemoryUpstream()) as drive:
        accept, layers = drive.accept_together, []

        async def waiting(*said: Any) -> None:
            await trio.testing.wait_all_tasks_blocked()
            await accept(*said)

        async def open_one() -> None:
            layers.append(await open_objects(drive))

        monkeypatch.setattr(drive, "accept_together", waiting)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(open_one)
            nursery.start_soon(open_one)
        await layers[0].create_bucket(BUCKET)
        await make_file(drive, b"a", b"mount", layers[0].bucket(BUCKET).inode)
        assert layers[0].head(BUCKET, b"a") == layers[1].head(BUCKET, b"a")


async def reader(layer: ObjectLayer, seen: set[bytes]) -> None:
    while True:
        seen.add(await get(layer, "a"))
        await trio.lowlevel.checkpoint()


async def test_readers_see_whole_objects(tmp_path: Path) -> None:
    datas = [made_of("text", 200_000, n) for n in range(5)]
    async with layer_on(tmp_path) as (layer, drive):
        seen: set[bytes] = set()
        async with trio.open_nursery() as nursery:
            await put(layer, "a", datas[0])
            nursery.start_soon(reader, layer, seen)
            for data in datas:
                await put(layer, "a", data)
                await drive.sync()
                while data not in seen:
                    await trio.lowlevel.checkpoint()
            nursery.cancel_scope.cancel()
        assert seen == {*datas}


@pytest.mark.parametrize("when", [0, 1, 2, 3, 5, 8])
async def test_a_cancelled_put_is_all_or_nothing(tmp_path: Path, when: int) -> None:
    upstream = MemoryUpstream()
    async with layer_on(tmp_path, upstream, crash=True) as (layer, _):
        await put(layer, "a", b"old")
        with trio.CancelScope() as scope:

            async def cancel() -> None:
                for _ in range(when):
                    await trio.lowlevel.checkpoint()
                scope.cancel()

            async with trio.open_nursery() as nursery:
                nursery.start_soon(cancel)
                await put(layer, "a", b"new" * 100_000)
        seen = await get(layer, "a")
    async with layer_on(tmp_path, upstream) as (layer, drive):
        assert seen in (b"old", b"new" * 100_000)
        assert await get(layer, "a") in (b"old", seen)
        assert [entry.name for entry in drive.entries(layer.bucket(BUCKET).inode, 0, 9)] == [b"a"]
        assert drive.lookup(ROOT_INODE, BUCKET.encode()).nlink == 2


@pytest.mark.parametrize("when", [0, 1, 2, 3, 5, 8, 20])
async def test_of_completing_and_aborting_an_upload_one_is_done(tmp_path: Path, when: int) -> None:
    async with layer_on(tmp_path) as (layer, _):
        upload = await layer.create_upload(BUCKET, b"a", Metadata())
        data = made_of("random", 300_000)
        part = await layer.put_part(BUCKET, b"a", upload.upload_id, 1, body_of(data), len(data), accepting)
        named, codes = [PartToJoin(1, part.etag)], {}

        async def complete() -> None:
            call = layer.complete(BUCKET, b"a", upload.upload_id, named, lambda _: Checksums())
            codes["complete"] = await code_of(call)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(complete)
            for _ in range(when):
                await trio.lowlevel.checkpoint()
            codes["abort"] = await code_of(layer.abort(BUCKET, b"a", upload.upload_id))
        assert sorted(codes.values()) == ["", "NoSuchUpload"]
        assert await keys(layer) == ([] if codes["complete"] else [b"a"])


@pytest.mark.parametrize("when", [0, 1, 2, 3, 5, 8, 20])
async def test_a_copy_of_what_is_deleted_meanwhile_is_whole_or_of_nothing(tmp_path: Path, when: int) -> None:
    async with layer_on(tmp_path) as (layer, _):
        data = made_of("random", 300_000)
        await put(layer, "a", data)
        upload = await layer.create_upload(BUCKET, b"c", Metadata())
        source, codes = Source(BUCKET, b"a"), {}

        async def copy() -> None:
            codes["copy"] = await code_of(layer.copy(source, BUCKET, b"b"))

        async def copy_part() -> None:
            codes["part"] = await code_of(layer.copy_part(BUCKET, b"c", upload.upload_id, 1, source))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(copy)
            nursery.start_soon(copy_part)
            for _ in range(when):
                await trio.lowlevel.checkpoint()
            await layer.delete(BUCKET, b"a")
        assert {*codes.values()} <= {"", "NoSuchKey"}
        assert await keys(layer) == ([] if codes["copy"] else [b"b"])
        if not codes["copy"]:
            assert await get(layer, "b") == data


@pytest.mark.parametrize("when", [0, 1, 2, 3, 5, 8, 20])
async def test_a_bucket_that_is_removed_meanwhile_is_none(tmp_path: Path, when: int) -> None:
    async with layer_on(tmp_path, buckets=(BUCKET, "other")) as (layer, _):
        data = made_of("json", 300_000)
        await put(layer, "a", data, bucket="other")
        upload = await layer.create_upload(BUCKET, b"c", Metadata())
        part = await layer.put_part(BUCKET, b"c", upload.upload_id, 1, body_of(data), len(data), accepting)
        at, source = (BUCKET, b"c", upload.upload_id), Source("other", b"a")
        calls = {
            "copy": layer.copy(source, BUCKET, b"b"),
            "part": layer.copy_part(*at, 2, source),
            "complete": layer.complete(*at, [PartToJoin(1, part.etag)], lambda _: Checksums()),
            "put": put(layer, "d", data),
        }
        codes: dict[str, str] = {}

        async def call(name: str, awaitable: Any) -> None:
            codes[name] = await code_of(awaitable)

        async with trio.open_nursery() as nursery:
            for name, awaitable in calls.items():
                nursery.start_soon(call, name, awaitable)
            for _ in range(when):
                await trio.lowlevel.checkpoint()
            codes["delete"] = await code_of(layer.delete_bucket(BUCKET))
        if codes["delete"]:
            assert codes.pop("delete") == "BucketNotEmpty"
            assert {*codes.values()} <= {"", "NoSuchUpload"}
        else:
            assert {*codes.values()} <= {"", "NoSuchBucket", "NoSuchUpload"}
            assert [bucket.name for bucket in layer.buckets()] == ["other"]

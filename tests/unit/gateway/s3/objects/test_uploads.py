"""Multipart uploads."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import pytest

from cache.drive import Drive
from cache.namespace import ROOT_INODE
from gateway.s3.objects import (
    Checksums,
    Conditions,
    Metadata,
    ObjectLayer,
    ObjectPart,
    Part,
    PartToJoin,
    S3Error,
    Source,
    Upload,
)
from tests.contents import content as made_of
from tests.drives import make_file
from tests.memory_upstream import MemoryUpstream
from tests.object_layers import BUCKET, accepting, body_of, code_of, get, keys, layer_on, put, refused

KEY = b"big/object"
LARGE = 5 << 20


def whole(_parts: Sequence[Part]) -> Checksums:
    return Checksums()


@pytest.fixture
async def both(tmp_path: Path) -> AsyncIterator[tuple[ObjectLayer, Drive]]:
    async with layer_on(tmp_path) as both:
        yield both


async def part(layer: ObjectLayer, upload: Upload, number: int, data: bytes) -> PartToJoin:
    made = await layer.put_part(
        BUCKET, upload.key, upload.upload_id, number, body_of(data, 7), len(data), accepting
    )
    return PartToJoin(number, made.etag)


async def test_parts_are_joined_without_a_copy(tmp_path: Path) -> None:
    upstream = MemoryUpstream()
    datas = [made_of("random", LARGE, 1), made_of("log", LARGE + 17, 2), made_of("text", 100, 3)]
    async with layer_on(tmp_path, upstream, crash=True) as (layer, _):
        upload = await layer.create_upload(BUCKET, KEY, Metadata(user={"k": "v"}))
        named = [await part(layer, upload, 2 * n + 1, data) for n, data in enumerate(datas)]
    async with layer_on(tmp_path, upstream, crash=True) as (layer, drive):
        assert await keys(layer) == []
        assert layer.upload(BUCKET, KEY, upload.upload_id) == upload
        await drive.sync()
        before = drive.sealer.new_bytes
        info = await layer.complete(BUCKET, KEY, upload.upload_id, named, whole)
        await drive.sync()
        assert drive.sealer.new_bytes == before
        md5s = b"".join(hashlib.md5(data, usedforsecurity=False).digest() for data in datas)
        assert info.etag == hashlib.md5(md5s, usedforsecurity=False).hexdigest() + "-3"
        assert await layer.complete(BUCKET, KEY, upload.upload_id, named, whole) == info
        assert (
            await code_of(layer.complete(BUCKET, KEY, upload.upload_id, named[:2], whole)) == "NoSuchUpload"
        )
        assert (await layer.list_objects(BUCKET)).objects == [info]
    async with layer_on(tmp_path, upstream) as (layer, drive):
        assert await get(layer, KEY) == b"".join(datas)
        assert layer.head(BUCKET, KEY) == info
        assert info.metadata.user == {"k": "v"}
        assert layer.parts(BUCKET, KEY, None, 1, 1) == ([ObjectPart(3, LARGE + 17, Checksums())], True)
        opened = layer.open(BUCKET, KEY)
        ranges = [opened.part(number) for number in (0, 1, 2, 3, 4)]
        end = 2 * LARGE + 17
        assert ranges == [None, (0, LARGE), (LARGE, end), (end, end + 100), None]
        opened.close()
        assert layer.uploads(BUCKET).items == ()


async def test_what_is_refused(both: tuple[ObjectLayer, Drive]) -> None:
    layer, _ = both
    upload = await layer.create_upload(BUCKET, KEY, Metadata())
    one, two = await part(layer, upload, 1, b"small"), await part(layer, upload, 2, b"last")

    async def code(parts: list[PartToJoin], conditions: Conditions | None = None) -> str:
        said = conditions or Conditions()
        return await code_of(layer.complete(BUCKET, KEY, upload.upload_id, parts, whole, said))

    assert await code([]) == "MalformedXML"
    assert await code([two, one]) == "InvalidPartOrder"
    assert await code([PartToJoin(2, one.etag), PartToJoin(1, one.etag), two]) == "InvalidPartOrder"
    assert await code([one, two]) == "EntityTooSmall"
    assert await code([PartToJoin(1, two.etag)]) == "InvalidPart"
    assert await code([PartToJoin(3, one.etag)]) == "InvalidPart"
    assert await code([PartToJoin(1, one.etag, {"CRC32": "AAAA"})]) == "InvalidPart"
    assert await code([one], Conditions(if_match=("*",))) == "NoSuchKey"
    for number in (0, 10_001):
        assert await code_of(part(layer, upload, number, b"")) == "InvalidArgument"
    assert refused(lambda: layer.upload(BUCKET, b"other", upload.upload_id)) == "NoSuchUpload"
    assert refused(lambda: layer.upload(BUCKET, KEY, "../..")) == "NoSuchUpload"

    def refusing(_parts: Sequence[Part]) -> Checksums:
        raise S3Error("BadDigest")

    assert await code_of(layer.complete(BUCKET, KEY, upload.upload_id, [one], refusing)) == "BadDigest"
    assert await keys(layer) == []
    replaced = PartToJoin(1, two.etag)
    await layer.complete(BUCKET, KEY, upload.upload_id, [replaced, one], whole)
    await layer.complete(BUCKET, KEY, upload.upload_id, [replaced, one], whole)
    assert await get(layer, KEY) == b"small"


async def test_parts_are_listed_and_replaced(both: tuple[ObjectLayer, Drive]) -> None:
    layer, drive = both
    upload = await layer.create_upload(BUCKET, KEY, Metadata())
    for number in (1, 2, 10):
        await part(layer, upload, number, b"old")
    await part(layer, upload, 2, b"newer")
    listing = layer.parts_of(BUCKET, KEY, upload.upload_id, 0, 2)
    assert [(each.number, each.size) for each in listing.parts] == [(1, 3), (2, 5)]
    assert (listing.truncated, listing.next_number) == (True, 2)
    listing = layer.parts_of(BUCKET, KEY, upload.upload_id, 2, 2)
    assert [each.number for each in listing.parts] == [10]
    assert not listing.truncated
    await layer.abort(BUCKET, KEY, upload.upload_id)
    assert await code_of(layer.abort(BUCKET, KEY, upload.upload_id)) == "NoSuchUpload"
    assert await code_of(part(layer, upload, 1, b"")) == "NoSuchUpload"
    await layer.delete_bucket(BUCKET)
    assert [entry.name for entry in drive.entries(ROOT_INODE, 0, 9)] == [b".s3~system"]


async def test_a_part_that_the_mount_changed_is_none(both: tuple[ObjectLayer, Drive]) -> None:
    layer, drive = both
    upload = await layer.create_upload(BUCKET, KEY, Metadata())
    named = [await part(layer, upload, number, b"part") for number in (1, 2, 3)]
    inode = ROOT_INODE
    bucket = b"%x" % layer.bucket(BUCKET).inode
    for name in (b".s3~system", b"uploads", bucket, upload.upload_id.encode()):
        inode = drive.lookup(inode, name).inode
    await drive.write(drive.lookup(inode, b"00001").inode, 0, b"x")
    await make_file(drive, b"000011", b"no part", inode)
    for limit in (1, 2):
        listing = layer.parts_of(BUCKET, KEY, upload.upload_id, 0, limit)
        assert [each.number for each in listing.parts] == [2, 3][:limit]
        assert (listing.truncated, listing.next_number) == ((True, 2) if limit == 1 else (False, 0))
    call = layer.complete(BUCKET, KEY, upload.upload_id, named[:1], whole)
    assert await code_of(call) == "InvalidPart"


async def test_parts_of_other_objects(both: tuple[ObjectLayer, Drive]) -> None:
    layer, drive = both
    data = made_of("half-compressible", LARGE + 1000)
    await put(layer, "source", data)
    await drive.sync()
    before = drive.sealer.new_bytes
    upload = await layer.create_upload(BUCKET, KEY, Metadata())
    source = Source(BUCKET, b"source")
    one, _ = await layer.copy_part(BUCKET, KEY, upload.upload_id, 1, source, (7, LARGE + 7))
    two, _ = await layer.copy_part(BUCKET, KEY, upload.upload_id, 2, source)
    assert one.etag == hashlib.md5(data[7 : LARGE + 7], usedforsecurity=False).hexdigest()
    for outside in ((0, LARGE + 1001), (5, 5), (-1, 3)):
        call = layer.copy_part(BUCKET, KEY, upload.upload_id, 3, source, outside)
        assert await code_of(call) == "InvalidRange"
    named = [PartToJoin(1, one.etag), PartToJoin(2, two.etag)]
    await layer.complete(BUCKET, KEY, upload.upload_id, named, whole)
    assert await get(layer, KEY) == data[7 : LARGE + 7] + data
    await drive.sync()
    assert drive.sealer.new_bytes == before


async def test_uploads_are_listed(both: tuple[ObjectLayer, Drive]) -> None:
    layer, _ = both
    made = [await layer.create_upload(BUCKET, key, Metadata()) for key in (b"b", b"d/x", b"a", b"b", b"d/y")]
    ordered = sorted(made, key=lambda upload: (upload.key, upload.upload_id))
    assert [*layer.uploads(BUCKET).items] == ordered
    first = layer.uploads(BUCKET, limit=2)
    assert ([*first.items], first.truncated) == (ordered[:2], True)
    rest = layer.uploads(BUCKET, after_key=first.next_key, after_upload=first.next_upload_id)
    assert [*rest.items] == ordered[2:]
    assert [*layer.uploads(BUCKET, after_key=b"b").items] == ordered[3:]
    assert [*layer.uploads(BUCKET, prefix=b"d").items] == ordered[3:]
    assert [*layer.uploads(BUCKET, delimiter=b"/").items] == [*ordered[:3], b"d/"]
    assert [*layer.uploads(BUCKET, delimiter=b"/", after_key=b"d/").items] == []
    assert layer.uploads(BUCKET, limit=0).items == ()


@pytest.mark.parametrize("state", ["", "Enabled"])
async def test_a_multipart_object_replaces_another(tmp_path: Path, state: str) -> None:
    async with layer_on(tmp_path) as (layer, _):
        if state == "Enabled":
            await layer.set_versioning(BUCKET, "Enabled")
        old = await put(layer, KEY, b"old")
        upload = await layer.create_upload(BUCKET, KEY, Metadata())
        named = await part(layer, upload, 1, b"new")
        stale = Conditions(if_match=("x",))
        call = layer.complete(BUCKET, KEY, upload.upload_id, [named], whole, stale)
        assert await code_of(call) == "PreconditionFailed"
        info = await layer.complete(BUCKET, KEY, upload.upload_id, [named], whole)
        assert await get(layer, KEY) == b"new"
        if state:
            assert await get(layer, KEY, old.version_id) == b"old"
            assert info.version_id not in ("", old.version_id)

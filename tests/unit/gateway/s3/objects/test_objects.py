"""Objects on a drive: put, get, head, delete, copy, conditions, and what the mount makes of them."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator
from pathlib import Path
from stat import S_IFDIR

import pytest

from cache.drive import Drive
from cache.errors import NoEntryError
from cache.namespace import ROOT_INODE
from gateway.s3.objects import (
    ChangedError,
    Checksums,
    Conditions,
    Metadata,
    ObjectLayer,
    S3Error,
    Source,
    ToDelete,
)
from tests.contents import KINDS
from tests.contents import content as made_of
from tests.drives import content, make_file
from tests.memory_upstream import MemoryUpstream
from tests.object_layers import BUCKET, accepting, body_of, code_of, get, keys, layer_on, put, refused


def md5(data: bytes) -> str:
    return hashlib.md5(data, usedforsecurity=False).hexdigest()


@pytest.fixture
async def both(tmp_path: Path) -> AsyncIterator[tuple[ObjectLayer, Drive]]:
    async with layer_on(tmp_path) as both:
        yield both


def inode_of(drive: Drive, *names: bytes) -> int:
    inode = drive.lookup(ROOT_INODE, BUCKET.encode()).inode
    for name in names:
        inode = drive.lookup(inode, name).inode
    return inode


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [0, 1, 999, 1000, 70_000, 128 << 10, (2 << 20) + 1, (5 << 20) + 200_000])
async def test_what_was_put_is_got_by_the_door_and_in_the_mount(
    both: tuple[ObjectLayer, Drive], kind: str, size: int
) -> None:
    layer, drive = both
    data = made_of(kind, size)  # type: ignore[arg-type]
    info = await put(layer, "a/b", data, user={"colour": "é"})
    assert (info.etag, info.size) == (md5(data), size)
    assert await get(layer, "a/b") == data
    assert layer.head(BUCKET, b"a/b") == layer.head(BUCKET, b"a/b")
    assert layer.head(BUCKET, b"a/b").metadata.user == {"colour": "é"}
    assert await content(drive, inode_of(drive, b"a", b"b")) == data
    await drive.sync()
    assert await get(layer, "a/b") == data
    assert layer.head(BUCKET, b"a/b").etag == md5(data)


async def test_it_is_there_after_a_crash(tmp_path: Path) -> None:
    upstream, data = MemoryUpstream(), made_of("log", 100_000)
    async with layer_on(tmp_path, upstream, crash=True) as (layer, _):
        await put(layer, "a/b", data, user={"x": "y"})
    async with layer_on(tmp_path, upstream) as (layer, _):
        assert await get(layer, "a/b") == data
        assert layer.head(BUCKET, b"a/b").metadata.user == {"x": "y"}


@pytest.mark.parametrize("length", [5000, 3 << 20])
@pytest.mark.parametrize("fault", ["short", "long", "raises", "refused"])
async def test_a_put_that_fails_leaves_the_old_object_and_no_name(
    both: tuple[ObjectLayer, Drive], fault: str, length: int
) -> None:
    layer, drive = both
    await put(layer, "a", b"old")
    inodes = drive.ledger.namespace.statistics().inodes

    async def failing() -> AsyncIterator[bytes]:
        yield b"x" * length
        raise S3Error("RequestTimeout")

    def refusing(_md5: str) -> Checksums:
        raise S3Error("BadDigest")

    size = {"short": length + 1, "long": length - 1}.get(fault, length)
    finish = refusing if fault == "refused" else accepting
    for key in (b"a", b"b/c"):
        body = failing() if fault == "raises" else body_of(b"x" * length)
        code = await code_of(layer.put(BUCKET, key, body, size, Metadata(), finish))
        expected = {"raises": "RequestTimeout", "refused": "BadDigest"}.get(fault, "IncompleteBody")
        assert code == expected
    assert await get(layer, "a") == b"old"
    assert await keys(layer) == [b"a"]
    with pytest.raises(NoEntryError):
        inode_of(drive, b"b")
    drive.put_off.delete_unused()
    assert drive.ledger.namespace.statistics().inodes == inodes


async def test_an_object_beside_objects_below_it(both: tuple[ObjectLayer, Drive]) -> None:
    layer, drive = both
    await put(layer, "a", b"one")
    await put(layer, "a/b", b"two")
    await put(layer, "a/", b"")
    assert await keys(layer) == [b"a", b"a/", b"a/b"]
    assert await content(drive, inode_of(drive, b"a", b".s3~self")) == b"one"
    await put(layer, "a", b"three")
    assert [await get(layer, key) for key in ("a", "a/", "a/b")] == [b"three", b"", b"two"]
    await layer.delete(BUCKET, b"a/")
    await layer.delete(BUCKET, b"a/b")
    assert await content(drive, inode_of(drive, b"a")) == b"three"
    assert await keys(layer) == [b"a"]


async def test_deleting_an_object_leaves_those_below_it(both: tuple[ObjectLayer, Drive]) -> None:
    layer, _ = both
    await put(layer, "foo", b"1")
    await put(layer, "foo/bar", b"2")
    await layer.delete(BUCKET, b"foo")
    assert await keys(layer) == [b"foo/bar"]
    assert refused(lambda: layer.head(BUCKET, b"foo")) == "NoSuchKey"
    await layer.delete(BUCKET, b"foo")
    assert await get(layer, "foo/bar") == b"2"


async def test_implied_folders_go_with_their_last_object(both: tuple[ObjectLayer, Drive]) -> None:
    layer, drive = both
    await drive.make_node(inode_of(drive), b"mine", S_IFDIR | 0o755, 0, 0, 0)
    await put(layer, "x/y/z", b"")
    await put(layer, "mine/y/z", b"")
    assert await keys(layer) == [b"mine/y/z", b"x/y/z"]
    await layer.delete(BUCKET, b"x/y/z")
    await layer.delete(BUCKET, b"mine/y/z")
    assert [entry.name for entry in drive.entries(inode_of(drive), 0, 9)] == [b"mine"]
    assert await keys(layer) == [b"mine/"]
    assert layer.head(BUCKET, b"mine/").size == 0
    await layer.delete(BUCKET, b"mine/")
    assert await keys(layer) == []


async def test_an_implied_folder_that_the_mount_emptied_is_nothing(both: tuple[ObjectLayer, Drive]) -> None:
    layer, drive = both
    await put(layer, "x/y", b"")
    await drive.unlink(inode_of(drive, b"x"), b"y")
    assert await keys(layer) == []
    assert await keys(layer, delimiter=b"/") == []
    assert refused(lambda: layer.head(BUCKET, b"x/")) == "NoSuchKey"
    await layer.delete_bucket(BUCKET)


async def test_markers_with_and_without_a_body(both: tuple[ObjectLayer, Drive]) -> None:
    layer, drive = both
    await put(layer, "a/", b"", user={"k": "v"})
    assert layer.head(BUCKET, b"a/").metadata.user == {"k": "v"}
    assert layer.head(BUCKET, b"a/").etag == md5(b"")
    assert drive.entries(inode_of(drive, b"a"), 0, 9) == []
    await put(layer, "a/", b"body")
    assert await get(layer, "a/") == b"body"
    await put(layer, "a//b", b"deep")
    assert [await get(layer, key) for key in ("a/", "a//b")] == [b"body", b"deep"]
    assert await keys(layer) == [b"a/", b"a//b"]
    await put(layer, "a/", b"")
    assert [await get(layer, key) for key in ("a/", "a//b")] == [b"", b"deep"]
    await layer.delete(BUCKET, b"a//b")
    await layer.delete(BUCKET, b"a/")
    assert drive.entries(inode_of(drive), 0, 9) == []


async def test_the_mount_changes_what_it_likes(both: tuple[ObjectLayer, Drive]) -> None:
    layer, drive = both
    info = await put(layer, "a", b"12345", user={"k": "v"})
    inode = inode_of(drive, b"a")
    await drive.write(inode, 0, b"x")
    changed = layer.head(BUCKET, b"a")
    assert (len(changed.etag), changed.etag[-2:]) == (34, "-1")
    assert changed.metadata.user == info.metadata.user
    await drive.sync()
    assert layer.head(BUCKET, b"a").etag[-2:] == "-1"
    assert await put(layer, "a", b"12345")
    assert layer.head(BUCKET, b"a").etag == info.etag
    await make_file(drive, b"mine", b"text", inode_of(drive))
    mine = layer.head(BUCKET, b"mine")
    assert mine.etag.endswith("-1")
    assert mine.size == 4
    await drive.rename(inode_of(drive), b"a", inode_of(drive), b"z")
    assert await keys(layer) == [b"mine", b"z"]
    assert layer.head(BUCKET, b"z").etag == info.etag


async def test_links_and_devices_are_no_objects(both: tuple[ObjectLayer, Drive]) -> None:
    layer, drive = both
    await drive.symlink(inode_of(drive), b"link", b"/etc", 0, 0)
    assert await keys(layer) == []
    assert refused(lambda: layer.head(BUCKET, b"link")) == "NoSuchKey"
    assert refused(lambda: layer.head(BUCKET, b"link/passwd")) == "NoSuchKey"
    await put(layer, "link/x", b"1")
    assert drive.read_link(inode_of(drive, b"link", b".s3~self")) == b"/etc"
    await layer.delete(BUCKET, b"link/x")
    assert drive.read_link(inode_of(drive, b"link", b".s3~self")) == b"/etc"


async def test_conditions_of_writes(both: tuple[ObjectLayer, Drive]) -> None:
    layer, _ = both
    new, any_ = Conditions(if_none_match=("*",)), Conditions(if_match=("*",))
    assert await code_of(put(layer, "a", b"1", conditions=any_)) == "NoSuchKey"
    info = await put(layer, "a", b"1", conditions=new)
    assert await code_of(put(layer, "a", b"2", conditions=new)) == "PreconditionFailed"
    wrong = Conditions(if_match=("0" * 32,))
    assert await code_of(put(layer, "a", b"2", conditions=wrong)) == "PreconditionFailed"
    await put(layer, "a", b"2", conditions=Conditions(if_match=(info.etag,)))
    assert await code_of(layer.delete(BUCKET, b"a", None, Conditions(if_match=(info.etag,)))) == (
        "PreconditionFailed"
    )
    assert await code_of(layer.delete(BUCKET, b"a", None, Conditions(size=5))) == "PreconditionFailed"
    await layer.delete(BUCKET, b"a", None, any_)
    assert await code_of(layer.delete(BUCKET, b"a", None, any_)) == "NoSuchKey"


async def test_conditions_of_reads(both: tuple[ObjectLayer, Drive]) -> None:
    layer, _ = both
    info = await put(layer, "a", b"1")
    now = info.last_modified_ns
    for conditions, code in [
        (Conditions(if_match=(info.etag,)), ""),
        (Conditions(if_match=("x",)), "PreconditionFailed"),
        (Conditions(if_none_match=(info.etag,)), "NotModified"),
        (Conditions(if_none_match=("x",)), ""),
        (Conditions(if_modified_since_ns=now), "NotModified"),
        (Conditions(if_modified_since_ns=now - 2 * 10**9), ""),
        (Conditions(if_unmodified_since_ns=now), ""),
        (Conditions(if_unmodified_since_ns=now - 2 * 10**9), "PreconditionFailed"),
        (Conditions(if_match=(info.etag,), if_unmodified_since_ns=0), ""),
        (Conditions(if_none_match=("x",), if_modified_since_ns=now), ""),
    ]:
        assert refused(lambda conditions=conditions: layer.head(BUCKET, b"a", None, conditions)) == code  # type: ignore[misc]


async def test_copies(both: tuple[ObjectLayer, Drive]) -> None:
    layer, drive = both
    data = made_of("half-compressible", 3 << 20)
    info = await put(layer, "a", data, user={"k": "v"})
    await drive.sync()
    before = drive.sealer.new_bytes
    copied, _ = await layer.copy(Source(BUCKET, b"a"), BUCKET, b"d/b")
    assert (copied.etag, copied.metadata.user) == (info.etag, {"k": "v"})
    await layer.copy(Source(BUCKET, b"a"), BUCKET, b"a", Metadata(user={"k": "w"}))
    assert layer.head(BUCKET, b"a").metadata.user == {"k": "w"}
    assert await get(layer, "d/b") == await get(layer, "a") == data
    await drive.sync()
    assert drive.sealer.new_bytes == before
    failing = Source(BUCKET, b"a", None, Conditions(if_none_match=(info.etag,)))
    assert await code_of(layer.copy(failing, BUCKET, b"x")) == "PreconditionFailed"
    await put(layer, "m/", b"")
    await layer.copy(Source(BUCKET, b"m/"), BUCKET, b"n/")
    await layer.copy(Source(BUCKET, b"m/"), BUCKET, b"n")
    assert await keys(layer) == [b"a", b"d/b", b"m/", b"n", b"n/"]


async def test_a_copy_that_its_source_forbids_publishes_nothing(both: tuple[ObjectLayer, Drive]) -> None:
    layer, drive = both
    info = await put(layer, "a", b"1")
    upload = await layer.create_upload(BUCKET, b"b", Metadata())
    source = Source(BUCKET, b"a", None, Conditions(if_none_match=(info.etag,)))
    before = drive.ledger.head.number
    for call in (
        layer.copy(source, BUCKET, b"b"),
        layer.copy_part(BUCKET, b"b", upload.upload_id, 1, source),
    ):
        assert await code_of(call) == "PreconditionFailed"
    assert drive.ledger.head.number == before
    await layer.copy(Source(BUCKET, b"a"), BUCKET, b"b")
    assert drive.ledger.head.number > before


async def test_a_read_is_of_one_state(both: tuple[ObjectLayer, Drive]) -> None:
    layer, drive = both
    data = made_of("random", (2 << 20) + 5)
    await put(layer, "a", data)
    opened = layer.open(BUCKET, b"a")
    pieces = opened.read(0, len(data))
    first = bytes(await anext(pieces))
    await put(layer, "a", b"another")
    await drive.sync()
    assert first + b"".join([bytes(piece) async for piece in pieces]) == data
    opened.close()
    opened = layer.open(BUCKET, b"a")
    await drive.write(inode_of(drive, b"a"), 0, b"x")
    with pytest.raises(ChangedError):
        await anext(opened.read(0, 7))
    opened.close()


async def test_tags_and_lists_of_access(both: tuple[ObjectLayer, Drive]) -> None:
    layer, drive = both
    info = await put(layer, "a", b"1")
    await layer.set_tags(BUCKET, b"a", {"k": "v"})
    await layer.set_acl(BUCKET, b"a", "public-read")
    after = layer.head(BUCKET, b"a")
    assert (after.etag, after.last_modified_ns) == (info.etag, info.last_modified_ns)
    assert (after.metadata.tags, after.metadata.acl) == ({"k": "v"}, "public-read")
    await drive.write(inode_of(drive, b"a"), 0, b"2")
    etag = layer.head(BUCKET, b"a").etag
    await layer.set_tags(BUCKET, b"a", {})
    assert layer.tags(BUCKET, b"a") == ({}, "")
    assert layer.head(BUCKET, b"a").etag == etag
    await make_file(drive, b"mine", b"text", inode_of(drive))
    etag = layer.head(BUCKET, b"mine").etag
    await layer.set_tags(BUCKET, b"mine", {"a": "b"})
    assert layer.head(BUCKET, b"mine").etag == etag


async def test_many_are_deleted_at_once(both: tuple[ObjectLayer, Drive]) -> None:
    layer, drive = both
    for number in range(300):
        await put(layer, f"d{number % 7}/{number}", b"x")
    await drive.sync()
    items = [ToDelete(b"d%d/%d" % (number % 7, number)) for number in range(300)]
    results = await layer.delete_many(BUCKET, [*items, ToDelete(b"none"), ToDelete(b"\xff")])
    assert [getattr(result, "key", getattr(result, "code", "")) for result in results] == [
        *(item.key for item in items),
        b"none",
        "InvalidArgument",
    ]
    assert await keys(layer) == []
    assert drive.entries(inode_of(drive), 0, 9) == []


async def test_a_thousand_deletions_wait_for_the_disk_once(
    both: tuple[ObjectLayer, Drive], monkeypatch: pytest.MonkeyPatch
) -> None:
    layer, drive = both
    for number in range(100):
        await put(layer, f"a/{number}")
    waits, fsync = [], drive.fsync

    async def counting(inode: int, *, alone: bool = False) -> None:
        waits.append(inode)
        await fsync(inode, alone=alone)

    monkeypatch.setattr(drive, "fsync", counting)
    await layer.delete_many(BUCKET, [ToDelete(b"a/%d" % number) for number in range(1000)])
    assert len(waits) == 1
    assert await keys(layer) == []


async def test_buckets(both: tuple[ObjectLayer, Drive]) -> None:
    layer, drive = both
    assert await code_of(layer.create_bucket(BUCKET)) == "BucketAlreadyOwnedByYou"
    assert await code_of(layer.create_bucket(BUCKET, owner="other")) == "BucketAlreadyExists"
    for name in ("ab", "A" * 5, "a" * 64, "192.168.1.1", "a..b", "-ab", "ab-", "a_b", ".s3~system"):
        assert await code_of(layer.create_bucket(name)) == "InvalidBucketName"
    made = await layer.create_bucket("other", owner="me", location="here", settings={"policy": b"{}"})
    assert (made.owner, made.location, layer.setting("other", "policy")) == ("me", "here", b"{}")
    await layer.set_setting("other", "policy", None)
    await layer.set_setting("other", "policy", None)
    assert layer.setting("other", "policy") is None
    await layer.set_versioning("other", "Enabled")
    assert layer.bucket("other").versioning == "Enabled"
    assert layer.bucket("other").owner == "me"
    await drive.make_node(ROOT_INODE, b"by-mount", S_IFDIR | 0o755, 0, 0, 0)
    await drive.make_node(ROOT_INODE, b"No bucket", S_IFDIR | 0o755, 0, 0, 0)
    assert [bucket.name for bucket in layer.buckets()] == [BUCKET, "by-mount", "other"]
    await put(layer, "x/y", b"")
    assert await code_of(layer.delete_bucket(BUCKET)) == "BucketNotEmpty"
    await layer.delete(BUCKET, b"x/y")
    await layer.delete_bucket(BUCKET)
    assert refused(lambda: layer.bucket(BUCKET)) == "NoSuchBucket"
    assert await code_of(put(layer, "a", b"")) == "NoSuchBucket"


async def test_a_name_that_no_key_can_say_keeps_the_bucket(both: tuple[ObjectLayer, Drive]) -> None:
    layer, drive = both
    inode = inode_of(drive)
    for _ in range(5):
        inode = (await drive.make_node(inode, b"x" * 250, S_IFDIR | 0o755, 0, 0, 0)).inode
    await make_file(drive, b"deep", b"", inode)
    assert await keys(layer) == []
    assert await code_of(layer.delete_bucket(BUCKET)) == "BucketNotEmpty"


async def test_the_names_of_the_table(both: tuple[ObjectLayer, Drive]) -> None:
    layer, drive = both
    long, both_of = b"l" * 700, [b".", b"..", b"/", b"//a", b"a/../b", b".versions", b".s3~x", b"\xc3\xa9"]
    for key in (*both_of, long, long + b"/x"):
        await put(layer, key, key)
    await make_file(drive, b"\xff", b"", inode_of(drive))
    await make_file(drive, b".s3~zz", b"", inode_of(drive))
    hexed = [b".s3~bff", b".s3~b" + b".s3~zz".hex().encode()]
    assert await keys(layer) == sorted([*both_of, long, long + b"/x", *hexed])
    for key in (*both_of, long, long + b"/x"):
        assert await get(layer, key) == key
        await layer.delete(BUCKET, key)
    for key in hexed:
        await layer.delete(BUCKET, key)
    assert drive.entries(inode_of(drive), 0, 9) == []


async def test_objects_that_are_deleted_count_as_removed_files_and_replaced_ones_do_not(
    both: tuple[ObjectLayer, Drive],
) -> None:
    """As the drive watches for mass deletions."""
    layer, drive = both
    for key in ("a", "d/b", "d/c"):
        await put(layer, key, b"old")
    before = drive.put_off.removed
    await put(layer, "a", b"new")
    await put(layer, "d/b", b"new")
    assert drive.put_off.removed == before
    await layer.delete_many(BUCKET, [ToDelete(b"a"), ToDelete(b"d/b"), ToDelete(b"none")])
    await layer.delete(BUCKET, b"d/c")
    assert drive.put_off.removed == before + 3

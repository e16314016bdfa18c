"""Listings: the order of bytes, from anywhere, at the cost of what they return."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from stat import S_IFDIR
from tempfile import TemporaryDirectory

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from cache.drive import Drive
from cache.namespace import ROOT_INODE, Create, Operation
from gateway.s3.key_paths import BadKeyError, check_key
from gateway.s3.objects import ObjectLayer
from tests.drives import make_file
from tests.memory_upstream import MemoryUpstream
from tests.object_layers import BUCKET, counted_rows, keys, layer_on, put

SEGMENTS = st.sampled_from(
    [
        *("a", "b", "ab", "a!", "a-", "a b", "", ".", "..", ".versions", "a" * 256, "a" * 250 + "é" * 30),
        *(".s3~self", ".s3~e", ".s3~bff", ".s3~qa", "\ue000", "\U00010000", "\x01", "é"),
    ]
)


def is_key(key: bytes) -> bool:
    try:
        check_key(key)
    except BadKeyError:
        return False
    return True


KEYS = st.lists(SEGMENTS, min_size=1, max_size=4).map(lambda each: "/".join(each).encode()).filter(is_key)


def expected(known: set[bytes], prefix: bytes, delimiter: bytes, after: bytes) -> list[bytes]:
    """As S3 documents it, by sorting everything."""
    found = set()
    for key in known:
        end = key.find(delimiter, len(prefix)) if delimiter else -1
        item = key if end < 0 else key[: end + len(delimiter)]
        rolled_before = end >= 0 and item == after
        if key.startswith(prefix) and key > after and not rolled_before:
            found.add(item)
    return sorted(found)


@settings(max_examples=25, deadline=None)
@given(st.sets(KEYS, max_size=12), st.data())
@example({b"a", b"a/", b"a!", b"a/b", b"a!/b"}, None)
async def test_what_sorting_everything_gives(known: set[bytes], data: st.DataObject | None) -> None:
    with TemporaryDirectory() as folder:
        await run(Path(folder), known, data)


async def run(folder: Path, known: set[bytes], data: st.DataObject | None) -> None:
    async with layer_on(folder) as (layer, _):
        for key in known:
            await put(layer, key, b"x")
        assert await keys(layer) == sorted(known)
        if data is None:
            return
        for _ in range(8):
            some = st.sampled_from(sorted(known)) if known else st.just(b"a")
            prefix = data.draw(st.one_of(st.just(b""), some.map(lambda key: key[: len(key) // 2]), some))
            after = data.draw(st.one_of(st.just(b""), some, some.map(lambda key: key[:-1]), KEYS))
            delimiter = data.draw(st.sampled_from([b"", b"/", b"a", "é".encode(), b"//", b"b/"]))
            page = data.draw(st.sampled_from([1, 2, 3, 1000]))
            wanted = expected(known, prefix, delimiter, after)
            listing = await layer.list_objects(
                BUCKET, prefix=prefix, delimiter=delimiter, after=after, limit=page
            )
            names = [item if isinstance(item, bytes) else item.key for item in listing.items]
            assert names == wanted[:page]
            assert listing.truncated == (len(wanted) > page)
            assert await keys(layer, page=page, prefix=prefix, delimiter=delimiter) == expected(
                known, prefix, delimiter, b""
            )


async def test_limits(tmp_path: Path) -> None:
    async with layer_on(tmp_path) as (layer, _):
        for number in range(3):
            await put(layer, f"{number}")
        none = await layer.list_objects(BUCKET, limit=0)
        assert (none.items, none.truncated) == ((), False)
        one = await layer.list_objects(BUCKET, limit=1)
        assert (len(one.items), one.truncated) == (1, True)
        all_of_it = await layer.list_objects(BUCKET, limit=4500)
        assert (len(all_of_it.items), all_of_it.truncated) == (3, False)


async def test_a_listing_has_a_thousand_at_most(tmp_path: Path) -> None:
    async with layer_on(tmp_path) as (layer, drive):
        await fill(drive, 1500)
        listing = await layer.list_objects(BUCKET, limit=4500)
        assert (len(listing.items), listing.truncated) == (1000, True)


async def test_start_after_before_the_prefix_and_prefixes_that_are_beginnings(tmp_path: Path) -> None:
    async with layer_on(tmp_path) as (layer, _):
        for key in ("data/ab/x", "data/b", "zoo"):
            await put(layer, key)
        assert await keys(layer, prefix=b"data/a", delimiter=b"/") == [b"data/ab/"]
        listing = await layer.list_objects(BUCKET, prefix=b"data/", after=b"a")
        assert [item.key for item in listing.objects] == [b"data/ab/x", b"data/b"]
        listing = await layer.list_objects(BUCKET, prefix=b"data/", after=b"zzz")
        assert listing.items == ()


async def test_the_modification_time_is_one(tmp_path: Path) -> None:
    async with layer_on(tmp_path) as (layer, drive):
        info = await put(layer, "a", b"x")
        await put(layer, "m/", b"")
        await drive.sync()
        listing = await layer.list_objects(BUCKET)
        assert listing.objects == [layer.head(BUCKET, b"a"), layer.head(BUCKET, b"m/")]
        assert listing.objects[0] == info


async def test_a_deep_key(tmp_path: Path) -> None:
    async with layer_on(tmp_path) as (layer, _):
        deep = b"a/" * 511 + b"a"
        await put(layer, deep, b"x")
        assert await keys(layer) == [deep]
        await layer.delete(BUCKET, deep)
        assert await keys(layer) == []


async def fill(drive: Drive, count: int, folders: int = 1) -> None:
    """So many objects, as the mount would make them."""
    bucket = drive.lookup(ROOT_INODE, BUCKET.encode()).inode
    for folder in range(folders):
        made: list[Operation]
        above = (await drive.make_node(bucket, b"f%06d" % folder, S_IFDIR | 0o755, 0, 0, 0)).inode
        made = [
            Create(above, b"%09d" % n, drive.allocate_number(), 0o100644, 0, 0, 0, b"", drive.now())
            for n in range(count // folders)
        ]
        await drive.accept_together(partial(list, made))


async def rows_of(drive: Drive, layer: ObjectLayer, **said: bytes) -> int:
    """The number of rows of SQLite that a listing of 100 reads."""
    with counted_rows(drive) as rows:
        listing = await layer.list_objects(BUCKET, limit=100, **said)
    assert len(listing.items) == 100
    return rows[0]


@pytest.mark.parametrize("folders", [1, 200])
@pytest.mark.parametrize("delimiter", [b"", b"/"])
async def test_the_cost_is_that_of_what_is_listed(tmp_path: Path, folders: int, delimiter: bytes) -> None:
    costs = []
    for count in (1000, 20_000):
        async with layer_on(tmp_path / str(count), MemoryUpstream()) as (layer, drive):
            await fill(drive, count, folders)
            await drive.sync()
            middle = b"f%06d/%09d" % (folders // 3, 2)
            said = {"prefix": b"f000000/"} if folders == 1 else {}
            costs.append(await rows_of(drive, layer, after=middle, delimiter=delimiter, **said))
    assert costs[1] <= costs[0] + 1000  # a page more in each of some folders


async def test_foreign_names_are_where_their_keys_are(tmp_path: Path) -> None:
    async with layer_on(tmp_path) as (layer, drive):
        bucket = drive.lookup(ROOT_INODE, BUCKET.encode()).inode
        for name in (b"\xff", b"a", b"z", b"\xc3", b"a\xff"):
            await make_file(drive, name, b"", bucket)
        folder = await drive.make_node(bucket, b"\xc3\x28", S_IFDIR | 0o755, 0, 0, 0)
        await make_file(drive, b"in", b"", folder.inode)
        found = await keys(layer)
        assert found == sorted(found)
        assert found == [b".s3~b61ff", b".s3~bc3", b".s3~bc328/in", b".s3~bff", b"a", b"z"]
        for start in found:
            listing = await layer.list_objects(BUCKET, after=start)
            assert [item.key for item in listing.objects] == found[found.index(start) + 1 :]

"""Versions and delete markers."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cache.drive import Drive
from cache.namespace import ROOT_INODE
from gateway.s3.objects import (
    Conditions,
    DeleteMarkerError,
    Metadata,
    ObjectLayer,
    S3Error,
    Source,
    VersionInfo,
)
from tests.drives import make_file
from tests.memory_upstream import MemoryUpstream
from tests.object_layers import BUCKET, code_of, counted_rows, get, keys, layer_on, put, refused


@pytest.fixture
async def both(tmp_path: Path) -> AsyncIterator[tuple[ObjectLayer, Drive]]:
    async with layer_on(tmp_path) as (layer, drive):
        await layer.set_versioning(BUCKET, "Enabled")
        yield layer, drive


async def versions(layer: ObjectLayer, page: int = 1000, **said: bytes) -> list[VersionInfo]:
    found: list[VersionInfo] = []
    key, version_id = b"", ""
    while True:
        listing = await layer.list_versions(
            BUCKET, after_key=key, after_version=version_id, limit=page, **said
        )
        found += [item for item in listing.items if isinstance(item, VersionInfo)]
        assert len(listing.items) <= page
        if not listing.truncated:
            return found
        key, version_id = listing.next_key, listing.next_version_id


async def shown(layer: ObjectLayer, page: int = 1000) -> list[tuple[bytes, bool, bool, int]]:
    found = await versions(layer, page)
    return [(each.key, each.is_latest, each.is_delete_marker, each.size) for each in found]


async def test_every_put_is_a_version(both: tuple[ObjectLayer, Drive]) -> None:
    layer, _ = both
    ids = [(await put(layer, "a", b"x" * number)).version_id for number in range(4)]
    assert len({*ids}) == 4
    for number, version_id in enumerate(ids):
        assert await get(layer, "a", version_id) == b"x" * number
    assert await get(layer, "a") == b"xxx"
    assert [each.version_id for each in await versions(layer)] == ids[::-1]
    assert await shown(layer, 1) == [(b"a", number == 3, False, number) for number in (3, 2, 1, 0)]
    assert await keys(layer) == [b"a"]


async def test_delete_markers(both: tuple[ObjectLayer, Drive]) -> None:
    layer, drive = both
    info = await put(layer, "x/a", b"1")
    deleted = await layer.delete(BUCKET, b"x/a")
    assert deleted.delete_marker
    assert await keys(layer) == []
    assert await shown(layer) == [(b"x/a", True, True, 0), (b"x/a", False, False, 1)]
    with pytest.raises(DeleteMarkerError) as missing:
        layer.head(BUCKET, b"x/a")
    assert (missing.value.code, missing.value.version_id) == ("NoSuchKey", deleted.version_id)
    with pytest.raises(DeleteMarkerError) as marker:
        layer.head(BUCKET, b"x/a", deleted.version_id)
    assert marker.value.code == "MethodNotAllowed"
    assert await get(layer, "x/a", info.version_id) == b"1"
    assert await code_of(layer.delete_bucket(BUCKET)) == "BucketNotEmpty"
    again = await layer.delete(BUCKET, b"x/a")
    assert len(await versions(layer)) == 3
    for version_id in (deleted.version_id, again.version_id):
        assert (await layer.delete(BUCKET, b"x/a", version_id)).delete_marker
    assert await get(layer, "x/a") == b"1"
    await layer.delete(BUCKET, b"x/a", info.version_id)
    assert await versions(layer) == []
    await layer.delete_bucket(BUCKET)
    assert [entry.name for entry in drive.entries(ROOT_INODE, 0, 9)] == [b".s3~system"]


async def test_deleting_the_newest_version_brings_the_one_before(both: tuple[ObjectLayer, Drive]) -> None:
    layer, _ = both
    first = await put(layer, "a", b"1", user={"n": "1"})
    second = await put(layer, "a", b"22")
    await put(layer, "a/b", b"beside")
    await layer.delete(BUCKET, b"a", second.version_id)
    assert layer.head(BUCKET, b"a") == first
    assert await get(layer, "a") == b"1"
    assert await layer.delete(BUCKET, b"a", "no such version") == await layer.delete(
        BUCKET, b"a", "no such version"
    )


async def test_the_null_version(tmp_path: Path) -> None:
    async with layer_on(tmp_path) as (layer, drive):
        assert (await put(layer, "a", b"1")).version_id == ""
        bucket = drive.lookup(ROOT_INODE, BUCKET.encode()).inode
        await make_file(drive, b"mine", b"text", bucket)
        await layer.set_versioning(BUCKET, "Enabled")
        assert layer.head(BUCKET, b"a").version_id == "null"
        second = await put(layer, "a", b"22")
        await put(layer, "mine", b"333")
        assert await get(layer, "a", "null") == b"1"
        assert await get(layer, "mine", "null") == b"text"
        await layer.set_versioning(BUCKET, "Suspended")
        assert (await put(layer, "a", b"4444")).version_id == "null"
        assert await get(layer, "a", "null") == b"4444"
        assert await get(layer, "a", second.version_id) == b"22"
        assert (await put(layer, "a", b"55555")).version_id == "null"
        assert [(each.version_id, each.size) for each in await versions(layer, prefix=b"a")] == [
            ("null", 5),
            (second.version_id, 2),
        ]
        marker = await layer.delete(BUCKET, b"a")
        assert (marker.version_id, marker.delete_marker) == ("null", True)
        await layer.delete(BUCKET, b"a")
        assert len(await versions(layer, prefix=b"a")) == 2
        await put(layer, "a", b"6")
        assert [each.size for each in await versions(layer, prefix=b"a")] == [1, 2]
        assert await code_of(layer.set_versioning(BUCKET, "")) == "InvalidBucketState"


async def test_what_the_mount_removes(both: tuple[ObjectLayer, Drive]) -> None:
    layer, drive = both
    first = await put(layer, "a", b"1")
    await put(layer, "a", b"22")
    bucket = drive.lookup(ROOT_INODE, BUCKET.encode()).inode
    await drive.unlink(bucket, b"a")
    with pytest.raises(DeleteMarkerError) as missing:
        layer.head(BUCKET, b"a")
    assert await shown(layer) == [(b"a", True, True, 0), (b"a", False, False, 1)]
    assert await shown(layer, 1) == await shown(layer)
    assert (await versions(layer))[0].version_id == missing.value.version_id
    with pytest.raises(DeleteMarkerError) as marker:
        layer.head(BUCKET, b"a", missing.value.version_id)
    assert (missing.value.code, marker.value.code) == ("NoSuchKey", "MethodNotAllowed")
    assert await get(layer, "a", first.version_id) == b"1"
    await put(layer, "a", b"333")
    assert await shown(layer) == [(b"a", True, False, 3), (b"a", False, False, 1)]


async def test_the_marker_of_a_removal_by_the_mount_goes_as_others_do(
    both: tuple[ObjectLayer, Drive],
) -> None:
    layer, drive = both
    for key in (b"a", b"x/y"):
        first = await put(layer, key, b"1")
        await put(layer, key, b"22")
        directory = drive.lookup(ROOT_INODE, BUCKET.encode()).inode
        for name in key.split(b"/")[:-1]:
            directory = drive.lookup(directory, name).inode
        await drive.unlink(directory, key.split(b"/")[-1])
        marker = (await versions(layer, prefix=key))[0]
        removed = await layer.delete(BUCKET, key, marker.version_id)
        assert (removed.delete_marker, removed.version_id) == (True, marker.version_id)
        assert await get(layer, key) == b"1"
        assert layer.head(BUCKET, key) == first
        again = await layer.delete(BUCKET, key, marker.version_id)
        assert not again.delete_marker
        await layer.delete(BUCKET, key, first.version_id)
    assert await versions(layer) == []
    await layer.delete_bucket(BUCKET)


async def test_markers_of_folders_have_versions(both: tuple[ObjectLayer, Drive]) -> None:
    layer, _ = both
    one = await put(layer, "d/", b"", user={"n": "1"})
    two = await put(layer, "d/", b"22")
    three = await put(layer, "d/", b"", user={"n": "3"})
    assert [each.version_id for each in await versions(layer)] == [
        info.version_id for info in (three, two, one)
    ]
    assert layer.head(BUCKET, b"d/", one.version_id).metadata.user == {"n": "1"}
    await layer.delete(BUCKET, b"d/", three.version_id)
    assert await get(layer, "d/") == b"22"
    await layer.delete(BUCKET, b"d/", two.version_id)
    assert layer.head(BUCKET, b"d/").metadata.user == {"n": "1"}
    await layer.delete(BUCKET, b"d/")
    assert await keys(layer) == []
    assert len(await versions(layer)) == 2


async def test_a_version_is_copied_and_tagged(both: tuple[ObjectLayer, Drive]) -> None:
    layer, _ = both
    first = await put(layer, "a", b"1")
    await put(layer, "a", b"22")
    info, version_id = await layer.copy(Source(BUCKET, b"a", first.version_id), BUCKET, b"a")
    assert version_id == first.version_id
    assert await get(layer, "a") == b"1"
    assert info.version_id != first.version_id
    await layer.set_tags(BUCKET, b"a", {"k": "v"}, first.version_id)
    assert layer.tags(BUCKET, b"a", first.version_id) == ({"k": "v"}, first.version_id)
    assert layer.tags(BUCKET, b"a") == ({}, info.version_id)
    assert refused(lambda: layer.head(BUCKET, b"a", "0" * 32)) == "NoSuchVersion"


async def test_listing_rolls_up_and_goes_on(both: tuple[ObjectLayer, Drive]) -> None:
    layer, _ = both
    for key in ("a", "d/x", "d/y", "d!", "e"):
        await put(layer, key, b"1")
        await layer.delete(BUCKET, key.encode())
    listing = await layer.list_versions(BUCKET, delimiter=b"/")
    assert [item if isinstance(item, bytes) else item.key for item in listing.items] == [
        *(b"a", b"a", b"d!", b"d!", b"d/", b"e", b"e")
    ]
    listing = await layer.list_versions(BUCKET, delimiter=b"/", limit=5)
    assert (listing.truncated, listing.next_key, listing.next_version_id) == (True, b"d/", "")
    listing = await layer.list_versions(BUCKET, delimiter=b"/", after_key=b"d/")
    assert [item.key for item in listing.items if isinstance(item, VersionInfo)] == [b"e", b"e"]


CALLS = st.lists(
    st.tuples(
        st.sampled_from(["put", "delete", "remove", "suspend", "enable", "remount"]),
        st.sampled_from([b"a", b"a/b", b"a/", b"c"]),
        st.integers(0, 5),
    ),
    max_size=25,
)


@settings(max_examples=25, deadline=None)
@given(CALLS)
async def test_against_a_model(calls: list[tuple[str, bytes, int]]) -> None:
    with TemporaryDirectory() as folder:
        await run(Path(folder), calls)


async def run(folder: Path, calls: list[tuple[str, bytes, int]]) -> None:
    """A key is a list of versions, the newest first: (id, is a delete marker, bytes)."""
    upstream = MemoryUpstream()
    model: dict[bytes, list[tuple[str, bool, bytes]]] = {}
    suspended = False
    for step in _split(calls):
        async with layer_on(folder, upstream, crash=len(step) % 2 == 0) as (layer, _):
            await layer.set_versioning(BUCKET, "Suspended" if suspended else "Enabled")
            for call, key, number in step:
                known = model.setdefault(key, [])
                if call in ("suspend", "enable"):
                    suspended = call == "suspend"
                    await layer.set_versioning(BUCKET, "Suspended" if suspended else "Enabled")
                elif call in ("put", "delete"):
                    if suspended:
                        known[:] = [each for each in known if each[0] != "null"]
                    if call == "put":
                        info = await put(layer, key, b"x" * number)
                        known.insert(0, (info.version_id, False, b"x" * number))
                    else:
                        known.insert(0, ((await layer.delete(BUCKET, key)).version_id, True, b""))
                elif known:
                    gone = known.pop(number % len(known))
                    await layer.delete(BUCKET, key, gone[0])
            await check(layer, model)


def _split(calls: list[tuple[str, bytes, int]]) -> list[list[tuple[str, bytes, int]]]:
    steps: list[list[tuple[str, bytes, int]]] = [[]]
    for call in calls:
        if call[0] == "remount":
            steps.append([])
        else:
            steps[-1].append(call)
    return steps


async def check(layer: ObjectLayer, model: dict[bytes, list[tuple[str, bool, bytes]]]) -> None:
    expected = [
        (key, version_id, number == 0, is_marker, len(data))
        for key in sorted(model)
        for number, (version_id, is_marker, data) in enumerate(model[key])
    ]
    for page in (1000, 2):
        assert [
            (each.key, each.version_id, each.is_latest, each.is_delete_marker, each.size)
            for each in await versions(layer, page)
        ] == expected
    assert await keys(layer) == [key for key in sorted(model) if model[key] and not model[key][0][1]]
    for key, known in model.items():
        for version_id, is_marker, data in known:
            if not is_marker:
                assert await get(layer, key, version_id) == data


async def test_a_condition_looks_at_the_newest_version(both: tuple[ObjectLayer, Drive]) -> None:
    layer, _ = both
    info = await put(layer, "a", b"1")
    await layer.delete(BUCKET, b"a")
    new = Conditions(if_none_match=("*",))
    assert await code_of(put(layer, "a", b"2", conditions=Conditions(if_match=(info.etag,)))) == "NoSuchKey"
    await put(layer, "a", b"2", conditions=new)
    with pytest.raises(S3Error):
        await put(layer, "a", b"2", conditions=new)
    assert Metadata() == layer.head(BUCKET, b"a").metadata


@pytest.mark.parametrize("by_mount", [False, True])
async def test_a_conditional_deletion_is_decided_of_a_delete_marker_too(
    both: tuple[ObjectLayer, Drive], by_mount: bool
) -> None:
    layer, drive = both
    await put(layer, "a", b"0")
    info = await put(layer, "a", b"1")
    if by_mount:
        await drive.unlink(drive.lookup(ROOT_INODE, BUCKET.encode()).inode, b"a")
    else:
        await layer.delete(BUCKET, b"a")
    before = await shown(layer)
    for condition in (Conditions(if_match=(info.etag,)), Conditions(size=1), Conditions(last_modified_ns=0)):
        assert await code_of(layer.delete(BUCKET, b"a", None, condition)) == "PreconditionFailed"
    assert await code_of(layer.delete(BUCKET, b"b", None, Conditions(if_match=("x",)))) == "NoSuchKey"
    assert await shown(layer) == before
    assert (await layer.delete(BUCKET, b"a", None, Conditions(if_match=("*",)))).delete_marker


async def test_a_put_reads_few_of_many_versions(both: tuple[ObjectLayer, Drive]) -> None:
    layer, drive = both
    costs = []
    for count in (10, 60):
        while len(await versions(layer)) < count:
            await put(layer, "a", b"x")
        with counted_rows(drive) as rows:
            await put(layer, "a", b"x")
        costs.append(rows[0])
    assert costs[1] <= costs[0] + 5
    assert len(await versions(layer, 7)) == 61


async def test_a_page_reads_few_of_many_versions(both: tuple[ObjectLayer, Drive]) -> None:
    """From any version on: an object that is there, one that was deleted."""
    layer, drive = both
    ids: list[str] = []
    for _ in range(700):
        ids.insert(0, (await put(layer, "a", b"x")).version_id)
    for is_deleted in (False, True):
        if is_deleted:
            ids.insert(0, (await layer.delete(BUCKET, b"a")).version_id)
        for number in (0, 1, 600):
            with counted_rows(drive) as rows:
                page = await layer.list_versions(BUCKET, after_key=b"a", after_version=ids[number], limit=5)
            found = [item.version_id for item in page.items if isinstance(item, VersionInfo)]
            assert found == ids[number + 1 : number + 6]
            assert rows[0] < 300


async def test_a_listing_goes_on_behind_a_version_that_went(both: tuple[ObjectLayer, Drive]) -> None:
    layer, _ = both
    ids = [(await put(layer, "a", b"x")).version_id for _ in range(6)][::-1]
    await layer.delete(BUCKET, b"a", ids[3])
    await layer.delete(BUCKET, b"a", ids[0])

    async def behind(version_id: str) -> list[tuple[str, bool]]:
        page = await layer.list_versions(BUCKET, after_key=b"a", after_version=version_id)
        return [(item.version_id, item.is_latest) for item in page.items if isinstance(item, VersionInfo)]

    assert await behind(ids[3]) == [(ids[4], False), (ids[5], False)]
    assert await behind(ids[1]) == [(ids[number], False) for number in (2, 4, 5)]
    everything = [(ids[1], True), *[(ids[number], False) for number in (2, 4, 5)]]
    assert await behind("null") == everything

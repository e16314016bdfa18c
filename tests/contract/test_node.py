"""What every kind of node and every wrapper promises (backend.nodes.node.Node), on trio and on asyncio."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory

import anyio
import anyio.lowlevel
import hypothesis.strategies as st
import pytest
from hypothesis import HealthCheck, given, settings

from backend.errors import ConflictError, FencedError, NotFoundError, TransientError
from backend.nodes.directory import DirectoryNode
from backend.nodes.factory import place_at
from backend.nodes.identity import (
    IDENTITY_FILE,
    NodeIdentity,
    encode_identity,
    initialise_directory_node,
)
from backend.nodes.leased import LeasedNode
from backend.nodes.listing import pages
from backend.nodes.node import Node
from backend.nodes.patient import PatientNode
from backend.nodes.rate_limited import RateLimitedNode, TokenBucket
from backend.nodes.retry import RetryNode
from tests.azurite import CREDENTIALS as AZURITE
from tests.azurite import Azurite
from tests.fake_google import FakeGoogle, fake_google
from tests.fake_s3 import FakeS3, fake_s3
from tests.faulty_node import FaultyNode
from tests.loops import LOOPS, on_both_loops
from tests.memory_node import MemoryNode
from tests.rgw import CREDENTIALS as RGW
from tests.rgw import Rgw
from tests.seaweedfs import CREDENTIALS as WEED
from tests.seaweedfs import Seaweedfs

DRIVE = bytes(range(16))
IDENTITY = NodeIdentity("node0", DRIVE, "zone0")

WRAPPERS: dict[str, Callable[[Node], Node]] = {
    "bare": lambda node: node,
    "retry": RetryNode,
    "rate-limited": lambda node: RateLimitedNode(node, TokenBucket(1e9, 1e9)),
    "leased": lambda node: LeasedNode(node, lambda: None),
    "patient": lambda node: PatientNode(node, 60),
    "faulty": FaultyNode,
    "all": lambda node: RetryNode(PatientNode(RateLimitedNode(node, TokenBucket(1e9, 1e9)), 60)),
}


@pytest.fixture(scope="module")
def server() -> Iterator[FakeS3]:
    with fake_s3() as running:
        yield running


@pytest.fixture(scope="module")
def google() -> Iterator[FakeGoogle]:
    with fake_google() as running:
        yield running


@pytest.fixture(
    params=[
        *WRAPPERS,
        "memory",
        "fake S3",
        "fake S3, all",
        "fake Google",
        "SeaweedFS",
        "Azurite",
        pytest.param("Ceph RGW", marks=pytest.mark.soak),
    ]
)
def node(request: pytest.FixtureRequest, tmp_path: Path) -> Node:
    if request.param == "memory":
        return MemoryNode("node0", "zone0")
    if request.param.startswith("fake S3"):
        wrap = WRAPPERS["all" if request.param.endswith("all") else "bare"]
        return wrap(in_store(request.getfixturevalue("server").node_url(tmp_path.name), "env:FAKE"))
    if request.param == "fake Google":
        return in_store(request.getfixturevalue("google").node_url(tmp_path.name), "env:FAKE_GOOGLE")
    if request.param == "SeaweedFS":
        weed: Seaweedfs = request.getfixturevalue("seaweedfs")
        weed.made("contract")
        return in_real_store(weed.url("contract", tmp_path.name), WEED)
    if request.param == "Azurite":
        azurite: Azurite = request.getfixturevalue("azurite")
        azurite.made("contract")
        return in_real_store(azurite.url("contract", tmp_path.name), AZURITE)
    if request.param == "Ceph RGW":
        rgw: Rgw = request.getfixturevalue("rgw")
        rgw.made("contract")
        return in_real_store(rgw.url("contract", tmp_path.name), RGW)
    initialise_directory_node(str(tmp_path), DRIVE, "node0", "zone0")
    return WRAPPERS[request.param](DirectoryNode(str(tmp_path), IDENTITY))


def in_real_store(url: str, given: Mapping[str, str | int]) -> Node:
    """Without the race that a new node begins with: in SeaweedFS each one who loses waits for seconds."""
    place = place_at(url, "/", given)
    place.write(IDENTITY_FILE, encode_identity(IDENTITY))
    return place.node(IDENTITY)


def in_store(url: str, credentials: str) -> Node:
    place = place_at(url, "/", {"credentials": credentials})
    place.initialise(IDENTITY)
    return place.node(IDENTITY)


@on_both_loops
async def test_it_has_a_name_and_a_zone_and_is_there(node: Node) -> None:
    assert (node.name, node.zone) == ("node0", "zone0")
    await node.check()


@on_both_loops
async def test_put_then_get_gives_the_parts_joined(node: Node) -> None:
    await node.put("packs/ab/x.0", [b"one", bytearray(b"two"), memoryview(b"three")])
    assert await node.get("packs/ab/x.0") == b"onetwothree"
    assert (await node.state("packs/ab/x.0")).size == 11


@on_both_loops
async def test_put_replaces(node: Node) -> None:
    await node.put("a", [b"long before"])
    await node.put("a", [b"new"])
    assert await node.get("a") == b"new"


@on_both_loops
async def test_what_is_at_hand_is_what_get_gives(node: Node) -> None:
    content = bytes(range(256)) * 100
    await node.put("a", [content])
    assert await node.get("a", 100, 1000) == content[100:1100]
    soon = await node.get_soon("a", 300, 50)
    assert soon == content[300:350] or (soon is None and not isinstance(node, DirectoryNode))
    assert await node.get_soon("a", len(content) - 10, 11) is None
    await node.put("a", [content[::-1]])
    assert await node.get_soon("a", 300, 50) in (None, content[::-1][300:350])
    await node.delete("a")
    assert await node.get_soon("a", 300, 50) is None
    assert await node.get_soon("never", 0, 1) is None


@on_both_loops
async def test_an_empty_object_is_an_object(node: Node) -> None:
    await node.put("empty", [])
    assert await node.get("empty") == b""
    assert (await node.state("empty")).size == 0
    assert await node.keys("") == ["empty"]


@pytest.mark.parametrize(
    ("offset", "length", "expected"),
    [
        (0, None, b"0123456789"),
        (3, None, b"3456789"),
        (2, 3, b"234"),
        (8, 10, b"89"),
        (10, 5, b""),
        (99, 1, b""),
        (99, None, b""),
        (4, 0, b""),
    ],
)
@on_both_loops
async def test_ranges_end_where_the_object_ends(
    node: Node, offset: int, length: int | None, expected: bytes
) -> None:
    await node.put("digits", [b"0123456789"])
    assert await node.get("digits", offset, length) == expected


@on_both_loops
async def test_a_large_object_of_many_parts(node: Node) -> None:
    parts = [bytes([number % 251]) * 1000 for number in range(3000)]
    await node.put("large", parts)
    assert await node.get("large") == b"".join(parts)
    assert await node.get("large", 1_999_999, 2) == bytes([1999 % 251, 2000 % 251])


@on_both_loops
async def test_what_is_not_there_is_not_found(node: Node) -> None:
    with pytest.raises(NotFoundError):
        await node.get("nothing")
    with pytest.raises(NotFoundError):
        await node.state("packs/00/nothing")


@on_both_loops
async def test_create_conflicts_with_what_exists_and_leaves_it(node: Node) -> None:
    await node.create("commits/01", [b"first"])
    with pytest.raises(ConflictError):
        await node.create("commits/01", [b"second"])
    assert await node.get("commits/01") == b"first"
    assert await node.keys("commits/") == ["commits/01"]


@on_both_loops
async def test_of_many_creators_one_wins(node: Node) -> None:
    winners: list[int] = []

    async def compete(number: int) -> None:
        try:
            await node.create("prize", [b"%d" % number])
        except ConflictError:
            return
        winners.append(number)

    async with anyio.create_task_group() as group:
        for number in range(10):
            group.start_soon(compete, number)
    assert [b"%d" % number for number in winners] == [await node.get("prize")]


@on_both_loops
async def test_delete_removes_and_may_be_repeated(node: Node) -> None:
    await node.put("packs/ab/x", [b"x"])
    await node.delete("packs/ab/x")
    await node.delete("packs/ab/x")
    await node.delete("packs/never/was")
    assert await node.keys("packs/") == []


@on_both_loops
async def test_keys_lists_one_folder_sorted(node: Node) -> None:
    for key in ("packs/ab/2", "packs/aa/1", "packs/ab/1.0", "roots/main", "lease"):
        await node.put(key, [b"."])
    assert await node.keys("packs/") == ["packs/aa/1", "packs/ab/1.0", "packs/ab/2"]
    assert await node.keys("packs/aa/") == ["packs/aa/1"]
    assert await node.keys("commits/") == []
    assert await node.keys("") == ["lease", "packs/aa/1", "packs/ab/1.0", "packs/ab/2", "roots/main"]


@on_both_loops
async def test_keys_come_in_their_order_whatever_folders_are_called(node: Node) -> None:
    keys = [
        f"packs/{folder}{name}" for folder in ("", "0a-/", "0a.b/", "0a/", "0b/") for name in ("0a.1", "b")
    ]
    for key in keys:
        await node.put(key, [b"."])
    for limit in (1, 3, 100):
        found = await node.keys("packs/", "", limit)
        while more := await node.keys("packs/", found[-1], limit):
            found += more
        assert found == sorted(keys)


FOLDERS = ("packs/0a/", "packs/ff/", "packs/0a-/", "packs/0a.b/", "packs/0a0/", "packs/")
"""Names of folders that sort before and after those of files beside them."""


@pytest.mark.parametrize("loop", LOOPS)
@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    keys=st.sets(st.builds(str.__add__, st.sampled_from(FOLDERS), st.sampled_from("abcdefgh")), max_size=30),
    limit=st.integers(1, 8),
    after=st.sampled_from(["", "packs/0a/c", "packs/0a-", "packs/0a.b/zz", "packs/a", "zz"]),
)
def test_pages_go_on_where_the_one_before_ended(loop: str, keys: set[str], limit: int, after: str) -> None:
    async def check(node: Node) -> None:
        for key in keys:
            await node.put(key, [b"."])
        expected, found = sorted(key for key in keys if key > after), list[str]()
        while page := await node.keys("packs/", found[-1] if found else after, limit):
            found += page
            assert len(page) == limit or found == expected
        assert found == expected
        assert [key async for page in pages(node, "packs/", after) for key in page] == expected

    with TemporaryDirectory() as folder:
        initialise_directory_node(folder, DRIVE, "node0", "zone0")
        anyio.run(
            check, WRAPPERS["all"](DirectoryNode(folder, NodeIdentity("node0", DRIVE, "zone0"))), backend=loop
        )
    anyio.run(check, MemoryNode("node0"), backend=loop)


def test_many_keys_are_listed_in_little_memory(tmp_path: Path) -> None:
    """From a folder with more of them than a page; a page at a time is held, not the folder."""
    initialise_directory_node(str(tmp_path), DRIVE, "node0", "zone0")
    folder = tmp_path / "packs" / "00"
    folder.mkdir(parents=True)
    for number in range(4_000):
        (folder / f"{number:05d}-{'n' * 100}").touch()

    async def count() -> int:
        node = DirectoryNode(str(tmp_path), NodeIdentity("node0", DRIVE, "zone0"))
        total, last = 0, ""
        while page := await node.keys("packs/", last, 250):
            total, last = total + len(page), page[-1]
        return total

    anyio.run(anyio.sleep, 0)  # what that imports is none of the listing's
    tracemalloc.start()
    try:
        assert anyio.run(count) == 4_000
        assert tracemalloc.get_traced_memory()[1] < 400_000
    finally:
        tracemalloc.stop()


@on_both_loops
async def test_tidying_leaves_what_is_stored(node: Node) -> None:
    await node.put("packs/ab/x", [b"x"])
    await node.tidy()
    assert await node.keys("") == ["packs/ab/x"]


@on_both_loops
async def test_swap_needs_what_is_expected(node: Node) -> None:
    await node.swap("lease", None, b"1")
    with pytest.raises(ConflictError):
        await node.swap("lease", None, b"x")
    with pytest.raises(ConflictError):
        await node.swap("lease", b"0", b"x")
    await node.swap("lease", b"1", b"2")
    assert await node.get("lease") == b"2"
    with pytest.raises(ConflictError):
        await node.swap("other", b"2", b"x")


@on_both_loops
async def test_swaps_take_turns(node: Node) -> None:
    """No two swaps write the same, as `Node.swap` asks for: who got no answer reads what happened (Ceph
    answers 500 to some who race)."""
    await node.put("counter", [b"0 -"])

    async def count(name: int) -> None:
        done = 0
        while done < 5:
            now = await node.get("counter")
            new = b"%d %d" % (int(now.split()[0]) + 1, name)
            try:
                await node.swap("counter", now, new)
                done += 1
            except ConflictError:
                await anyio.lowlevel.checkpoint()
            except TransientError:
                done += await node.get("counter") == new

    async with anyio.create_task_group() as group:
        for number in range(4):
            group.start_soon(count, number)
    assert (await node.get("counter")).split()[0] == b"20"


@on_both_loops
async def test_space_is_told(node: Node) -> None:
    space = await node.space()
    assert 0 < space.free <= space.total


@pytest.mark.parametrize(
    "key",
    ["", "/a", "a/", "a//b", "../a", "a/../b", ".lock", "A", "a b", "a\0", "a\n", "a/.tmp-1", "node.toml"],
)
@on_both_loops
async def test_what_is_no_key_is_refused(node: Node, key: str) -> None:
    with pytest.raises(ValueError, match="not a key"):
        await node.put(key, [b"x"])
    with pytest.raises(ValueError, match="not a key"):
        await node.get(key)


@on_both_loops
async def test_many_tasks_at_once(node: Node) -> None:
    async def write_and_read(number: int) -> None:
        key = f"packs/{number % 4:02x}/{number}"
        await node.put(key, [b"%d" % number])
        assert await node.get(key) == b"%d" % number

    async with anyio.create_task_group() as group:
        for number in range(40):
            group.start_soon(write_and_read, number)
    assert len(await node.keys("packs/")) == 40


@on_both_loops
async def test_a_leased_node_refuses_to_write_once_the_lease_is_over(tmp_path: Path) -> None:
    """Whatever writes asks first; reading goes on."""
    over = FencedError("taken over")

    def check() -> None:
        if over is refusal:
            raise over

    refusal: FencedError | None = None
    initialise_directory_node(str(tmp_path), DRIVE, "node0", "zone0")
    node = LeasedNode(DirectoryNode(str(tmp_path), NodeIdentity("node0", DRIVE, "zone0")), check)
    await node.put("a", [b"1"])
    refusal = over
    writes = (node.put("a", [b"2"]), node.create("b", [b"2"]), node.delete("a"), node.swap("a", b"1", b"2"))
    for write in writes:
        with pytest.raises(FencedError):
            await write
    assert (await node.get("a"), await node.keys("")) == (b"1", ["a"])

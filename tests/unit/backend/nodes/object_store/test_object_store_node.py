"""backend.nodes.object_store.node: what a store may answer, and what a node makes of it."""

from __future__ import annotations

import os
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path

import pytest
import trio
import trio.testing

from backend.errors import (
    ConflictError,
    DriveError,
    NodeError,
    NotFoundError,
    ReadOnlyError,
    TransientError,
)
from backend.nodes.factory import place_at
from backend.nodes.identity import NodeIdentity
from backend.nodes.node import Node
from backend.nodes.object_store.node import ObjectStoreNode
from backend.nodes.patient import PatientNode
from backend.nodes.retry import RetryNode
from tests.contents import content
from tests.fake_s3 import ACCESS_KEY, BUCKET, SECRET_KEY, Answer, FakeS3, Fault, cut, failed, fake_s3

IDENTITY = NodeIdentity("node0", bytes(range(16)), "zone0")
KEY = f"packs/ab/{'ab' * 16}.0"
MODIFIED = "Sat, 28 Nov 2026 07:00:00 GMT"
SLOW_DOWN = failed(503, "SlowDown")
EXPIRED = failed(403, "ExpiredToken")


@pytest.fixture
def server() -> Iterator[FakeS3]:
    with fake_s3() as running:
        yield running


@pytest.fixture
def credentials(tmp_path: Path) -> Path:
    path = tmp_path / "credentials"
    write_credentials(path, ACCESS_KEY)
    return path


def write_credentials(path: Path, access_key: str) -> None:
    new = path.with_suffix(".new")
    new.touch(mode=0o600)
    new.write_text(f'access_key_id = "{access_key}"\nsecret_access_key = "{SECRET_KEY}"\n')
    new.replace(path)


@pytest.fixture
def node(server: FakeS3, credentials: Path) -> Node:
    place = place_at(f"{server.node_url()}?credentials=file:{credentials}", "/")
    place.initialise(IDENTITY)
    server.requests.clear()
    return place.node(IDENTITY)


async def test_the_environment_of_other_programs_decides_nothing(
    server: FakeS3, node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("AWS_ENDPOINT", "AWS_ENDPOINT_URL"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "another")
    monkeypatch.setenv("AWS_SESSION_TOKEN", "another")
    monkeypatch.setenv("AWS_SKIP_SIGNATURE", "true")
    await node.put(KEY, [b"x"])
    assert await node.get(KEY) == b"x"


async def test_a_large_object_is_one_request(server: FakeS3, node: Node) -> None:
    data = content("random", 12_000_000)
    await node.put(KEY, [data[:5_000_000], memoryview(data)[5_000_000:]])
    assert server.objects[f"prefix/{KEY}"] == data
    assert server.requests == ["GET /bucket/prefix/node.toml", f"PUT /bucket/prefix/{KEY}"]


async def test_a_conditional_write_is_sent_once(server: FakeS3, node: Node) -> None:
    """A server error may hide a success: nobody below repeats it."""
    await node.create("lease", [b"0"])
    server.requests.clear()
    server.faults = [Fault("PUT", "lease", failed(500, "InternalError"), happens=True)]
    with pytest.raises(TransientError, match="InternalError"):
        await node.swap("lease", b"0", b"1")
    assert [each for each in server.requests if each.startswith("PUT")] == ["PUT /bucket/prefix/lease"]
    assert await node.get("lease") == b"1"


async def test_a_creation_whose_answer_was_lost_is_a_success_when_it_is_tried_again(
    server: FakeS3, node: Node
) -> None:
    server.faults = [Fault("PUT", "commits/1", failed(500, "InternalError"), happens=True)]
    await RetryNode(node, first_wait=0.001).create("commits/1", [b"mine"])
    assert await node.get("commits/1") == b"mine"


@pytest.mark.parametrize("status", [409, 412])
async def test_a_refused_creation_with_nothing_there_may_be_tried_again(
    server: FakeS3, node: Node, status: int
) -> None:
    """409 says only that others write at the same time."""
    server.faults = [Fault("PUT", "commits/1", failed(status, "ConditionalRequestConflict"))]
    with pytest.raises(TransientError):
        await node.create("commits/1", [b"mine"])
    await node.create("commits/1", [b"mine"])


@pytest.mark.parametrize("status", [409, 412])
async def test_a_refusal_is_a_conflict_whatever_is_there(server: FakeS3, node: Node, status: int) -> None:
    """It was sent once, so equal bytes are somebody else's: of two who count up from the same number one must
    be told that it was not the one."""
    refused = failed(status, "ConditionalRequestConflict")
    for there in (b"mine", b"other"):
        server.objects |= {"prefix/commits/1": there, "prefix/lease": b"0"}
        server.faults = [Fault("PUT", "commits/1", refused), Fault("PUT", "lease", refused)]
        with pytest.raises(ConflictError):
            await node.create("commits/1", [b"mine"])
        with pytest.raises(ConflictError):
            await node.swap("lease", b"0", there)
        assert server.faults == []
        with pytest.raises(ConflictError):
            await node.swap("commits/1", None, b"mine")
        assert (server.objects["prefix/commits/1"], server.objects["prefix/lease"]) == (there, b"0")


async def test_what_went_while_it_was_to_be_replaced_is_a_conflict(server: FakeS3, node: Node) -> None:
    """Amazon answers 404 to an If-Match where nothing is any more."""
    await node.create("lease", [b"0"])
    gone = failed(404, "NoSuchKey")
    server.faults = [Fault("PUT", "lease", gone)]
    with pytest.raises(ConflictError):
        await node.swap("lease", b"0", b"1")
    server.faults = [Fault("PUT", "lease", gone), Fault("GET", "node.toml", gone)]
    with pytest.raises(NodeError):
        await node.swap("lease", b"0", b"1")


@pytest.mark.parametrize("status", [409, 412])
@pytest.mark.parametrize(
    ("call", "method", "key"),
    [
        ("put", "PUT", KEY),
        ("get", "GET", KEY),
        ("state", "HEAD", KEY),
        ("delete", "DELETE", KEY + "9"),
        ("keys", "GET", "bucket"),
        ("swap", "GET", KEY),
    ],
)
async def test_what_asks_under_no_condition_meets_no_conflict(
    server: FakeS3, node: Node, call: str, method: str, key: str, status: int
) -> None:
    """A store may say 409 while another request for the object is under way."""
    await node.put(KEY, [b"content"])
    server.faults = [Fault(method, key, failed(status, "OperationAborted"))]
    with pytest.raises(TransientError):
        await CALLS[call](node)
    assert server.faults == []
    await CALLS[call](node)


async def test_without_tags_nothing_is_replaced(server: FakeS3, node: Node) -> None:
    await node.create("lease", [b"0"])
    server.faults = [Fault("GET", "lease", lambda true: Answer(200, true.body))]
    with pytest.raises(DriveError):
        await node.swap("lease", b"0", b"1")
    assert server.objects["prefix/lease"] == b"0"


CALLS: dict[str, Callable[[Node], Awaitable[object]]] = {
    "get": lambda node: node.get(KEY),
    "range": lambda node: node.get(KEY, 1, 2),
    "state": lambda node: node.state(KEY),
    "put": lambda node: node.put(KEY, [b"new"]),
    "create": lambda node: node.create(KEY + "9", [b"new"]),
    "swap": lambda node: node.swap(KEY, b"content", b"new"),
    "swap of nothing": lambda node: node.swap(KEY + "9", None, b"new"),
    "delete": lambda node: node.delete(KEY + "9"),
    "keys": lambda node: node.keys("packs/"),
    "check": lambda node: node.check(),
    "tidy": lambda node: node.tidy(),
}


def _bucket_gone(server: FakeS3) -> None:
    del server.buckets[BUCKET]


def _emptied(server: FakeS3) -> None:
    server.objects.clear()


def _changed(before: bytes, after: bytes) -> Callable[[FakeS3], None]:
    def change(server: FakeS3) -> None:
        identity = server.objects["prefix/node.toml"]
        assert before in identity
        server.objects["prefix/node.toml"] = identity.replace(before, after)

    return change


NOT_THIS_NODE: dict[str, Callable[[FakeS3], object]] = {
    "no bucket": _bucket_gone,
    "an empty bucket": _emptied,
    "no identity": lambda server: server.objects.pop("prefix/node.toml"),
    "another drive's": _changed(IDENTITY.drive_id.hex().encode(), b"ff" * 16),
    "another node": _changed(b"node0", b"node7"),
    "damaged": _changed(b"format", b"\xff\xff"),
}
WRITES = ("put", "create", "swap", "swap of nothing", "delete")


@pytest.mark.parametrize("case", NOT_THIS_NODE)
async def test_nothing_is_written_where_this_node_is_not(server: FakeS3, node: Node, case: str) -> None:
    await node.put(KEY, [b"content"])
    fresh = place_at(server.node_url(), "/", {"credentials": "env:FAKE"})
    NOT_THIS_NODE[case](server)
    before = {bucket: dict(objects) for bucket, objects in server.buckets.items()}
    for call in ("check", "tidy", *WRITES):
        with pytest.raises(NodeError):
            await CALLS[call](fresh.node(IDENTITY))
    assert server.buckets == before


@pytest.mark.parametrize("case", ["no bucket", "an empty bucket"])
async def test_what_is_not_found_where_this_node_is_not_is_away(
    server: FakeS3, node: Node, case: str
) -> None:
    """Also by one that was used a moment ago."""
    await node.put(KEY, [b"content"])
    NOT_THIS_NODE[case](server)
    for call in ("get", "range", "state", "swap", "keys", "check", *(WRITES if case == "no bucket" else ())):
        with pytest.raises(NodeError):
            await CALLS[call](node)


async def test_a_bucket_that_comes_back_is_the_node_again(server: FakeS3, node: Node) -> None:
    await node.put(KEY, [b"content"])
    bucket = server.buckets.pop(BUCKET)
    with pytest.raises(NodeError):
        await node.get(KEY)
    server.buckets[BUCKET] = bucket
    assert await node.get(KEY) == b"content"
    with pytest.raises(NotFoundError):
        await node.get(KEY + "9")


@pytest.mark.parametrize("answer", [SLOW_DOWN, failed(429, "TooManyRequests"), failed(500, "InternalError")])
@pytest.mark.parametrize(
    ("call", "method"), [("get", "GET"), ("range", "GET"), ("state", "HEAD"), ("put", "PUT")]
)
async def test_a_store_in_trouble_is_asked_again_later(
    server: FakeS3, node: Node, call: str, method: str, answer: Answer
) -> None:
    await node.put(KEY, [b"content"])
    server.faults = [Fault(method, KEY, answer), Fault(method, KEY, answer)]
    with pytest.raises(TransientError):
        await CALLS[call](node)
    await RetryNode(node, first_wait=0.001).get(KEY)
    if call != "get":
        await RetryNode(node, first_wait=0.001, deadline=5).state(KEY)


async def test_a_busy_store_is_sent_half_as_many_at_once_and_more_again(server: FakeS3, node: Node) -> None:
    assert isinstance(node, ObjectStoreNode)
    data = content("random", 200_000)
    await node.put(KEY, [data])
    for expected in (8, 4, 2, 1, 1):
        server.faults = [Fault("GET", KEY, SLOW_DOWN)]
        with pytest.raises(TransientError):
            await node.get(KEY)
        assert node.pace.threads.count == expected
    for _ in range(200):
        await node.state(KEY)
    assert node.pace.threads.count == 16


@pytest.mark.parametrize("ranged", [False, True])
async def test_a_body_that_ends_early_is_no_object(server: FakeS3, node: Node, ranged: bool) -> None:
    data = content("random", 100_000)
    await node.put(KEY, [data])
    server.faults = [Fault("GET", KEY, cut)]
    with pytest.raises(TransientError):
        await (node.get(KEY, 10, 90_000) if ranged else node.get(KEY))
    assert await node.get(KEY, 10, 90_000) == data[10:90_010]


async def test_a_range_that_is_shorter_than_it_says_is_refused(server: FakeS3, node: Node) -> None:
    data = content("random", 1000)
    await node.put(KEY, [data])
    server.faults = [Fault("GET", KEY, lambda true: Answer(206, true.body[:50], dict(true.headers)))]
    with pytest.raises(TransientError):
        await node.get(KEY, 100, 100)


async def test_an_empty_range_behind_the_end_is_empty(server: FakeS3, node: Node) -> None:
    """As Azurite answers it; others say 416."""
    await node.put(KEY, [content("random", 1000)])
    empty = Answer(
        206, b"", {"Content-Range": "bytes 1000-999/1000", "ETag": '"x"', "Last-Modified": MODIFIED}
    )
    server.faults = [Fault("GET", KEY, empty)]
    assert await node.get(KEY, 1000, 5) == b""
    assert server.faults == []


@pytest.mark.parametrize(
    ("offset", "length"), [(0, 10), (990, 100), (10, None), (1000, 5), (2000, 5), (0, 5000)]
)
async def test_ranges_of_a_store_that_answers_with_the_whole(
    server: FakeS3, node: Node, offset: int, length: int | None
) -> None:
    data = content("random", 1000)
    await node.put(KEY, [data])
    server.ignores_ranges = True
    end = None if length is None else offset + length
    assert await node.get(KEY, offset, length) == data[offset:end]


async def test_expired_credentials_are_a_node_that_is_away(server: FakeS3, node: Node) -> None:
    await node.put(KEY, [b"content"])
    server.access_key = "another"
    for name, call in CALLS.items():
        with pytest.raises(NodeError) as caught:
            await call(node)
        assert SECRET_KEY not in str(caught.value)
        # The answer to HEAD has no body to say why in.
        assert ("403 Forbidden" if name == "state" else "InvalidAccessKeyId") in str(caught.value)


async def test_credentials_that_were_renewed_are_used(server: FakeS3, node: Node, credentials: Path) -> None:
    await node.put(KEY, [b"content"])
    server.access_key = "AKNEW"
    with pytest.raises(NodeError):
        await node.get(KEY)
    write_credentials(credentials, "AKNEW")
    assert await node.get(KEY) == b"content"


async def test_a_refused_write_where_reading_is_allowed_is_read_only(server: FakeS3, node: Node) -> None:
    await node.check()
    server.faults = [Fault("PUT", KEY, failed(403, "AccessDenied"))]
    with pytest.raises(ReadOnlyError, match="AccessDenied"):
        await node.put(KEY, [b"x"])


async def test_credentials_that_others_may_read_are_not_used(node: Node, credentials: Path) -> None:
    os.chmod(credentials, 0o644)
    with pytest.raises(NodeError, match="others may read it"):
        await node.check()


async def test_deleting_what_is_not_there_is_no_error_where_the_store_says_so(
    server: FakeS3, node: Node
) -> None:
    """As Azure does."""
    server.faults = [Fault("DELETE", KEY, failed(404, "BlobNotFound"))]
    await node.delete(KEY)


@pytest.mark.parametrize("by_folder", [False, True])
async def test_listings_of_many_pages_in_any_order(server: FakeS3, node: Node, by_folder: bool) -> None:
    keys = [f"packs/{folder}/{name}" for folder in ("0a", "0a-", "0a.b", "0b", "ff") for name in "abcdefg"]
    for key in keys:
        server.objects[f"prefix/{key}"] = b"."
    server.objects["prefixed/packs/0a/a"] = b"."
    server.lists_by_folder, server.page = by_folder, 4
    assert await node.keys("packs/") == sorted(keys)
    assert await node.keys("packs/0a/", "packs/0a/c", 3) == ["packs/0a/d", "packs/0a/e", "packs/0a/f"]


async def test_a_listing_goes_on_from_any_key_and_asks_no_more_than_it_needs(
    server: FakeS3, node: Node
) -> None:
    keys = [f"packs/{number // 100:02x}/{number:05d}" for number in range(3000)]
    server.objects.update({f"prefix/{key}": b"" for key in keys})
    assert await node.keys("packs/", keys[1499], 700) == keys[1500:2200]
    assert len(server.requests) == 2, "one page, and a look whether the store lists something behind it"
    assert await node.keys("packs/", keys[2299], 10_000) == keys[2300:]
    assert len(server.requests) == 3


async def test_a_write_is_not_held_up_by_large_reads(server: FakeS3, node: Node) -> None:
    """Small requests have a limiter of their own."""
    await node.put(KEY, [content("random", 200_000)])
    assert isinstance(node, ObjectStoreNode)
    node.pace.threads.count = 1
    over = threading.Event()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(node.pace.threads.run, over.wait)
        await trio.testing.wait_all_tasks_blocked()
        with trio.fail_after(20):
            await node.create("lease", [b"0"])
            await node.swap("lease", b"0", b"1")
        over.set()


async def test_a_write_that_was_given_up_is_not_sent_again_while_it_goes_on(
    server: FakeS3, node: Node
) -> None:
    """Also one that had waited for its turn, so that its request is younger than its caller's patience."""
    await node.put("commits/0", [b"content"])  # it is known to be this node
    server.most_writers.clear()
    before, server.latency = len(server.requests), 0.5
    patient = RetryNode(PatientNode(node, 0.8), deadline=2.0, first_wait=0.001, longest_wait=0.01)
    async with trio.open_nursery() as nursery:
        for number in range(12):
            nursery.start_soon(_tried, partial(patient.put, f"commits/{number}", [b"content"]))
        while len(server.requests) < before + 8:
            await trio.sleep(0.01)
        server.latency = 2.0
    assert max(server.most_writers.values()) == 1


async def _tried(write: Callable[[], Awaitable[None]]) -> None:
    with suppress(DriveError):
        await write()

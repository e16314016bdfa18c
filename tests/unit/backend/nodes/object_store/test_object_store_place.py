"""backend.nodes.object_store.place and races: where a node may be, and where not."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from backend.errors import NodeError
from backend.nodes.factory import place_at
from backend.nodes.identity import IDENTITY_FILE, NodeIdentity
from backend.nodes.object_store import races
from backend.nodes.place import NodePlace
from tests.azurite import CREDENTIALS as AZURITE
from tests.azurite import Azurite
from tests.fake_s3 import SECRET_KEY, FakeS3, Fault, failed, fake_s3

IDENTITY = NodeIdentity("node0", bytes(range(16)), "zone0")


@pytest.fixture
def server() -> Iterator[FakeS3]:
    with fake_s3() as running:
        yield running


@pytest.fixture
def place(server: FakeS3) -> NodePlace:
    return place_at(server.node_url(), "/", {"credentials": "env:FAKE"})


def test_a_store_that_ignores_conditions_takes_no_node(server: FakeS3, place: NodePlace) -> None:
    """It answers 200 to everybody, as some servers do."""
    server.ignores_conditions = True
    with pytest.raises(
        NodeError, match="of 8 creates of one object at once 8 were told that they were the first"
    ):
        place.initialise(IDENTITY)
    assert server.objects == {}


def test_a_real_store_that_ignores_conditions_takes_no_node(rclone: str) -> None:
    """It also fails now and then when several write one object: then it cannot be found out."""
    place = place_at(f"{rclone}/prefix", "/", {"credentials": "env:FAKE"})
    told = "of 8 creates of one object at once [2-8] were told|the store says: InternalError"
    with pytest.raises((NodeError, OSError), match=told):
        place.initialise(IDENTITY)
    assert place.read(IDENTITY_FILE, 1) is None


def test_a_store_that_ignores_only_conditional_replacements_takes_no_node(
    server: FakeS3, place: NodePlace
) -> None:
    create = server.answer

    def answer(method: str, path: str, headers: dict[str, str], body: bytes) -> object:
        return create(method, path, {k: v for k, v in headers.items() if k != "if-match"}, body)

    server.answer = answer  # type: ignore[method-assign, assignment]
    with pytest.raises(NodeError, match="of 8 replacements of one version of an object at once 8 were told"):
        place.initialise(IDENTITY)
    assert server.objects == {}


def test_a_store_that_refuses_all_conditional_writes_takes_no_node(server: FakeS3, place: NodePlace) -> None:
    server.faults = [Fault("PUT", "", failed(412, "PreconditionFailed")) for _ in range(8)]
    with pytest.raises(NodeError, match="none succeeded"):
        place.initialise(IDENTITY)


@pytest.mark.parametrize("happens", [False, True])
@pytest.mark.parametrize("number", [1, 3, 7])
def test_a_racer_that_is_told_of_an_error_may_be_the_one_that_won(
    server: FakeS3, place: NodePlace, number: int, happens: bool
) -> None:
    """Ceph answers 500 to some who race, and has written what one of them sent, or not. One who comes late
    is refused all the same."""
    server.faults = [Fault("PUT", "", failed(500, "UnknownError"), happens) for _ in range(number)]
    place.initialise(IDENTITY)
    assert list(server.objects) == ["prefix/node.toml"]


def test_where_all_racers_are_told_of_errors_and_nothing_is_there_nobody_can_say(
    server: FakeS3, place: NodePlace
) -> None:
    server.faults = [Fault("PUT", "", failed(500, "UnknownError")) for _ in range(races.RACERS)]
    with pytest.raises(OSError, match="UnknownError"):
        place.initialise(IDENTITY)
    assert server.objects == {}


@pytest.mark.parametrize("number", [1, 7, 8])
def test_a_store_that_ignores_conditions_takes_no_node_though_racers_fail(
    server: FakeS3, place: NodePlace, number: int
) -> None:
    server.ignores_conditions = True
    server.faults = [Fault("PUT", "", failed(500, "UnknownError"), happens=True) for _ in range(number)]
    with pytest.raises(NodeError, match="of 8 creates of one object at once"):
        place.initialise(IDENTITY)


def test_a_race_leaves_nothing_behind(server: FakeS3, place: NodePlace) -> None:
    place.initialise(IDENTITY)
    assert list(server.objects) == ["prefix/node.toml"]
    assert len([each for each in server.requests if each.startswith("PUT /bucket/prefix/probe/")]) == 16


def test_what_a_race_could_not_delete_is_in_nobodys_way(server: FakeS3, place: NodePlace) -> None:
    server.faults = [Fault("DELETE", "", failed(403, "AccessDenied"))]
    with pytest.raises(OSError, match="AccessDenied"):
        place.initialise(IDENTITY)
    (left,) = server.objects
    assert left.startswith("prefix/probe/")
    place.initialise(IDENTITY)
    assert sorted(server.objects) == ["prefix/node.toml", left]
    place.clear()
    assert server.objects == {}


def test_racers_do_not_wait_for_one_that_cannot_begin(
    server: FakeS3, place: NodePlace, monkeypatch: pytest.MonkeyPatch
) -> None:
    place.prepare()
    start, started = threading.Thread.start, list[threading.Thread]()

    def few(thread: threading.Thread) -> None:
        if "ThreadPoolExecutor" in thread.name:
            if len(started) == races.RACERS - 1:
                raise RuntimeError("can't start new thread")
            started.append(thread)
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", few)
    with pytest.raises(OSError, match="can't start new thread"):
        place.initialise(IDENTITY)
    assert len(started) == races.RACERS - 1
    assert not any(thread.is_alive() for thread in started)
    assert server.objects == {}


def test_the_environment_of_other_programs_decides_nothing_at_azure(
    azurite: Azurite, monkeypatch: pytest.MonkeyPatch
) -> None:
    azurite.made("environment")
    for name in ("STORAGE_ENDPOINT", "STORAGE_TOKEN", "STORAGE_ACCOUNT_KEY", "STORAGE_SAS_KEY", "CLIENT_ID"):
        monkeypatch.setenv(f"AZURE_{name}", "http://127.0.0.1:1")
    monkeypatch.setenv("AZURE_STORAGE_USE_EMULATOR", "true")
    monkeypatch.setenv("AZURE_SKIP_SIGNATURE", "true")
    place = place_at(azurite.url("environment", "prefix"), "/", AZURITE)
    place.write("x", b"1")
    assert place.read("x", 9) == b"1"


def test_a_prefix_with_something_in_it_is_no_place(server: FakeS3, place: NodePlace) -> None:
    server.objects["prefix/holiday.jpg"] = b"x"
    server.objects["prefixed"] = b"x"
    with pytest.raises(NodeError, match=r"is not empty \(it holds holiday.jpg\)"):
        place.initialise(IDENTITY)
    place.clear()
    place.initialise(IDENTITY)
    assert sorted(server.objects) == ["prefix/node.toml", "prefixed"]


def test_who_has_a_right_to_the_prefix_only_may_make_a_node_there(server: FakeS3) -> None:
    """S3 answers 403 to who may not list, whether there is something or not."""
    place = place_at(server.node_url("mine/node"), "/", {"credentials": "env:FAKE"})
    above = ("bucket/node.toml", "bucket/mine/node.toml")
    server.faults = [Fault("HEAD", key, failed(403, "AccessDenied")) for key in above * 2]
    place.prepare()
    place.initialise(IDENTITY)
    assert list(server.objects) == ["mine/node/node.toml"]
    assert server.faults == []


def test_whether_it_lies_in_a_node_must_be_known(server: FakeS3, place: NodePlace) -> None:
    server.faults = [Fault("HEAD", "bucket/node.toml", failed(503, "SlowDown")) for _ in range(2)]
    for attempt in (place.prepare, lambda: place.initialise(IDENTITY)):
        with pytest.raises(OSError, match="the store says"):
            attempt()
    assert server.objects == {}


def test_a_place_that_cannot_be_used_says_why(server: FakeS3, place: NodePlace) -> None:
    server.access_key = "another"
    for call in (place.prepare, lambda: place.initialise(IDENTITY), lambda: place.write("drive.toml", b"x")):
        with pytest.raises(OSError, match="InvalidAccessKeyId") as caught:
            call()
        assert server.node_url() in str(caught.value)
        assert SECRET_KEY not in str(caught.value)
    assert place.whereabouts() is None
    assert not place.is_writable()


def test_a_bucket_that_is_not_there_is_not_made(server: FakeS3) -> None:
    place = place_at(f"s3+{server.url}/absent/prefix", "/", {"credentials": "env:FAKE"})
    with pytest.raises(OSError, match="NoSuchBucket"):
        place.prepare()
    assert list(server.buckets) == ["bucket"]


def test_servers_and_regions_fail_together() -> None:
    def domain(url: str) -> object:
        return place_at(url, "/", {"credentials": "anonymous"}).failure_domain()

    same = ["s3://a1b/x?region=eu", "s3://c2d/y?region=eu"]
    others = ["s3://a1b/x?region=us", "gs://a1b/x", "az://abc/c1d/x", "s3+https://host/a1b/x"]
    assert len({domain(url) for url in same}) == 1
    assert len({domain(url) for url in [same[0], *others]}) == 5

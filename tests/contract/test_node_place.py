"""What every kind of place for a node promises (backend.nodes.place.NodePlace)."""

from __future__ import annotations

import os
import threading
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import pytest
import trio

from backend.errors import NodeError, UsageError
from backend.nodes.directory_place import DirectoryPlace
from backend.nodes.factory import place_at
from backend.nodes.identity import NodeIdentity
from backend.nodes.object_store import races
from backend.nodes.object_store.client import StoreClient
from backend.nodes.place import NodePlace
from tests.azurite import CREDENTIALS as AZURITE
from tests.azurite import Azurite
from tests.contents import content
from tests.fake_google import fake_google
from tests.fake_s3 import Fault, failed, fake_s3
from tests.seaweedfs import CREDENTIALS as WEED
from tests.seaweedfs import Seaweedfs

IDENTITY = NodeIdentity("node0", bytes(range(16)), "zone0")
CREDENTIALS = {"credentials": "env:FAKE"}
OTHER = NodeIdentity("node1", bytes(range(16)), "zone0")
FRAGMENT = f"packs/ab/{'ab' * 16}.0"

KINDS = ["directory", "fake S3", "fake Google", "SeaweedFS", "Azurite"]
Maker = Callable[[Path], NodePlace]
"""Makes a place where nothing is yet; called twice with the same folder, the same place."""


@pytest.fixture(params=KINDS)
def make(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Maker]:
    if request.param == "directory":
        yield lambda folder: DirectoryPlace(str(folder / "node"))
        return
    if request.param == "SeaweedFS":
        weed: Seaweedfs = request.getfixturevalue("seaweedfs")
        weed.made("places")
        # Losers of the race that a node begins with wait for seconds there: it has a mount test.
        monkeypatch.setattr(races, "trouble_with_conditions", lambda *_: None)
        top = uuid.uuid4().hex
        yield lambda folder: place_at(weed.url("places", f"{top}/{folder.name}"), "/", WEED)
        return
    if request.param == "Azurite":
        azurite: Azurite = request.getfixturevalue("azurite")
        azurite.made("places")
        above = uuid.uuid4().hex
        yield lambda folder: place_at(azurite.url("places", f"{above}/{folder.name}"), "/", AZURITE)
        return
    if request.param == "fake Google":
        with fake_google() as google:
            yield lambda folder: place_at(
                google.node_url(folder.name), "/", {"credentials": "env:FAKE_GOOGLE"}
            )
        return
    with fake_s3() as server:
        yield lambda folder: place_at(server.node_url(folder.name), "/", CREDENTIALS)


@pytest.fixture
def place(make: Maker, tmp_path: Path) -> NodePlace:
    return make(tmp_path)


@pytest.fixture(params=["directory", "fake S3"])
def faulted(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[NodePlace]:
    """A node that answers no question now."""
    if request.param == "directory":
        (tmp_path / "node").symlink_to("node")
        yield DirectoryPlace(str(tmp_path / "node"))
        return
    with fake_s3() as server:
        place = place_at(server.node_url(), "/", CREDENTIALS)
        place.initialise(IDENTITY)
        server.faults = [Fault("GET", "", failed(503, "SlowDown")) for _ in range(9)]
        yield place


def test_nothing_is_there_at_first(place: NodePlace) -> None:
    assert place.whereabouts() is None
    assert place.read("drive.toml", 100) is None
    assert list(place.fragments()) == []
    assert not place.holds("packs/", "commits/")
    assert not place.is_writable()
    with pytest.raises(NodeError, match="name0"):
        place.identity("name0")


def test_places_are_the_same_by_their_url_and_things_by_what_is_there(make: Maker, tmp_path: Path) -> None:
    one, same, other = make(tmp_path), make(tmp_path), make(tmp_path / "other")
    for place in (one, other):
        place.prepare()
        place.prepare()
        place.initialise(IDENTITY)
    assert one == same
    assert len({one, same, other}) == 2
    assert one.whereabouts() == same.whereabouts()
    assert one.whereabouts() != other.whereabouts()
    assert one.failure_domain() == other.failure_domain()
    assert one.url in str(one)


def test_a_place_becomes_a_node_once(place: NodePlace) -> None:
    place.prepare()
    place.initialise(IDENTITY)
    place.initialise(IDENTITY)
    assert place.identity("any") == IDENTITY
    assert place.is_writable()
    assert 0 < place.space().free <= place.space().total
    with pytest.raises(NodeError, match="already"):
        place.initialise(OTHER)
    assert place.identity("any") == IDENTITY


def test_small_objects_are_written_whole_and_read_to_a_limit(place: NodePlace) -> None:
    place.prepare()
    place.initialise(IDENTITY)
    data = content("random", 300)
    place.write("drive.toml", b"before")
    place.write("drive.toml", data)
    assert place.read("drive.toml", 300) == data
    assert place.read("drive.toml", 299) == data
    assert place.read("drive.toml", 10) == data[:11]


def test_an_object_is_replaced_where_it_is_as_it_was_seen(place: NodePlace) -> None:
    place.prepare()
    place.initialise(IDENTITY)
    one, two = content("json", 300), content("random", 301)
    assert not place.replace("drive.toml", one, two)
    assert place.read("drive.toml", 400) is None
    assert place.replace("drive.toml", None, one)
    assert not place.replace("drive.toml", None, two)
    assert not place.replace("drive.toml", one[:-1], two)
    assert not place.replace("drive.toml", one + b" ", two)
    assert place.read("drive.toml", 400) == one
    assert place.replace("drive.toml", one, two)
    assert place.read("drive.toml", 400) == two


@pytest.mark.parametrize("before", [None, b"before"])
def test_of_several_who_replace_one_does(place: NodePlace, before: bytes | None) -> None:
    place.prepare()
    place.initialise(IDENTITY)
    if before is not None:
        place.write("drive.toml", before)
    barrier = threading.Barrier(8)

    def replace(number: int) -> bool:
        barrier.wait()
        return place.replace("drive.toml", before, b"%d" % number)

    with ThreadPoolExecutor(8) as pool:
        told = list(pool.map(replace, range(8)))
    assert sum(told) == 1
    assert place.read("drive.toml", 10) == b"%d" % told.index(True)


def test_the_node_there_is_the_one_that_was_made(place: NodePlace) -> None:
    place.prepare()
    place.initialise(IDENTITY)
    node = place.node(IDENTITY)
    data = content("random", 5000)

    async def use() -> None:
        await node.check()
        await node.put(FRAGMENT, [data])
        assert await node.keys("packs/") == [FRAGMENT]
        with pytest.raises(NodeError):
            await place.node(OTHER).check()

    trio.run(use)
    assert (node.name, node.zone) == ("node0", "zone0")
    assert list(place.fragments()) == [FRAGMENT]
    assert place.tail(FRAGMENT, 100) == data[-100:]
    assert place.stored_bytes() == 5000
    assert place.holds("commits/", "packs/")


def test_what_is_taken_away_is_gone_and_the_rest_stays(place: NodePlace) -> None:
    place.prepare()
    place.initialise(IDENTITY)
    place.write("drive.toml", b"x")
    place.write("other.toml", b"y")
    trio.run(place.node(IDENTITY).put, FRAGMENT, [b"z"])
    for _ in range(2):
        place.remove(("node.toml", "drive.toml"), ("packs", "commits"))
        assert place.read("drive.toml", 9) is None
        assert place.read("other.toml", 9) == b"y"
        assert not place.holds("packs/")
    with pytest.raises(NodeError):
        place.identity("node0")
    place.clear()
    assert place.read("other.toml", 9) is None
    place.initialise(OTHER)


def test_what_cannot_be_told_is_no_answer(faulted: NodePlace) -> None:
    for question in (lambda: faulted.holds("packs/", "commits/"), lambda: faulted.read("lease", 100)):
        with pytest.raises(OSError, match=r"SlowDown|symbolic links"):
            question()


def test_what_is_no_object_is_as_good_as_nothing(tmp_path: Path) -> None:
    place = DirectoryPlace(str(tmp_path / "node"))
    place.initialise(IDENTITY)
    (tmp_path / "node" / "lease").symlink_to("node.toml")
    (tmp_path / "node" / "drive.toml").mkdir()
    assert place.read("lease", 100) is None
    assert place.read("drive.toml", 100) is None
    assert place.read("node.toml/x", 100) is None


def inside(place: NodePlace, below: str) -> NodePlace:
    """The place `below` in it."""
    return place_at(f"{place.url}/{below}", "/", place.settings)


def test_no_node_is_made_in_a_node(place: NodePlace) -> None:
    place.prepare()
    place.initialise(IDENTITY)
    for inner in (inside(place, "deep"), inside(place, "much/deeper")):
        assert inner.way[: len(place.way)] == place.way
        for attempt in (inner.prepare, partial(inner.initialise, OTHER)):
            with pytest.raises(UsageError, match="lies in "):
                attempt()
        with pytest.raises(NodeError):
            inner.identity("node1")
    place.initialise(IDENTITY)


def test_what_is_cleared_spares_nodes_that_lie_in_it(place: NodePlace) -> None:
    """As earlier versions let them be made."""
    inner = inside(place, "much/deeper")
    inner.prepare()
    inner.initialise(OTHER)
    inner.write("drive.toml", b"of the inner one")
    trio.run(inner.node(OTHER).put, FRAGMENT, [b"z"])
    with pytest.raises(NodeError, match="is not empty"):
        place.initialise(IDENTITY)
    names = ("node.toml", "node.toml.old", "drive.toml", "much/file", "zoo")
    for name in names:
        inside(place, os.path.dirname(name)).write(os.path.basename(name), b"x")
    with pytest.raises(NodeError, match="holds much/deeper"):
        place.require_fit("node0", emptied=True)
    place.clear()
    assert [place.read(name, 9) for name in names] == [None] * len(names)
    assert inner.identity("node1") == OTHER
    assert inner.read("drive.toml", 99) == b"of the inner one"
    assert list(inner.fragments()) == [FRAGMENT]
    inner.clear()
    place.require_fit("node0", emptied=True)


def test_a_place_is_fit_if_it_would_be_when_emptied(place: NodePlace) -> None:
    place.prepare()
    place.require_fit("node0")
    place.write("foreign", b"x")
    place.require_fit("node0", emptied=True)
    with pytest.raises(NodeError, match=r"node0: .*holds foreign"):
        place.require_fit("node0")
    assert place.read("foreign", 9) == b"x"


def test_the_identity_is_what_is_cleared_last(place: NodePlace, monkeypatch: pytest.MonkeyPatch) -> None:
    place.prepare()
    place.initialise(IDENTITY)
    trio.run(place.node(IDENTITY).put, FRAGMENT, [b"z"])
    place.write("zoo", b"x")
    order: list[str] = []
    unlink, delete = os.unlink, StoreClient.delete

    def unlink_and_note(path: str, *, dir_fd: int | None = None) -> None:
        order.append(path)
        unlink(path, dir_fd=dir_fd)

    def delete_and_note(client: StoreClient, key: str) -> None:
        order.append(key)
        delete(client, key)

    monkeypatch.setattr(os, "unlink", unlink_and_note)
    monkeypatch.setattr(StoreClient, "delete", delete_and_note)
    place.clear()
    assert len(order) >= 3
    assert order[-1] == "node.toml"

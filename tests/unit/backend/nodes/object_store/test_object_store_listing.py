"""backend.nodes.object_store.listing: a listing is the same in pages of any size, in whatever order the store
has its names."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import hypothesis.strategies as st
import pytest
import trio
from hypothesis import HealthCheck, assume, given, settings

from backend.nodes.factory import place_at
from backend.nodes.identity import NodeIdentity, encode_identity
from backend.nodes.node import Node
from backend.nodes.object_store import client
from tests.fake_s3 import Answer, FakeS3, fake_s3

IDENTITY = NodeIdentity("node0", bytes(range(16)), "zone0")
FOLDERS = ("", "packs/", "packs/0a/", "packs/0a-/", "packs/0a.b/", "packs/0a/0a/", "packs/0a0/", "packs-/")
"""Some sort before what lies in a folder, and some stores list them behind it."""
NAMES = ("0a", "0a-", "0a.0", "0a.1", "0a0", "a", "b", "c", "No key", "0a-No key")

names = st.builds(str.__add__, st.sampled_from(FOLDERS), st.sampled_from(NAMES))
prefixes = st.sampled_from(["", "packs/", "packs/0a/", "packs/0a-/"])


@pytest.fixture(scope="module")
def server() -> Iterator[FakeS3]:
    with fake_s3() as running:
        yield running


def without_files_on_the_way(objects: set[str]) -> set[str]:
    """A store that knows folders has none where there is an object."""
    return {each for each in objects if not any(other.startswith(f"{each}/") for other in objects)}


def node_with(server: FakeS3, objects: set[str]) -> Node:
    server.objects = {f"prefix/{name}": b"." for name in objects}
    server.objects["prefix/node.toml"] = encode_identity(IDENTITY)
    server.objects["prefixed/packs/0a/a"] = b"."
    return place_at(server.node_url(), "/", {"credentials": "env:FAKE"}).node(IDENTITY)


def expected(objects: set[str], prefix: str, after: str) -> list[str]:
    return sorted(each for each in objects if each.startswith(prefix) and each > after and "No" not in each)


some_pages = partial(given, page=st.integers(1, 7), limit=st.integers(1, 9), by_folder=st.booleans())
in_short = settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])


@in_short
@some_pages(objects=st.sets(names, max_size=40), prefix=prefixes, after=st.just("") | names)
async def test_a_page_has_the_next_keys_and_fewer_only_if_there_are_no_more(
    server: FakeS3, objects: set[str], prefix: str, after: str, page: int, limit: int, by_folder: bool
) -> None:
    objects = without_files_on_the_way(objects)
    assume(after in without_files_on_the_way({after, *objects}))  # a listing goes on from an object
    node = node_with(server, objects)
    server.page, server.lists_by_folder = page, by_folder
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(client, "LIST_PAGE", page)
        assert await node.keys(prefix, after, limit) == expected(objects, prefix, after)[:limit]


@in_short
@some_pages(
    stay=st.sets(names, max_size=30),
    changes=st.lists(st.sets(names, max_size=5), max_size=12),
    prefix=prefixes,
)
async def test_what_was_there_all_along_is_listed_once(
    server: FakeS3,
    stay: set[str],
    changes: list[set[str]],
    prefix: str,
    page: int,
    limit: int,
    by_folder: bool,
) -> None:
    """While at each request of the listing something else comes or goes."""
    stay = without_files_on_the_way(stay.union(*changes)) & stay
    changes = [without_files_on_the_way(stay.union(*changes)) & each for each in changes]
    node, left = node_with(server, stay), list(changes)
    server.page, server.lists_by_folder = page, by_folder
    answer = server.answer

    def changing(method: str, path: str, headers: dict[str, str], body: bytes) -> Answer:
        for name in left.pop() - stay if left else ():
            if server.objects.pop(f"prefix/{name}", None) is None:
                server.objects[f"prefix/{name}"] = b"."
        return answer(method, path, headers, body)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(client, "LIST_PAGE", page)
        patch.setattr(server, "answer", changing)
        found: list[str] = []
        with trio.fail_after(60):
            while more := await node.keys(prefix, found[-1] if found else "", limit):
                found += more
    assert found == sorted(set(found))
    assert set(expected(stay, prefix, "")) <= set(found)
    assert set(found) <= set(expected(stay.union(*changes), prefix, ""))

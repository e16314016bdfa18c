"""The key rule: keys are paths and paths are keys, one for one."""

from __future__ import annotations

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from gateway.s3 import key_paths
from tests.s3_keys import KEYS, NAMES, is_allowed

LONG = b"x" * 600
FIRST, MIDDLE, LAST = key_paths.path_of(LONG)


def hexed(name: bytes) -> bytes:
    return b".s3~b" + name.hex().encode()


@settings(max_examples=800, deadline=None)
@given(KEYS)
@example(LONG)
@example(hexed(FIRST[:40]) + b"/" + hexed(LAST[:20]))
@example(b"/".join((b"a", hexed(b".s3~self"))))
@example(b"/".join((hexed(b".s3~self"), b"b")))
def test_a_path_leads_back_to_its_key(key: bytes) -> None:
    path = key_paths.path_of(key)
    assert key_paths.key_of(path) == key
    for name in path:
        assert 0 < len(name) <= 255
        assert not {0, 47}.intersection(name)
        assert name not in (b".", b"..")


@settings(max_examples=800, deadline=None)
@given(st.lists(NAMES, min_size=1, max_size=5).map(tuple))
@example((FIRST, MIDDLE, LAST))
@example((FIRST, LAST))
@example((MIDDLE, LAST))
@example((b".s3~q" + hexed(b".."),))
@example((FIRST, MIDDLE, b".s3~q" + hexed(LAST)))
def test_a_key_leads_back_to_its_path(path: tuple[bytes, ...]) -> None:
    if key_paths.SELF in path[1:]:
        return  # the object that has the folder's name, no name below it
    key = key_paths.key_of(path)
    if is_allowed(key):
        assert key_paths.path_of(key) == path


@settings(max_examples=300, deadline=None)
@given(st.lists(st.lists(NAMES, min_size=1, max_size=2).map(tuple), min_size=2, max_size=20))
def test_no_two_paths_have_one_key(paths: list[tuple[bytes, ...]]) -> None:
    known: dict[bytes, tuple[bytes, ...]] = {}
    for path in paths:
        if key_paths.SELF not in path[1:]:
            assert known.setdefault(key_paths.key_of(path), path) == path


@pytest.mark.parametrize(
    ("key", "path"),
    [
        (b"a", (b"a",)),
        (b"a/b", (b"a", b"b")),
        (b"a/", (b"a", b".s3~e")),
        (b"/", (b".s3~e", b".s3~e")),
        (b"/a", (b".s3~e", b"a")),
        (b"a//b", (b"a", b".s3~e", b"b")),
        (b"./../.versions", (b".s3~q.", b".s3~q..", b".s3~q.versions")),
        (b"a/.s3~self", (b"a", b".s3~q.s3~self")),
        (b".s3~bff", (b"\xff",)),
        (b".s3~bFF", (b".s3~q.s3~bFF",)),
        (b".s3~b2e2e", (b".s3~q.s3~b2e2e",)),
        (b".s3~b61", (b".s3~q.s3~b61",)),
        ("e\u0301/é".encode(), ("e\u0301".encode(), "é".encode())),
        (b"y" * 255, (b"y" * 255,)),
        (b"y" * 256, (b".s3~n" + b"y" * 250, b".s3~z" + b"y" * 6)),
    ],
)
def test_the_table(key: bytes, path: tuple[bytes, ...]) -> None:
    assert key_paths.path_of(key) == path
    assert key_paths.key_of(path) == key


def test_a_character_is_not_cut_by_a_long_segment() -> None:
    for name in key_paths.path_of("𐀀".encode() * 200):
        name.decode()


@pytest.mark.parametrize("key", [b"", b"a\0b", b"\xff", b"a" * 1025, "é".encode() * 513])
def test_what_s3_does_not_allow(key: bytes) -> None:
    assert not is_allowed(key)


def test_the_longest_key() -> None:
    assert is_allowed("é".encode() * 512)

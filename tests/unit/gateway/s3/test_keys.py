"""The key rule: keys are paths and paths are keys, one for one."""

from __future__ import annotations

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from gateway.s3 import keys

FRAGMENTS = [b".s3~", b"e", b"q", b"b", b"n", b"m", b"z", b"self", b".versions", b".", b"a", b"2e", b"ff"]
NAMES_OF_MOUNT = st.one_of(
    st.lists(st.sampled_from(FRAGMENTS), min_size=1, max_size=6).map(b"".join),
    st.binary(min_size=1, max_size=255),
    st.text(min_size=1, max_size=60).map(str.encode),
    st.builds(
        lambda tag, piece, count: (tag + piece * count)[:255],
        st.sampled_from([b".s3~n", b".s3~m", b".s3~z", b".s3~q", b".s3~b"]),
        st.sampled_from([b"a", "é".encode(), "𐀀".encode()]),
        st.integers(0, 255),
    ),
).filter(lambda name: name not in (b".", b"..") and not {0, 47}.intersection(name) and len(name) <= 255)

HEXED = NAMES_OF_MOUNT.map(lambda name: b".s3~b" + name.hex().encode())
SEGMENTS = st.one_of(
    st.sampled_from([b"", b".", b"..", b".versions", b".s3~e", b".s3~self", b"a", b"b"]),
    st.lists(st.sampled_from(FRAGMENTS), max_size=6).map(b"".join),
    st.text(st.characters(exclude_characters="\0/", exclude_categories=["Cs"]), max_size=20).map(str.encode),
    st.builds(
        lambda char, count: char * count,
        st.sampled_from([b"a", "é".encode(), "𐀀".encode()]),
        st.integers(60, 600),
    ),
    HEXED,
    HEXED.map(lambda name: b".s3~q" + name),
)
KEYS = st.lists(SEGMENTS, min_size=1, max_size=6).map(b"/".join).filter(lambda key: len(key) > 0)


def is_allowed(key: bytes) -> bool:
    try:
        keys.check_key(key)
    except keys.BadKeyError:
        return False
    return True


LONG = b"x" * 600
FIRST, MIDDLE, LAST = keys.path_of(LONG)


def hexed(name: bytes) -> bytes:
    return b".s3~b" + name.hex().encode()


@settings(max_examples=800, deadline=None)
@given(KEYS.filter(is_allowed))
@example(LONG)
@example(hexed(FIRST[:40]) + b"/" + hexed(LAST[:20]))
@example(b"/".join((b"a", hexed(b".s3~self"))))
@example(b"/".join((hexed(b".s3~self"), b"b")))
def test_a_path_leads_back_to_its_key(key: bytes) -> None:
    path = keys.path_of(key)
    assert keys.key_of(path) == key
    for name in path:
        assert 0 < len(name) <= 255
        assert not {0, 47}.intersection(name)
        assert name not in (b".", b"..")


@settings(max_examples=800, deadline=None)
@given(st.lists(NAMES_OF_MOUNT, min_size=1, max_size=5).map(tuple))
@example((FIRST, MIDDLE, LAST))
@example((FIRST, LAST))
@example((MIDDLE, LAST))
@example((b".s3~q" + hexed(b".."),))
@example((FIRST, MIDDLE, b".s3~q" + hexed(LAST)))
def test_a_key_leads_back_to_its_path(path: tuple[bytes, ...]) -> None:
    if keys.SELF in path[1:]:
        return  # the object that has the folder's name, no name below it
    key = keys.key_of(path)
    if is_allowed(key):
        assert keys.path_of(key) == path


@settings(max_examples=300, deadline=None)
@given(st.lists(st.lists(NAMES_OF_MOUNT, min_size=1, max_size=2).map(tuple), min_size=2, max_size=20))
def test_no_two_paths_have_one_key(paths: list[tuple[bytes, ...]]) -> None:
    known: dict[bytes, tuple[bytes, ...]] = {}
    for path in paths:
        if keys.SELF not in path[1:]:
            assert known.setdefault(keys.key_of(path), path) == path


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
    assert keys.path_of(key) == path
    assert keys.key_of(path) == key


def test_a_character_is_not_cut_by_a_long_segment() -> None:
    for name in keys.path_of("𐀀".encode() * 200):
        name.decode()


@pytest.mark.parametrize("key", [b"", b"a\0b", b"\xff", b"a" * 1025, "é".encode() * 513])
def test_what_s3_does_not_allow(key: bytes) -> None:
    assert not is_allowed(key)


def test_the_longest_key() -> None:
    assert is_allowed("é".encode() * 512)

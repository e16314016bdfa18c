"""The encoding of operations: fixed bytes, round trips, refusals."""

from __future__ import annotations

import re
from pathlib import Path
from typing import get_args

import msgpack
import pytest
from hypothesis import Phase, find, given, settings
from hypothesis import strategies as st

from backend.errors import FormatError
from cache.namespace.operations import (
    KINDS,
    NEWEST_TIME,
    OLDEST_TIME,
    RESERVED,
    AddDevice,
    Create,
    Delete,
    Forget,
    Link,
    NewEpoch,
    Operation,
    Pin,
    Release,
    RemoveXattr,
    Rename,
    RenameLeavingWhiteout,
    RevokeDevice,
    SetAttributes,
    SetExtents,
    SetRetention,
    SetWriter,
    SetXattr,
    Unlink,
    Unpin,
    decode,
    encode,
    is_new_epoch,
    is_release,
)

INODES = st.integers(1, (1 << 63) - 1)
SMALL = st.integers(0, (1 << 32) - 1)
TIMES = st.integers(OLDEST_TIME, NEWEST_TIME)
NAMES = st.binary(min_size=1, max_size=255)
SIZES = st.integers(0, (1 << 63) - 1)
OPTIONAL_TIMES = st.none() | TIMES

OPERATIONS: st.SearchStrategy[Operation] = st.one_of(
    st.builds(Create, INODES, NAMES, INODES, SMALL, SMALL, SMALL, SMALL, st.binary(max_size=4095), TIMES),
    st.builds(Link, INODES, INODES, NAMES, TIMES),
    st.builds(Unlink, INODES, NAMES, INODES, TIMES),
    st.builds(Rename, INODES, NAMES, INODES, NAMES, INODES, st.just(0) | INODES, st.booleans(), TIMES),
    st.builds(
        RenameLeavingWhiteout,
        *(INODES, NAMES, INODES, NAMES, INODES, st.just(0) | INODES),
        *(INODES, SMALL, SMALL, TIMES),
    ),
    st.builds(
        SetAttributes,
        INODES,
        st.none() | SMALL,
        st.none() | SMALL,
        st.none() | SMALL,
        st.none() | SIZES,
        OPTIONAL_TIMES,
        OPTIONAL_TIMES,
        OPTIONAL_TIMES,
    ),
    st.builds(
        SetExtents,
        INODES,
        SIZES,
        st.lists(st.tuples(SIZES, SIZES)).map(tuple),
        st.lists(st.tuples(SIZES, SMALL, st.binary(min_size=32, max_size=32), SMALL)).map(tuple),
    ),
    st.builds(SetXattr, INODES, NAMES, st.binary(max_size=1000), TIMES),
    st.builds(RemoveXattr, INODES, NAMES, TIMES),
    st.builds(Delete, INODES),
    st.builds(Pin, NAMES, SIZES),
    st.builds(Unpin, NAMES),
    st.builds(SetRetention, SIZES, SIZES, SIZES, SIZES, SIZES),
    st.builds(Forget, st.lists(st.tuples(SIZES, SIZES)).map(tuple)),
    st.builds(SetWriter, SIZES, NAMES),
    st.builds(AddDevice, SIZES, st.binary(min_size=32, max_size=32), NAMES),
    st.builds(RevokeDevice, SIZES),
    st.builds(NewEpoch, SIZES, st.binary(max_size=60), st.binary(max_size=60)),
    st.builds(Release, st.lists(st.binary(min_size=32, max_size=32)).map(tuple)),
)


def test_the_bytes_of_an_unlink_are_those_of_the_specification() -> None:
    assert encode(Unlink(1, b"\xff", 300, -1)) == bytes([0x95, 3, 1, 0xC4, 1, 0xFF, 0xCD, 0x01, 0x2C, 0xFF])


def test_the_bytes_of_content_are_those_of_the_specification() -> None:
    operation = SetExtents(2, 0, ((0, 5),), ((0, 5, b"ab", 1),))
    expected = bytes([0x95, 6, 2, 0, 0x91, 0x92, 0, 5, 0x91, 0x94, 0, 5, 0xC4, 2]) + b"ab" + bytes([1])
    assert encode(operation) == expected


def test_attributes_that_are_not_set_are_nil() -> None:
    expected = bytes([0x98 + 1, 5, 2, 0xCD, 0x01, 0x80, *[0xC0] * 6])
    assert encode(SetAttributes(2, mode=0o600)) == expected


@given(OPERATIONS)
@settings(max_examples=100, deadline=None)
def test_every_operation_comes_back(operation: Operation) -> None:
    data = encode(operation)
    assert decode(data) == operation
    assert decode(memoryview(data)) == operation
    hash(decode(data))
    assert is_release(data) == isinstance(operation, Release)
    assert is_new_epoch(data) == isinstance(operation, NewEpoch)


@given(st.binary(max_size=40))
@settings(max_examples=100, deadline=None)
def test_any_bytes_are_an_operation_or_refused(data: bytes) -> None:
    try:
        operation = decode(data)
    except FormatError:
        return
    assert decode(encode(operation)) == operation


@given(OPERATIONS, st.data())
@settings(max_examples=50, deadline=None)
def test_a_cut_operation_is_refused(operation: Operation, data: st.DataObject) -> None:
    encoded = encode(operation)
    length = data.draw(st.integers(0, len(encoded) - 1))
    with pytest.raises(FormatError):
        decode(encoded[:length])


@pytest.mark.parametrize(
    "items",
    [[], [0, 1], [99, 1], ["9", 1], [9], [9, 1, 1], {9: 1}, 9, None, [[9], 1]],
    ids=repr,
)
def test_what_is_no_operation_is_refused(items: object) -> None:
    with pytest.raises(FormatError):
        decode(msgpack.packb(items))


def test_trailing_bytes_are_refused() -> None:
    with pytest.raises(FormatError):
        decode(encode(Delete(5)) + b"\x00")


PAGE = Path(__file__).parents[4] / "docs" / "format" / "operation.md"


@pytest.mark.parametrize("kind", get_args(Operation))
def test_every_kind_is_drawn_here(kind: type[Operation]) -> None:
    any_one = settings(phases=[Phase.generate], max_examples=5000)
    assert isinstance(find(OPERATIONS, lambda one: isinstance(one, kind), settings=any_one), kind)


def test_the_page_names_every_kind() -> None:
    """The kinds of the union, of the table of numbers and of the page are the same."""
    rows = re.findall(r"^\| (\d+) \| (\w+) \|", PAGE.read_text(), re.MULTILINE)
    names = {number: kind.__name__ for number, kind in KINDS.items()}
    assert {int(number): name for number, name in rows} == names | RESERVED
    assert set(KINDS.values()) == set(get_args(Operation))


@pytest.mark.parametrize(("kind", "name"), [(19, "Adopt"), (20, "Attach"), (21, "Grant")])
def test_a_reserved_kind_is_refused_by_its_name(kind: int, name: str) -> None:
    with pytest.raises(FormatError, match=f"{name} is reserved"):
        decode(msgpack.packb([kind, 1]))

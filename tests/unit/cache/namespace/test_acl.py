"""Access control lists: the format by hand, round trips, and what acl(5) says of modes."""

from __future__ import annotations

import struct
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cache.errors import InvalidArgumentError
from cache.namespace.acl import (
    GROUP,
    GROUP_OBJ,
    MASK,
    NOBODY,
    OTHER,
    USER,
    USER_OBJ,
    Acl,
    AclEntry,
    decode,
    encode,
    inherited,
    is_only_a_mode,
    permission_bits,
    with_permission_bits,
)

BY_HAND = bytes.fromhex(
    "02000000"
    "0100 0700 ffffffff"
    "0200 0600 e8030000"
    "0400 0500 ffffffff"
    "0800 0400 64000000"
    "1000 0600 ffffffff"
    "2000 0400 ffffffff"
)
LIST: Acl = (
    AclEntry(USER_OBJ, 7),
    AclEntry(USER, 6, 1000),
    AclEntry(GROUP_OBJ, 5),
    AclEntry(GROUP, 4, 100),
    AclEntry(MASK, 6),
    AclEntry(OTHER, 4),
)
permissions = st.integers(0, 7)


@st.composite
def lists(draw: st.DrawFn) -> Acl:
    ids = st.lists(st.tuples(permissions, st.integers(0, NOBODY - 1)), max_size=3)
    users = [AclEntry(USER, *each) for each in draw(ids)]
    groups = [AclEntry(GROUP, *each) for each in draw(ids)]
    has_mask = bool(users or groups) or draw(st.booleans())
    own, group, other, mask_bits = draw(st.tuples(permissions, permissions, permissions, permissions))
    mask = [AclEntry(MASK, mask_bits)] if has_mask else []
    middle = [AclEntry(GROUP_OBJ, group), *groups, *mask]
    return (AclEntry(USER_OBJ, own), *users, *middle, AclEntry(OTHER, other))


def test_a_list_by_hand() -> None:
    assert decode(BY_HAND) == LIST
    assert encode(LIST) == BY_HAND


@given(lists())
def test_round_trip(acl: Acl) -> None:
    assert decode(encode(acl)) == acl


def pack(*entries: tuple[int, int, int], version: int = 2) -> bytes:
    return struct.pack("<I", version) + b"".join(struct.pack("<HHI", *entry) for entry in entries)


OWN, GRP, OTH, MSK = (USER_OBJ, 7, NOBODY), (GROUP_OBJ, 5, NOBODY), (OTHER, 0, NOBODY), (MASK, 7, NOBODY)


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b"\2\0\0",
        pack(),
        pack(OWN, GRP, OTH, version=1),
        pack(OWN, GRP, OTH) + b"x",
        pack(OWN, GRP, OTH)[:-1],
        pack(OWN, GRP),
        pack(GRP, OWN, OTH),
        pack(OWN, OWN, GRP, OTH),
        pack(OWN, GRP, MSK, MSK, OTH),
        pack(OWN, (USER, 7, 5), GRP, OTH),
        pack(OWN, GRP, (GROUP, 7, 5), OTH),
        pack(OWN, (USER, 7, NOBODY), GRP, MSK, OTH),
        pack(OWN, GRP, (OTHER, 8, NOBODY)),
        pack(OWN, GRP, OTH, (0x40, 0, NOBODY)),
    ],
)
def test_what_is_no_list_is_refused(value: bytes) -> None:
    with pytest.raises(InvalidArgumentError):
        decode(value)


@given(st.binary(max_size=80))
def test_any_bytes_are_a_list_or_refused(value: bytes) -> None:
    with suppress(InvalidArgumentError):
        assert encode(decode(value)) == value


def test_the_mask_is_what_a_mode_shows_of_the_group() -> None:
    assert permission_bits(LIST) == 0o764
    assert not is_only_a_mode(LIST)
    plain = (AclEntry(USER_OBJ, 6), AclEntry(GROUP_OBJ, 4), AclEntry(OTHER, 0))
    assert permission_bits(plain) == 0o640
    assert is_only_a_mode(plain)


@given(lists(), st.integers(0, 0o7777))
def test_chmod_changes_the_mask_and_no_named_entry(acl: Acl, mode: int) -> None:
    changed = with_permission_bits(acl, mode)
    assert permission_bits(changed) == mode & 0o777
    kept = (USER, GROUP, GROUP_OBJ) if any(entry.tag == MASK for entry in acl) else (USER, GROUP)
    assert [entry for entry in changed if entry.tag in kept] == [entry for entry in acl if entry.tag in kept]


@given(lists(), st.integers(0, 0o7777))
def test_what_is_inherited_grants_no_more_than_asked_for(acl: Acl, mode: int) -> None:
    new_mode, access = inherited(acl, mode)
    assert new_mode & ~0o777 == mode & ~0o777
    assert new_mode & 0o777 == permission_bits(access)
    assert new_mode & 0o777 & ~mode == 0
    assert new_mode & 0o777 & ~permission_bits(acl) == 0


def test_a_private_file_stays_private_where_a_default_list_grants_more() -> None:
    mode, access = inherited(LIST, 0o100600)
    assert mode == 0o100600
    assert [entry.permissions for entry in access] == [6, 6, 5, 4, 0, 0]

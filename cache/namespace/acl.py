"""POSIX access control lists (acl(5), POSIX 1003.1e draft 17): codec of the attributes `system.posix_acl_*`,
and how a list and the permission bits of a mode follow each other.

The format is the kernel's (linux/posix_acl_xattr.h, version 2, little endian): u32 version, then for each
entry u16 tag, u16 permissions, u32 id (all ones where the tag names nobody). Pure functions.
"""

from __future__ import annotations

import struct
from collections.abc import Collection
from typing import Final, NamedTuple

from cache.errors import InvalidArgumentError

ACCESS: Final = b"system.posix_acl_access"
DEFAULT: Final = b"system.posix_acl_default"

USER_OBJ: Final = 0x01
USER: Final = 0x02
GROUP_OBJ: Final = 0x04
GROUP: Final = 0x08
MASK: Final = 0x10
OTHER: Final = 0x20
NOBODY: Final = 0xFFFFFFFF

_VERSION: Final = 2
_HEADER: Final = struct.Struct("<I")
_ENTRY: Final = struct.Struct("<HHI")
_ORDER: Final = (USER_OBJ, USER, GROUP_OBJ, GROUP, MASK, OTHER)
_NAMED: Final = (USER, GROUP)
_RANKS: Final = {tag: rank for rank, tag in enumerate(_ORDER)}


class AclEntry(NamedTuple):
    """`permissions` as in a mode: 4 read, 2 write, 1 execute."""

    tag: int
    permissions: int
    id: int = NOBODY


Acl = tuple[AclEntry, ...]
"""Valid: in the order of tags, with exactly one owner, group and other, at most one mask, and a mask if
there are named users or groups."""


def encode(acl: Acl) -> bytes:
    """The attribute's value."""
    return _HEADER.pack(_VERSION) + b"".join(_ENTRY.pack(*entry) for entry in acl)


def decode(value: bytes) -> Acl:
    """`InvalidArgumentError` for anything but a valid list."""
    body = len(value) - _HEADER.size
    if body < 0 or body % _ENTRY.size or _HEADER.unpack_from(value)[0] != _VERSION:
        raise InvalidArgumentError("not an access control list of version 2")
    acl = tuple(AclEntry(*fields) for fields in _ENTRY.iter_unpack(value[_HEADER.size :]))
    if not _is_valid(acl):
        raise InvalidArgumentError("an access control list that contradicts itself")
    return acl


def _is_valid(acl: Acl) -> bool:
    tags = [entry.tag for entry in acl]
    if any(tag not in _RANKS for tag in tags) or sorted(tags, key=_RANKS.__getitem__) != tags:
        return False
    if any(tags.count(tag) != 1 for tag in (USER_OBJ, GROUP_OBJ, OTHER)) or tags.count(MASK) > 1:
        return False
    if any(tag in _NAMED for tag in tags) and MASK not in tags:
        return False
    named = [entry.id != NOBODY for entry in acl if entry.tag in _NAMED]
    return all(named) and all(entry.permissions <= 7 for entry in acl)


def is_only_a_mode(acl: Acl) -> bool:
    """Whether permission bits say all that it says: then it is kept as these alone."""
    return all(entry.tag in (USER_OBJ, GROUP_OBJ, OTHER) for entry in acl)


def permission_bits(acl: Acl) -> int:
    """The nine bits that stat(2) shows: of owner, of the mask (without one: of the group), of others."""
    found = {entry.tag: entry.permissions for entry in acl}
    return found[USER_OBJ] << 6 | found.get(MASK, found[GROUP_OBJ]) << 3 | found[OTHER]


def of_mode(mode: int) -> Acl:
    """The list that says what the permission bits say."""
    return (
        AclEntry(USER_OBJ, mode >> 6 & 7),
        AclEntry(GROUP_OBJ, mode >> 3 & 7),
        AclEntry(OTHER, mode & 7),
    )


def allows(acl: Acl, owner: int, group: int, user: int, groups: Collection[int], wanted: int) -> bool:
    """Whether a file of `owner` and `group` with this list may be accessed so by `user`, who is in `groups`
    (acl(5), "ACCESS CHECK ALGORITHM"). `wanted` as in a mode; capabilities are not looked at."""
    mask = next((entry.permissions for entry in acl if entry.tag == MASK), 7)
    for entry in acl:
        if entry.tag == USER_OBJ and user == owner:
            return not wanted & ~entry.permissions
        if entry.tag == USER and user == entry.id:
            return not wanted & ~(entry.permissions & mask)
    matching = [
        entry.permissions & mask
        for entry in acl
        if (entry.tag == GROUP_OBJ and group in groups) or (entry.tag == GROUP and entry.id in groups)
    ]
    if matching:
        return any(not wanted & ~permissions for permissions in matching)
    return not wanted & ~acl[-1].permissions


def with_permission_bits(acl: Acl, mode: int) -> Acl:
    """The list after chmod(2): with a mask, the group's bits are the mask's, and the group keeps its own."""
    bits = {USER_OBJ: mode >> 6 & 7, MASK: mode >> 3 & 7, OTHER: mode & 7}
    if all(entry.tag != MASK for entry in acl):
        bits[GROUP_OBJ] = bits[MASK]
    return tuple(entry._replace(permissions=bits.get(entry.tag, entry.permissions)) for entry in acl)


def inherited(default: Acl, mode: int) -> tuple[int, Acl]:
    """The mode and the access list of what is made with `mode` in a directory with this default list. It
    grants what both grant; the umask has no part in it."""
    shown = permission_bits(default) & mode
    acl = with_permission_bits(default, shown)
    return mode & ~0o777 | shown, acl

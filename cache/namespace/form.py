"""The form of operations: the rules that hold whatever the state is (docs/format/operation.md, "Limits").

The reducer asks `CHECKS` before it looks at a row. An operation that passes can be kept in SQLite. If a state
refuses it then, the reason is that it does not fit that state.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from stat import S_IFLNK
from typing import Any, Final

from backend.commits import MAX_EPOCH, SEALED_KEY_SIZE
from backend.upstream import BLOCK_ID_SIZE
from cache.namespace.operations import (
    DEVICE_KEY_SIZE,
    MAX_DEVICE,
    MAX_INODE,
    MAX_NAME,
    MAX_SIZE,
    NEWEST_TIME,
    OLDEST_TIME,
    ROOT_INODE,
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
)
from cache.namespace.refusals import MalformedError
from cache.namespace.rows import MAX_EXTENT, S_IFMT_MASK

_RESERVED: Final = frozenset((b".", b".."))
_SLASH, _NUL = b"/\0"
"""Numbers: to look for a byte by its number takes a tenth of what it takes to look for bytes."""
_NUMBERS: Final = 1 << 32
"""Numbers that the kernel keeps in 32 bits are below this."""


def check_form(operation: Operation) -> None:
    """`MalformedError` if no state could take the operation."""
    CHECKS[type(operation)](operation)


def _create(operation: Create) -> None:
    _change_of_name(operation.parent, operation.name, operation.inode, operation.time_ns)
    _new_inode(operation.inode)
    _numbers(operation.mode, operation.uid, operation.gid, operation.rdev)
    if operation.target and operation.mode & S_IFMT_MASK != S_IFLNK:
        raise MalformedError(
            f"an operation gives inode {operation.inode} a target, and it is no symbolic link"
        )


def _link_or_unlink(operation: Link | Unlink) -> None:
    _change_of_name(operation.parent, operation.name, operation.inode, operation.time_ns)


def _rename(operation: Rename | RenameLeavingWhiteout) -> None:
    _change_of_name(operation.parent, operation.name, operation.inode, operation.time_ns)
    inode = operation.replaced or operation.inode
    _change_of_name(operation.new_parent, operation.new_name, inode, operation.time_ns)


def _rename_or_exchange(operation: Rename) -> None:
    _rename(operation)
    if operation.exchange and not operation.replaced:
        raise MalformedError(f"an operation exchanges inode {operation.inode} with nothing")


def _rename_leaving_whiteout(operation: RenameLeavingWhiteout) -> None:
    _rename(operation)
    _new_inode(operation.whiteout)
    _numbers(0, operation.uid, operation.gid, 0)


def _set_attributes(operation: SetAttributes) -> None:
    _inode(operation.inode)
    _numbers(operation.mode or 0, operation.uid or 0, operation.gid or 0, 0)
    for time_ns in (operation.atime_ns, operation.mtime_ns, operation.ctime_ns):
        _time(time_ns or 0)
    if operation.size is not None and not 0 <= operation.size <= MAX_SIZE:
        raise MalformedError(f"an operation gives inode {operation.inode} a size out of range")


def _set_extents(operation: SetExtents) -> None:
    _inode(operation.inode)
    if not 0 <= operation.replaces <= MAX_SIZE:
        raise MalformedError(f"inode {operation.inode}: content made on a commit out of range")
    ranges = _merged(operation)
    low = 0
    for extent in operation.extents:
        offset, length = _placed(operation.inode, extent)
        while ranges and ranges[0][1] <= offset:
            ranges.popleft()
        if not (ranges and max(low, ranges[0][0]) <= offset and offset + length <= ranges[0][1]):
            raise MalformedError(f"inode {operation.inode}: an extent out of place at {offset}")
        low = offset + length


def _merged(operation: SetExtents) -> deque[tuple[int, int]]:
    """The cleared ranges, those that touch as one; checked."""
    merged: deque[tuple[int, int]] = deque()
    low = 0
    for cleared in operation.cleared:
        start, end = _whole_numbers(cleared, 2)
        if not low <= start < end <= MAX_SIZE:
            raise MalformedError(f"inode {operation.inode}: cleared ranges are not sorted and disjoint")
        merged.append((merged.pop()[0], end) if merged and start == low else (start, end))
        low = end
    return merged


def _placed(inode: int, extent: tuple[int, int, bytes, int]) -> tuple[int, int]:
    """Offset and length of an extent; checked."""
    if type(extent) is not tuple or len(extent) != 4 or not _is_block(extent[2]):
        raise MalformedError(f"inode {inode}: an extent that is none")
    offset, length, block_offset = _whole_numbers((extent[0], extent[1], extent[3]), 3)
    if not 0 < length <= MAX_EXTENT - block_offset <= MAX_EXTENT:
        raise MalformedError(f"inode {inode}: an extent that is in no block at {offset}")
    return offset, length


def _set_xattr(operation: SetXattr) -> None:
    _remove_xattr(operation)


def _remove_xattr(operation: SetXattr | RemoveXattr) -> None:
    _inode(operation.inode)
    _time(operation.time_ns)
    if not 0 < len(operation.name) <= MAX_NAME:
        raise MalformedError(f"inode {operation.inode}: an extended attribute without a proper name")


def _delete(operation: Delete) -> None:
    _inode(operation.inode)


def _pin(operation: Pin) -> None:
    _label(operation.name, "a pin")
    if not 0 < operation.commit <= MAX_SIZE:
        raise MalformedError(f"an operation pins commit {operation.commit}, which cannot be")


def _unpin(operation: Unpin) -> None:
    _label(operation.name, "a pin")


def _set_retention(operation: SetRetention) -> None:
    o = operation
    if any(not 0 <= number <= MAX_SIZE for number in (o.keep_all, o.hourly, o.daily, o.weekly, o.monthly)):
        raise MalformedError("a retention policy with a time out of range")


def _forget(operation: Forget) -> None:
    before = 0
    for gap in operation.gaps:
        low, high = _whole_numbers(gap, 2)
        if not before <= low < high - 1 < MAX_SIZE:
            raise MalformedError(f"an operation forgets from {low} to {high}, which is no gap there")
        before = high


def _release(operation: Release) -> None:
    if not all(map(_is_block, operation.blocks)):
        raise MalformedError("an operation releases something that is no block")


def _set_writer(operation: SetWriter) -> None:
    _label(operation.host, "a host")
    if not 0 <= operation.device <= MAX_DEVICE:
        raise MalformedError(f"an operation names device {operation.device}, which is out of range")


def _add_device(operation: AddDevice) -> None:
    _label(operation.host, "a host")
    _numbered_device(operation.device)
    if len(operation.key) != DEVICE_KEY_SIZE:
        raise MalformedError(f"an operation gives device {operation.device} a key that is none")


def _revoke_device(operation: RevokeDevice) -> None:
    _numbered_device(operation.device)


def _new_epoch(operation: NewEpoch) -> None:
    if not 0 < operation.number <= MAX_EPOCH:
        raise MalformedError(f"an operation begins key epoch {operation.number}, which is out of range")
    before = SEALED_KEY_SIZE if operation.number > 1 else 0
    if (len(operation.wrapped), len(operation.before)) != (SEALED_KEY_SIZE, before):
        raise MalformedError(f"an operation begins key epoch {operation.number} with a key that is none")


def _numbered_device(device: int) -> None:
    """Device 0 is nobody: the root has its inode number from it."""
    if not 0 < device <= MAX_DEVICE:
        raise MalformedError(f"an operation names device {device}, which is out of range")


def _change_of_name(parent: int, name: bytes, inode: int, time_ns: int) -> None:
    """In one function because it runs for every name that is made or taken."""
    if not 0 < len(name) <= MAX_NAME or _SLASH in name or _NUL in name or name in _RESERVED:
        raise MalformedError(f"an operation names an entry of directory {parent} that no name can be")
    if not (0 < parent <= MAX_INODE and 0 < inode <= MAX_INODE):
        raise MalformedError(f"an operation names inode {inode} in directory {parent}, which is out of range")
    if not OLDEST_TIME <= time_ns <= NEWEST_TIME:
        raise MalformedError(f"an operation has a time out of range: {time_ns}")


def _inode(inode: int) -> None:
    if not 0 < inode <= MAX_INODE:
        raise MalformedError(f"an operation names inode {inode}, which is out of range")


def _new_inode(inode: int) -> None:
    if not ROOT_INODE < inode <= MAX_INODE:
        raise MalformedError(f"an operation makes inode {inode}, which is out of range")


def _time(time_ns: int) -> None:
    if not OLDEST_TIME <= time_ns <= NEWEST_TIME:
        raise MalformedError(f"an operation has a time out of range: {time_ns}")


def _numbers(mode: int, uid: int, gid: int, rdev: int) -> None:
    if not (0 <= mode < _NUMBERS and 0 <= uid < _NUMBERS and 0 <= gid < _NUMBERS and 0 <= rdev < _NUMBERS):
        raise MalformedError(
            f"an operation has a mode, owner or device number out of range: {(mode, uid, gid, rdev)}"
        )


def _label(name: bytes, owner: str) -> None:
    if not 0 < len(name) <= MAX_NAME or _NUL in name:
        raise MalformedError(f"{owner} without a proper name")


def _is_block(block: object) -> bool:
    return type(block) is bytes and len(block) == BLOCK_ID_SIZE


def _whole_numbers(numbers: tuple[int, ...], count: int) -> tuple[int, ...]:
    """The tuple, if it is `count` whole numbers: the decoder does not look into tuples. `MalformedError`."""
    if type(numbers) is tuple and len(numbers) == count and all(type(number) is int for number in numbers):
        return numbers
    raise MalformedError(f"an operation holds something else than {count} numbers")


CHECKS: Final[dict[type[Any], Callable[[Any], None]]] = {
    Create: _create,
    Link: _link_or_unlink,
    Unlink: _link_or_unlink,
    Rename: _rename_or_exchange,
    RenameLeavingWhiteout: _rename_leaving_whiteout,
    SetAttributes: _set_attributes,
    SetExtents: _set_extents,
    SetXattr: _set_xattr,
    RemoveXattr: _remove_xattr,
    Delete: _delete,
    Pin: _pin,
    Unpin: _unpin,
    SetRetention: _set_retention,
    Forget: _forget,
    Release: _release,
    SetWriter: _set_writer,
    AddDevice: _add_device,
    RevokeDevice: _revoke_device,
    NewEpoch: _new_epoch,
}

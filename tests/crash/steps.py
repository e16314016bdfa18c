"""Numbered changes to a drive, each one record of its journal, and the state after each of them.

After any crash the drive must hold `STATES[n]` for some n (I7), and not less than what was acknowledged (I6).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial
from stat import S_IFDIR, S_IFREG, S_ISREG
from typing import Final

from cache.drive import Drive
from cache.namespace.acl import ACCESS, GROUP_OBJ, MASK, OTHER, USER, USER_OBJ, AclEntry, encode
from cache.namespace.operations import ROOT_INODE
from tests.drives import content

State = dict[bytes, tuple[int, dict[bytes, bytes], bytes]]
"""Path -> kind, extended attributes, content."""
Change = tuple[Callable[[Drive], Awaitable[None]], Callable[[State], None]]

FILES: Final = 24
_XATTR: Final = b"user.number"
_LIST: Final = encode(
    (AclEntry(USER_OBJ, 7), AclEntry(USER, 5, 1000), *(AclEntry(tag, 5) for tag in (GROUP_OBJ, MASK, OTHER)))
)


def payload(number: int) -> bytes:
    """What file `number` holds: large ones fill journal segments and blocks of their own."""
    return f"file {number}.".encode() * (1 + number % 4 * 900)


async def _make(drive: Drive, name: bytes, kind: int) -> None:
    await drive.make_node(ROOT_INODE, name, kind, 0, 0, 0)


async def _write(drive: Drive, name: bytes, offset: int, data: bytes) -> None:
    inode = drive.lookup(ROOT_INODE, name).inode
    await drive.write(inode, offset, data)
    await drive.settle(inode)


async def _mark(drive: Drive, name: bytes, value: bytes) -> None:
    await drive.set_xattr(drive.lookup(ROOT_INODE, name).inode, _XATTR, value)


async def _share(drive: Drive, name: bytes) -> None:
    """Several operations in one record: the mode follows the access list."""
    await drive.set_xattr(drive.lookup(ROOT_INODE, name).inode, ACCESS, _LIST)


async def _rename(drive: Drive, old: bytes, new: bytes) -> None:
    await drive.rename(ROOT_INODE, old, ROOT_INODE, new)


async def _unlink(drive: Drive, name: bytes) -> None:
    await drive.unlink(ROOT_INODE, name)


def _made(name: bytes, kind: int, state: State) -> None:
    state[b"/" + name] = (kind & 0o170000, {}, b"")


def _written(name: bytes, offset: int, data: bytes, state: State) -> None:
    kind, xattrs, before = state[b"/" + name]
    state[b"/" + name] = (kind, xattrs, before[:offset] + data + before[offset + len(data) :])


def _marked(name: bytes, value: bytes, state: State) -> None:
    kind, _, data = state[b"/" + name]
    state[b"/" + name] = (kind, {_XATTR: value}, data)


def _shared(name: bytes, state: State) -> None:
    kind, xattrs, data = state[b"/" + name]
    state[b"/" + name] = (kind, {**xattrs, ACCESS: _LIST}, data)


def _renamed(old: bytes, new: bytes, state: State) -> None:
    state[b"/" + new] = state.pop(b"/" + old)


def _unlinked(name: bytes, state: State) -> None:
    del state[b"/" + name]


def _change(do: Callable[..., Awaitable[None]], happens: Callable[..., None], *what: bytes | int) -> Change:
    return (lambda drive: do(drive, *what)), partial(happens, *what)


def _changes_of(number: int) -> list[Change]:
    name, folder = b"n%03d" % number, b"f%03d" % number
    found = [
        _change(_make, _made, name, S_IFREG | 0o644),
        _change(_write, _written, name, 0, payload(number)),
    ]
    if number % 3 == 1:
        found.append(_change(_write, _written, name, 5, b"over" * 50))
    if number % 4 == 2:
        found.append(_change(_rename, _renamed, name, b"r%03d" % number))
    if number % 4 == 3:
        found.append(_change(_unlink, _unlinked, b"r%03d" % (number - 1)))
    if number % 5 == 4:
        found.append(_change(_make, _made, folder, S_IFDIR | 0o755))
        found.append(_change(_mark, _marked, folder, b"%d" % number))
        found.append(_change(_share, _shared, folder))
    return found


CHANGES: Final = [change for number in range(FILES) for change in _changes_of(number)]


def _states() -> list[State]:
    states: list[State] = [{}]
    for _, happens in CHANGES:
        state = dict(states[-1])
        happens(state)
        states.append(state)
    return states


STATES: Final = _states()
"""`STATES[n]`: after the first n changes."""


async def state_of(drive: Drive) -> State:
    """The root folder's entries as a `State`."""
    found: State = {}
    for entry in drive.entries(ROOT_INODE, 0, 10_000):
        inode, mode = entry.attributes.inode, entry.attributes.mode
        xattrs = {name: drive.get_xattr(inode, name) for name in drive.xattr_names(inode)}
        data = await content(drive, inode) if S_ISREG(mode) else b""
        found[b"/" + entry.name] = (mode & 0o170000, xattrs, data)
    return found

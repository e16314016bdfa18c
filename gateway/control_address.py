"""The addresses of a mount's control socket, and how to find it without touching the mount.

Beside its file in the cache folder the socket has an abstract address (unix(7)). Its name has the device
number of the mount, as /proc/self/mountinfo (proc(5)) shows it, when it was made, and random bytes. So root
finds the socket of a user's mount that it may not look into, and a mount that hangs is found too. The random
bytes keep others from taking the name first; who connects must still see whose the socket is (SO_PEERCRED),
as anybody may make one with this device number. Both sides must be in one network namespace.
"""

from __future__ import annotations

import os
import re
import secrets
import socket
import struct
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final, Protocol

_MAX_PATH: Final = 107
_PREFIX: Final = "drivefs-control/"
_TABLE: Final = Path("/proc/net/unix")
_CREDENTIALS: Final = struct.Struct("3i")


def device_text(device: int) -> str:
    """A device number (`st_dev`) as mountinfo writes it."""
    return f"{os.major(device)}:{os.minor(device)}"


def new_address(device: int) -> str:
    """An abstract address for the mount `device`; never the same twice."""
    return f"\0{_PREFIX}{device_text(device)}/{time.monotonic_ns():020}-{secrets.token_hex(16)}"


def addresses(device: str) -> list[str]:
    """The abstract addresses that claim to be of the mount `device` (`major:minor`), the newest first: a
    process that has lost its mount may still be there when the number is used again."""
    return _parse(_TABLE.read_bytes(), device)


def _parse(table: bytes, device: str) -> list[str]:
    wanted = rb" @(" + re.escape(f"{_PREFIX}{device}/".encode()) + rb"[0-9]{20}-[0-9a-f]{32})$"
    found = {name.decode("ascii") for name in re.findall(wanted, table, re.MULTILINE)}
    return ["\0" + name for name in sorted(found, reverse=True)]


@contextmanager
def within_reach(address: str) -> Iterator[str]:
    """`address`, or for a path longer than a socket's may be (107 bytes, unix(7)) a short one to the same
    file, through its open folder. Valid inside the block. OSError."""
    if address.startswith("\0") or len(os.fsencode(address)) <= _MAX_PATH:
        yield address
        return
    folder, name = os.path.split(address)
    descriptor = os.open(folder, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{descriptor}/{name}"
    finally:
        os.close(descriptor)


class _Socket(Protocol):
    def getsockopt(self, level: int, option: int, size: int, /) -> bytes: ...


def peer(connection: _Socket) -> tuple[int, int]:
    """(process id, user id) of who made the other end of a UNIX socket (SO_PEERCRED)."""
    credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    process, user, _ = _CREDENTIALS.unpack(credentials)
    return process, user

"""A mount's device and its first exchange with the kernel (FUSE_INIT), in which the protocol is agreed upon.

pyfuse3 can ask the kernel for some of the protocol's features only. So libfuse is not given the device but,
as an already open one (mountpoint `/dev/fd/N`, fuse_session_mount in libfuse's fuse_lowlevel.c), one end of a
socket pair: it reads the kernel's FUSE_INIT from there and writes its answer there, to which the features
that it does not know of are added, and from which those are taken that do harm. Then the device takes the
socket's place (dup2(2)), and libfuse goes on with it as if it always had. The messages are those of
linux/fuse.h, in the byte order of the machine.

libfuse is told of a kernel of protocol 7.13, the last one that it does not splice(2) requests from
(`_fuse_session_receive_buf`, lib/fuse_lowlevel.c): through a pipe each request takes two system calls instead
of one, and since 3.18 many more where the pipe may not be made as large as the largest request. pyfuse3
copies what it receives in any case. What the answer to 7.13 lacks of today's is added; what 7.14 to 7.22
brought beside splicing (FUSE_NOTIFY_STORE, RETRIEVE and DELETE, ioctl(2) on folders) pyfuse3 is not used for.
"""

from __future__ import annotations

import array
import ctypes
import logging
import os
import select
import socket
import struct
import subprocess
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

from backend.errors import UsageError

DONT_MASK: Final = 1 << 6
"""FUSE_DONT_MASK: the file system applies the umask, or a directory's default ACL in its place."""

ASYNC_DIO: Final = 1 << 15
"""FUSE_ASYNC_DIO: the kernel does not wait for an asynchronous write with O_DIRECT, nor take the pages out of
its cache that somebody read meanwhile: they would have the old bytes for good."""

HANDLE_KILLPRIV_V2: Final = 1 << 28
"""FUSE_HANDLE_KILLPRIV_V2: the file system takes set-user-ID and set-group-ID away (`mountfs.privileges`)."""

_MAX_PAGES: Final = 1 << 22
"""FUSE_MAX_PAGES: the answer says how many pages a request has at most."""

_UNSPLICED_MINOR: Final = 13
_MAX_MESSAGE: Final = 1 << 16
_OUT_HEADER: Final = struct.Struct("=IiQ")
"""fuse_out_header: length, error, unique."""
_IN_HEADER: Final = struct.Struct("=IIQQIIIHH")
"""fuse_in_header: length, opcode, unique, node, user, group, process, extra length, padding."""
_IN_INIT: Final = struct.Struct("=IIII")
"""fuse_init_in begins with: major, minor, read-ahead, flags; so does fuse_init_out."""
_OUT_SIZES: Final = struct.Struct("=HHI")
"""fuse_init_out goes on with: requests in the background, congestion, largest write. To a kernel before 7.23
that is all of it."""
_OUT_REST: Final = struct.Struct("=IHHI28x")
"""The rest: granularity of times in nanoseconds, pages of a request, alignment of mappings, more flags."""
_INIT: Final = 26
_MNT_DETACH: Final = 2

_libc: Final = ctypes.CDLL(None, use_errno=True)
log = logging.getLogger(__name__)


def mount_device(mountpoint: Path, words: Iterable[str]) -> int:
    """Mount on `mountpoint` with these `-o` words, by fusermount3(1), which needs no privileges: the device
    of the mount. `UsageError` with its reason."""
    ours, its = socket.socketpair()
    with ours, its:
        environment = {**os.environ, "_FUSE_COMMFD": str(its.fileno())}
        command = ["fusermount3", "-o", ",".join(sorted(words)), "--", os.fspath(mountpoint)]
        try:
            done = subprocess.run(
                command, env=environment, pass_fds=[its.fileno()], capture_output=True, check=False
            )
        except FileNotFoundError:
            raise UsageError("fusermount3 is not installed (package fuse3)") from None
        if done.returncode:
            reason = os.fsdecode(done.stderr).strip().removeprefix("fusermount3: ")
            raise UsageError(f"cannot mount on {mountpoint}: {reason or 'fusermount3 does not say why'}")
        _, ancillary, _, _ = ours.recvmsg(1, socket.CMSG_SPACE(array.array("i").itemsize))
    received = array.array("i", ancillary[0][2])
    os.set_inheritable(received[0], False)
    return received[0]


def is_mounted(device: int) -> bool:
    """Whether the mount of this device is still there: nobody has unmounted it."""
    poll = select.poll()
    poll.register(device, select.POLLIN)
    return not any(events & select.POLLERR for _, events in poll.poll(0))


def take_out(mountpoint: Path) -> None:
    """Take a mount that is not served any more out of the tree; never waits."""
    if os.geteuid():
        command = ["fusermount3", "-u", "-z", "--", os.fspath(mountpoint)]
        problem = os.fsdecode(subprocess.run(command, check=False, capture_output=True).stderr).strip()
    else:
        failed = _libc.umount2(os.fsencode(mountpoint), _MNT_DETACH) != 0
        problem = os.strerror(ctypes.get_errno()) if failed else ""
    if problem:
        log.warning("umount of %s: %s", mountpoint, problem)


class Handshake:
    """The first exchange on `device`, which it owns. libfuse is given `path` as its mountpoint; `steps` is
    gone on with when it is about to receive, and when it has answered. Nothing waits but for the kernel's
    first request, which is there as soon as the mount is."""

    def __init__(self, device: int, wanted: int, unwanted: int = 0) -> None:
        """`wanted`: the features to add to what libfuse asks for, as far as the kernel has them; `unwanted`:
        those to take away."""
        self._device = device
        self._wanted = wanted
        self._unwanted = unwanted
        self._kernel_has = 0
        self._ours, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.descriptor: Final = its.detach()
        """libfuse's: first the socket, then the device. libfuse closes it."""

    @property
    def path(self) -> str:
        """The mountpoint that libfuse is told."""
        return f"/dev/fd/{self.descriptor}"

    def steps(self) -> Iterator[None]:
        """The exchange, in two parts. `OSError`."""
        self._request()
        yield
        self._answer()

    def _request(self) -> None:
        """Hand the kernel's request to libfuse."""
        message = bytearray(os.read(self._device, _MAX_MESSAGE))
        opcode = _IN_HEADER.unpack_from(message)[1]
        if opcode != _INIT:
            raise OSError(f"the kernel's first request is {opcode}, not FUSE_INIT")
        major, minor, read_ahead, self._kernel_has = _IN_INIT.unpack_from(message, _IN_HEADER.size)
        told = major, min(minor, _UNSPLICED_MINOR), read_ahead, self._kernel_has
        _IN_INIT.pack_into(message, _IN_HEADER.size, *told)
        self._ours.send(message)

    def _answer(self) -> None:
        """Hand libfuse's answer to the kernel, with what is wanted, and the device to libfuse."""
        message = bytearray(self._ours.recv(_MAX_MESSAGE, socket.MSG_DONTWAIT))
        if _OUT_HEADER.unpack_from(message)[1] == 0:
            major, minor, read_ahead, flags = _IN_INIT.unpack_from(message, _OUT_HEADER.size)
            flags = (flags | self._wanted & self._kernel_has) & ~self._unwanted
            _IN_INIT.pack_into(message, _OUT_HEADER.size, major, minor, read_ahead, flags)
            _complete(message, flags)
        os.write(self._device, message)
        os.dup2(self._device, self.descriptor, inheritable=False)
        self.close()

    def close(self) -> None:
        """Close what is not libfuse's. Idempotent."""
        if self._device >= 0:
            os.close(self._device)
            self._device = -1
        self._ours.close()


def _complete(message: bytearray, flags: int) -> None:
    """Add to an answer with these flags what libfuse leaves out where the kernel is an old one."""
    sizes_at = _OUT_HEADER.size + _IN_INIT.size
    if len(message) != sizes_at + _OUT_SIZES.size:
        return
    largest_write = _OUT_SIZES.unpack_from(message, sizes_at)[2]
    pages = -(-largest_write // os.sysconf("SC_PAGE_SIZE")) if flags & _MAX_PAGES else 0
    message += _OUT_REST.pack(1, pages, 0, 0)
    _, error, unique = _OUT_HEADER.unpack_from(message)
    _OUT_HEADER.pack_into(message, 0, len(message), error, unique)

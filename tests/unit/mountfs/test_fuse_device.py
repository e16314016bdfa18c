"""The first exchange with the kernel, with a socket in the kernel's place, and why a mount is refused."""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest

from backend.errors import UsageError
from mountfs.fuse_device import ASYNC_DIO, DONT_MASK, Handshake, is_mounted, mount_device

INIT, GETATTR = 26, 3
MAX_PAGES = 1 << 22
HAD = 0b1001
ASYNC_READ = 1


class Kernel:
    """Its end of the device, and what libfuse would do at the other."""

    def __init__(self, wanted: int, unwanted: int = 0) -> None:
        self.socket, device = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.handshake = Handshake(device.detach(), wanted, unwanted)
        self.steps = self.handshake.steps()
        self.told_minor = 0

    def ask(self, opcode: int = INIT, flags: int = HAD | DONT_MASK) -> None:
        body = struct.pack("=IIIII", 7, 36, 131072, flags, 0)
        self.socket.send(struct.pack("=IIQQIIIHH", 40 + len(body), opcode, 77, 0, 0, 0, 0, 0, 0) + body)

    def reply(self, error: int = 0, flags: int = ASYNC_READ, rest: bytes = b"rest of it") -> None:
        """What libfuse answers: it knows of ASYNC_READ only."""
        asked = os.read(self.handshake.descriptor, 1000)
        assert len(asked) == 60
        self.told_minor = struct.unpack_from("=II", asked, 40)[1]
        body = b"" if error else struct.pack("=IIII", 7, 31, 131072, flags) + rest
        os.write(self.handshake.descriptor, struct.pack("=IiQ", 16 + len(body), error, 77) + body)

    def close(self) -> None:
        self.handshake.close()
        os.close(self.handshake.descriptor)
        self.socket.close()


@pytest.fixture
def kernel() -> Iterator[Kernel]:
    kernel = Kernel(DONT_MASK)
    yield kernel
    kernel.close()


def test_what_is_wanted_is_added_and_the_device_takes_over(kernel: Kernel) -> None:
    kernel.ask()
    next(kernel.steps)
    kernel.reply()
    assert list(kernel.steps) == []
    answer = kernel.socket.recv(1000)
    assert struct.unpack_from("=IiQ", answer) == (len(answer), 0, 77)
    assert struct.unpack_from("=IIII", answer, 16) == (7, 31, 131072, ASYNC_READ | DONT_MASK)
    assert answer.endswith(b"rest of it")
    kernel.socket.send(b"the next request")
    assert os.read(kernel.handshake.descriptor, 100) == b"the next request"
    assert not os.get_inheritable(kernel.handshake.descriptor)


def test_what_is_not_wanted_is_taken_away() -> None:
    kernel = Kernel(DONT_MASK, ASYNC_READ | ASYNC_DIO)
    kernel.ask()
    next(kernel.steps)
    kernel.reply()
    assert list(kernel.steps) == []
    assert struct.unpack_from("=IIII", kernel.socket.recv(1000), 16) == (7, 31, 131072, DONT_MASK)
    kernel.close()


def test_what_the_kernel_does_not_have_is_not_asked_for(kernel: Kernel) -> None:
    kernel.ask(flags=HAD)
    next(kernel.steps)
    kernel.reply()
    assert list(kernel.steps) == []
    assert struct.unpack_from("=IIII", kernel.socket.recv(1000), 16)[3] == ASYNC_READ


@pytest.mark.parametrize(("flags", "pages"), [(ASYNC_READ, 0), (ASYNC_READ | MAX_PAGES, 256)])
def test_libfuse_hears_of_a_kernel_that_cannot_splice_and_the_kernel_gets_the_whole_answer(
    kernel: Kernel, flags: int, pages: int
) -> None:
    kernel.ask()
    next(kernel.steps)
    kernel.reply(flags=flags, rest=struct.pack("=HHI", 12, 9, 1 << 20))
    assert list(kernel.steps) == []
    assert kernel.told_minor == 13
    answer = kernel.socket.recv(1000)
    assert struct.unpack_from("=IiQ", answer) == (80, 0, 77)
    assert len(answer) == 80
    assert struct.unpack_from("=IIIIHHIIHHI", answer, 16) == (
        *(7, 31, 131072, flags | DONT_MASK),
        *(12, 9, 1 << 20, 1, pages, 0, 0),
    )
    assert not any(answer[16 + 36 :])


def test_an_answer_that_refuses_is_handed_on_as_it_is(kernel: Kernel) -> None:
    kernel.ask()
    next(kernel.steps)
    kernel.reply(error=-71)
    assert list(kernel.steps) == []
    assert kernel.socket.recv(1000) == struct.pack("=IiQ", 16, -71, 77)


def test_anything_but_the_first_request_is_an_error(kernel: Kernel) -> None:
    kernel.ask(GETATTR)
    with pytest.raises(OSError, match="not FUSE_INIT"):
        next(kernel.steps)


def test_a_device_whose_kernel_is_gone_is_not_mounted() -> None:
    reading, writing = os.pipe()
    assert is_mounted(writing)
    os.close(reading)
    assert not is_mounted(writing)  # POLLERR, as a device after its umount
    os.close(writing)


def test_a_mount_that_is_refused_says_why(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"cannot mount on .*nowhere: .*No such file"):
        mount_device(tmp_path / "nowhere", {"fsname=x"})

"""What the kernel is told of changes from inside, and that nothing is when the session has ended."""

from __future__ import annotations

import errno
from threading import Event

import pyfuse3
import pytest
import trio
import trio.testing

from mountfs import kernel_notices
from mountfs.kernel_notices import KernelNotices


class Kernel:
    """In the place of pyfuse3's session. `waits`: what a notice waits for."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.told: list[tuple[object, ...]] = []
        self.begun = Event()
        self.waits = Event()
        self.waits.set()
        monkeypatch.setattr(pyfuse3, "invalidate_entry", self._entry)
        monkeypatch.setattr(pyfuse3, "invalidate_inode", self._inode)

    def _entry(self, parent: int, name: bytes) -> None:
        self.begun.set()
        assert self.waits.wait(10)
        self.told.append((parent, name))
        raise OSError(errno.ENOENT, "it remembered nothing")

    def _inode(self, inode: int, attr_only: bool) -> None:
        assert attr_only
        self.told.append((inode,))


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> Kernel:
    return Kernel(monkeypatch)


async def test_the_name_and_both_inodes_are_forgotten(kernel: Kernel) -> None:
    notices = KernelNotices()
    await notices.tell(7, b"name", 0)
    await notices.tell(7, b"name", 9)
    assert kernel.told == [(7, b"name"), (7,), (7, b"name"), (7,), (9,)]


async def test_nothing_is_told_after_the_end(kernel: Kernel) -> None:
    notices = KernelNotices()
    await notices.close()
    await notices.tell(7, b"name", 9)
    await notices.close()
    assert kernel.told == []


@pytest.mark.parametrize("cancelled", [False, True])
async def test_the_end_waits_for_what_is_under_way(kernel: Kernel, cancelled: bool) -> None:
    """Also if nobody waits for it any more."""
    notices, closed, asking = KernelNotices(), trio.Event(), trio.CancelScope()

    async def tell() -> None:
        with asking:
            await notices.tell(7, b"name", 0)

    async def close() -> None:
        await notices.close()
        closed.set()

    kernel.waits.clear()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(tell)
        await trio.to_thread.run_sync(kernel.begun.wait, 10)
        if cancelled:
            asking.cancel()
        nursery.start_soon(close)
        await trio.testing.wait_all_tasks_blocked(0.05)
        assert not closed.is_set()
        kernel.waits.set()
    assert kernel.told == [(7, b"name"), (7,)]


async def test_the_end_does_not_wait_for_ever(kernel: Kernel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernel_notices, "PATIENCE", 0.1)
    notices = KernelNotices()
    kernel.waits.clear()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(notices.tell, 7, b"name", 0)
        await trio.to_thread.run_sync(kernel.begun.wait, 10)
        with trio.fail_after(5):
            await notices.close()
        kernel.waits.set()

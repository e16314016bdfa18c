"""What the kernel is told of changes from another side, and that nothing is when the session has ended."""

from __future__ import annotations

import errno
from threading import Event

import pyfuse3
import pytest
import trio
import trio.testing

from cache.sync.changes import AttributesChanged, Change, ContentChanged, Missed, NameChanged
from mountfs import kernel_notices
from mountfs.kernel_notices import KernelNotices

CHANGES: list[Change] = [NameChanged(7, b"name"), AttributesChanged(7)]


class Kernel:
    """In the place of pyfuse3's session. `waits`: what a notice waits for."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.told: list[tuple[object, ...]] = []
        self.begun = Event()
        self.waits = Event()
        self.waits.set()
        self.refuses: set[int] = set()
        """inodes"""
        self.has_begun = True
        monkeypatch.setattr(pyfuse3, "invalidate_entry", self._entry)
        monkeypatch.setattr(pyfuse3, "invalidate_inode", self._inode)

    def _entry(self, parent: int, name: bytes) -> None:
        self.begun.set()
        assert self.waits.wait(10)
        self.told.append((parent, name))
        raise OSError(errno.ENOENT, "it remembered nothing")

    def _inode(self, inode: int, attr_only: bool) -> None:
        if not self.has_begun:
            raise OSError(errno.ENOSYS, "no version is agreed on")
        if inode in self.refuses:
            raise OSError(errno.EINVAL, f"not inode {inode}")
        self.told.append((inode, attr_only))


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> Kernel:
    return Kernel(monkeypatch)


async def test_what_has_changed_is_forgotten(kernel: Kernel) -> None:
    await KernelNotices().tell([*CHANGES, ContentChanged(9)])
    assert kernel.told == [(7, b"name"), (7, True), (9, False)]


async def test_a_kernel_that_has_asked_for_nothing_yet_has_nothing_to_forget(kernel: Kernel) -> None:
    """Another device may publish before the first request comes."""
    kernel.has_begun = False
    await KernelNotices().tell([AttributesChanged(7), ContentChanged(9)])
    assert kernel.told == []


async def test_one_that_fails_does_not_keep_the_others_from_being_told(kernel: Kernel) -> None:
    kernel.refuses = {7, 8}
    with pytest.raises(ExceptionGroup) as caught:
        await KernelNotices().tell([*CHANGES, ContentChanged(9), AttributesChanged(8), NameChanged(3, b"x")])
    assert [str(error) for error in caught.value.exceptions] == [
        "[Errno 22] not inode 7",
        "[Errno 22] not inode 8",
    ]
    assert kernel.told == [(7, b"name"), (9, False), (3, b"x")]


@pytest.mark.logs_warnings
async def test_what_cannot_be_told_any_more_is_said(kernel: Kernel, caplog: pytest.LogCaptureFixture) -> None:
    await KernelNotices().tell([Missed()])
    assert kernel.told == []
    assert "too fast" in caplog.text


async def test_nothing_is_told_after_the_end(kernel: Kernel) -> None:
    notices = KernelNotices()
    await notices.close()
    await notices.tell(CHANGES)
    await notices.close()
    assert kernel.told == []


@pytest.mark.parametrize("cancelled", [False, True])
async def test_the_end_waits_for_what_is_under_way(kernel: Kernel, cancelled: bool) -> None:
    """Also if nobody waits for it any more."""
    notices, closed, asking = KernelNotices(), trio.Event(), trio.CancelScope()

    async def tell() -> None:
        with asking:
            await notices.tell(CHANGES)

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
    assert kernel.told == [(7, b"name"), (7, True)]


async def test_the_end_does_not_wait_for_ever(kernel: Kernel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernel_notices, "PATIENCE", 0.1)
    notices = KernelNotices()
    kernel.waits.clear()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(notices.tell, CHANGES)
        await trio.to_thread.run_sync(kernel.begun.wait, 10)
        with trio.fail_after(5):
            await notices.close()
        kernel.waits.set()

"""Waiting for the next kernel request: poll for some tens of microseconds, and only then sleep.

To sleep on the FUSE device and be woken costs many times what handling a small request costs.
`PollingLoop.wait` replaces the coroutine that every worker task of pyfuse3 waits with
(`pyfuse3._wait_fuse_readable`, looked up when called: the one private seam used, see `installed`).
Everything here runs on trio's thread.

Measured with bench/nullfs.py on two virtual processors (lookups of missing names per second): stock 10,000,
polling 30,000; with the other processor busy 20,000 and 55,000.

Invariants:
1. At most one task, `_poller`, is between the entry and the exit of `_next_request`; only that task
   polls the device or sleeps on it. A request is received right after `wait` returns, with no
   checkpoint between, so nobody else can take it and the receiving read does not block.
2. Whenever `_poller` is None because a task went off to handle a request, one parked task (if there is
   any) is scheduled to run. It cannot run before the handler finishes or really waits. If then nobody
   polls, it becomes the poller: a slow request delays no other one, while a handler that never waits
   pays nothing for its stand-in.
3. A task that comes back from a handler while nobody polls becomes the poller itself.
4. No task polls longer than `_YIELD_NS` without a trio checkpoint, so other tasks (control socket,
   uploads, timers, signals) run at least that often under any load.
5. Without requests the poller sleeps in `wait_readable`: an idle mount uses no processor at all.
6. After `stop` every call of `wait` returns False, parked and sleeping tasks included. After an unmount
   from outside the device is readable for ever (POLLERR), each poller is told so by the kernel when it
   receives, ends, and its stand-in (2) follows it.
7. The kernel queues all requests in one line, and sends the writes of its cache by the dozen. The handler of
   such a write lets the other requests of the line go first (`turn`). It goes on when the line is empty, when
   `_BEFORE_DEFERRED` others were taken, and in any case when nobody is left to poll. It waits only while
   others are in the line: a dozen buffers in turn are slower than one that stays in the processor's cache.
8. The one read that can block (1 has a gap: the process that sent the request is killed between the look
   and the read) is interrupted within `ALARM_SECONDS`; pyfuse3 takes EINTR for a reason to wait again.
"""

from __future__ import annotations

import logging
import os
import select
import signal
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

import pyfuse3
import trio

MAX_TASKS: Final = 128
"""Worker tasks, hence requests that can wait for slow nodes at once: of reads by O_DIRECT the kernel sends as
many as there are readers, of others 12. pyfuse3 starts one more at each
request until there are this many (it counts the waiting ones in its own coroutine only)."""

SPIN_NS: Final = 100_000
"""How long to poll for the next request before sleeping, when requests come close together: about what a
sleep and its wake-up cost, so that it never costs more than twice the best choice."""

_NEAR_NS: Final = 300_000
"""A sleep shorter than this (its own cost included) means that polling would have paid."""

_STALL_NS: Final = 300_000
"""A poll that took longer than this: another thread had the interpreter, or others the processor."""

_YIELD_NS: Final = 1_000_000

_BEFORE_DEFERRED: Final = 16
"""So many requests may overtake one that was put off: writing back goes on under any load."""

ALONE_NS: Final = 20_000_000
"""A writer is alone after this time without other requests."""

ALARM_SECONDS: Final = 1.0

_PINNED_VERSIONS: Final = ("3.5.",)

log = logging.getLogger(__name__)


def _no_alarm(_on: bool) -> None:
    """Whoever receives does not block."""


class PollingLoop:
    """The waiting coroutine of one FUSE session and its state. `descriptor` is the session's device.
    `spin_ns`: the longest polling; 0 always sleeps. `handshake` yields when the first request is to be
    received, and ends after that request was answered. `alarm` is called with True before requests are
    received again after a sleep, and with False before the next sleep. `clock` counts nanoseconds."""

    def __init__(
        self,
        descriptor: int,
        spin_ns: int = SPIN_NS,
        handshake: Iterator[None] | None = None,
        alarm: Callable[[bool], None] = _no_alarm,
        clock: Callable[[], int] = time.perf_counter_ns,
    ) -> None:
        self._descriptor = descriptor
        self._clock = clock
        self._handshake = handshake
        self._alarm = alarm
        self._device = select.poll()
        self._device.register(descriptor, select.POLLIN)
        self._parked: list[trio.lowlevel.Task] = []
        self._deferred: deque[trio.lowlevel.Task] = deque()
        self._overtaken = 0
        self._turn_taken = False
        self._alone = False
        """whether the last caller of `turn` found that no other requests came lately"""
        self._others = 0
        """requests that were taken, less those whose handlers called `turn`"""
        self._others_at = 0
        self._poller: trio.lowlevel.Task | None = None
        self._stand_in_awake = False
        self._stopped = False
        self._yield_at = 0
        self._away: set[trio.lowlevel.Task] = set()
        self._asleep_since: float | None = None
        self._limit_ns = spin_ns
        self._spin_ns = spin_ns

    def stop(self) -> None:
        """Terminate pyfuse3's session and end the loop (6). trio's thread; idempotent."""
        self._stopped = True
        pyfuse3.terminate()
        for task in (*self._parked, *self._deferred):
            trio.lowlevel.reschedule(task)
        self._parked.clear()
        self._deferred.clear()

    @property
    def put_off(self) -> int:
        """The number of handlers that let others go first now."""
        return len(self._deferred)

    async def turn(self) -> None:
        """Return when it is the turn of a handler that takes long (7). Requests that must come after it are
        not held back here: their handlers wait for it (`mountfs.large_writes`)."""
        nobody_polls = self._poller is None and not self._parked and not self._stand_in_awake
        self._alone = self._is_alone()
        if nobody_polls or self._stopped:
            return
        if not self._deferred:
            if self._alone or not self._device.poll(0):
                return
            self._overtaken = 0
        task = trio.lowlevel.current_task()

        def abort(_: object) -> trio.lowlevel.Abort:
            self._deferred.remove(task)
            return trio.lowlevel.Abort.SUCCEEDED

        self._deferred.append(task)
        await trio.lowlevel.wait_task_rescheduled(abort)
        self._turn_taken = True

    def _is_alone(self) -> bool:
        """Whether only handlers of this kind came lately. Each handler calls this once."""
        self._others -= 1
        now = self._clock()
        if self._others:
            self._others, self._others_at = 0, now
        return now - self._others_at > ALONE_NS

    def is_line_empty(self) -> bool:
        """Whether no request waits to be received."""
        return not self._device.poll(0)

    def idle_seconds(self) -> float:
        """Seconds since the last request; 0 while one is being handled."""
        if self._asleep_since is None or self._away:
            return 0.0
        return trio.current_time() - self._asleep_since

    async def wait(self) -> bool:
        """Return True when the calling task is to receive one request now, False when it is to end."""
        if self._handshake is not None and self._shake_hands():
            return True
        task = trio.lowlevel.current_task()
        self._away.discard(task)
        if self._asleep_since is not None:  # its answer took longer than the polling for the next request
            self._asleep_since = trio.current_time()
        while self._poller is not None and not self._stopped:
            await self._park(task)
        if self._stopped:
            return False
        self._poller = task
        try:
            await self._next_request()
        except trio.ClosedResourceError:
            return False
        finally:
            self._poller = None
            self._wake_stand_in()
        self._away.add(task)
        self._overtaken += 1
        self._others += 1
        return not self._stopped

    def _shake_hands(self) -> bool:
        """Whether the first request is to be received now. No task comes in between: pyfuse3 receives and
        answers it, and calls again, without a checkpoint."""
        assert self._handshake is not None
        for _ in self._handshake:
            return True
        self._handshake = None
        return False

    async def _park(self, task: trio.lowlevel.Task) -> None:
        def abort(_: object) -> trio.lowlevel.Abort:
            self._parked.remove(task)
            return trio.lowlevel.Abort.SUCCEEDED

        self._parked.append(task)
        await trio.lowlevel.wait_task_rescheduled(abort)
        self._stand_in_awake = False

    def _wake_stand_in(self) -> None:
        if self._parked and not self._stand_in_awake:
            self._stand_in_awake = True
            # The last one parked: few tasks share all the work, and the rest stay out of the caches.
            trio.lowlevel.reschedule(self._parked.pop())
        while self._deferred and not self._stand_in_awake:  # nobody would say that it is their turn
            trio.lowlevel.reschedule(self._deferred.popleft())

    async def _next_request(self) -> None:
        while self._deferred and (
            self._alone or self._overtaken >= _BEFORE_DEFERRED or not self._device.poll(0)
        ):
            self._overtaken, self._turn_taken = 0, False
            trio.lowlevel.reschedule(self._deferred.popleft())
            while not self._turn_taken:  # trio runs what it can run in any order
                await trio.lowlevel.checkpoint()
        now = time.perf_counter_ns()
        if now >= self._yield_at:
            await trio.lowlevel.checkpoint()
            now = time.perf_counter_ns()
            self._yield_at = now + _YIELD_NS
        if self._device.poll(0):
            return
        if self._away:
            if await self._spin_for_others(now):
                return
        elif self._spin_ns and self._spin(now):
            return
        if self._stopped:  # while it polled; nothing would wake it any more
            return
        self._alarm(False)
        self._asleep_since = trio.current_time()
        try:
            await trio.lowlevel.wait_readable(self._descriptor)
        finally:
            self._asleep_since = None
            self._alarm(True)
        woken = time.perf_counter_ns()
        self._yield_at = woken + _YIELD_NS
        if woken - now < _NEAR_NS:
            self._spin_ns = self._limit_ns

    async def _spin_for_others(self, start: int) -> bool:
        """Poll while a handler waits for a thread: its answer is as near as the next request, and only
        trio can tell that it has come, so each round lets trio look."""
        end = start + self._limit_ns
        while time.perf_counter_ns() < end:
            await trio.lowlevel.checkpoint()
            if self._device.poll(0):
                return True
        return False

    def _spin(self, start: int) -> bool:
        """Poll for `_spin_ns`; whether a request came. A fruitless round makes the next ones shorter, and
        so does a poll that was held up, for then somebody else needs the interpreter more. The processor is
        offered to others each time: the process that we wait for may be the one waiting for it."""
        poll, clock, before = self._device.poll, time.perf_counter_ns, start
        end = start + self._spin_ns
        while before < end:
            if poll(0):
                return True
            os.sched_yield()
            now = clock()
            if now - before > _STALL_NS:
                break
            before = now
        # Below a few polls' worth it is not worth its own cost: then only a short sleep brings it back.
        self._spin_ns = self._spin_ns // 2 if self._spin_ns > 8_000 else 0
        return False


@contextmanager
def interrupting() -> Iterator[Callable[[bool], None]]:
    """The `alarm` of a `PollingLoop`: a signal every `ALARM_SECONDS` to the main thread, which has to be the
    loop's. A thread could not do it: the read that blocks keeps the interpreter."""
    before = signal.signal(signal.SIGALRM, _ignore)
    _set_alarm(True)
    try:
        yield _set_alarm
    finally:
        _set_alarm(False)
        signal.signal(signal.SIGALRM, before)


def _ignore(_number: int, _frame: object) -> None:
    """Unlike SIG_IGN, a handler makes system calls return."""


def _set_alarm(on: bool) -> None:
    seconds = ALARM_SECONDS if on else 0.0
    signal.setitimer(signal.ITIMER_REAL, seconds, seconds)


def has_known_seam() -> bool:
    """Whether pyfuse3 is one that this loop fits."""
    return hasattr(pyfuse3, "_wait_fuse_readable") and pyfuse3.__version__.startswith(_PINNED_VERSIONS)


@contextmanager
def installed(loop: PollingLoop) -> Iterator[None]:
    """Between `pyfuse3.init` and the end of `pyfuse3.main` let its workers wait with `loop`. Only where
    `has_known_seam`."""
    stock = vars(pyfuse3)["_wait_fuse_readable"]
    setattr(pyfuse3, "_wait_fuse_readable", loop.wait)  # noqa: B010 - private, hence not in the stubs
    try:
        yield
    finally:
        setattr(pyfuse3, "_wait_fuse_readable", stock)  # noqa: B010

"""The broadcast of changes: all listeners hear all, in order, whatever one of them does."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st

from cache.sync import changes as changes_module
from cache.sync.changes import (
    LIMIT,
    PATIENCE,
    AttributesChanged,
    Broadcast,
    Change,
    ContentChanged,
    Missed,
    NameChanged,
)

SOME = st.lists(
    st.one_of(
        st.builds(NameChanged, st.integers(1, 9), st.binary(min_size=1, max_size=3)),
        st.builds(AttributesChanged, st.integers(1, 9)),
        st.builds(ContentChanged, st.integers(1, 9)),
    ),
    min_size=1,
    max_size=3,
)


class Door:
    """A listener. `delays`: seconds for each call. `raises`: at which one."""

    def __init__(self, delays: Sequence[float] = (), raises: int = -1, hangs: bool = False) -> None:
        self.told: list[Change] = []
        self._delays = [*delays]
        self._raises = raises
        self._hangs = hangs
        self._calls = 0

    async def hear(self, changes: Sequence[Change]) -> None:
        self._calls += 1
        if self._hangs:
            await trio.sleep_forever()
        await trio.sleep(self._delays.pop(0) if self._delays else 0)
        if self._calls == self._raises:
            raise RuntimeError("a door that is broken")
        self.told += changes


@pytest.mark.logs_warnings
@given(
    announced=st.lists(SOME, max_size=8),
    doors=st.lists(
        st.builds(
            Door,
            st.lists(st.sampled_from([0.0, 0.5, 2 * PATIENCE]), max_size=8),
            st.integers(-1, 8),
            st.booleans(),
        ),
        max_size=3,
    ),
)
def test_nobody_disturbs_the_others(announced: list[list[Change]], doors: list[Door]) -> None:
    """Two good doors hear all; the announcer waits no longer than he has patience."""
    first, last = Door(), Door()

    async def run() -> None:
        broadcast = Broadcast()
        async with trio.open_nursery() as nursery:
            for number, door in enumerate([first, *doors, last]):
                await nursery.start(broadcast.serve, f"door {number}", door.hear)
            for changes in announced:
                begun = trio.current_time()
                await broadcast.tell(changes)
                assert trio.current_time() - begun <= PATIENCE
            nursery.cancel_scope.cancel()
        assert broadcast.announce([AttributesChanged(1)]) == []

    trio.run(run, clock=trio.testing.MockClock(autojump_threshold=0))
    everything = [change for changes in announced for change in changes]
    assert first.told == last.told == everything


@given(announced=st.lists(SOME, max_size=8), at_once=st.integers(1, 3))
def test_who_tells_goes_on_when_all_were_told(announced: list[list[Change]], at_once: int) -> None:
    door = Door([0.5] * 8)

    async def run() -> None:
        broadcast = Broadcast()
        async with trio.open_nursery() as nursery:
            await nursery.start(broadcast.serve, "a door", door.hear, at_once)
            for number, changes in enumerate(announced, 1):
                await broadcast.tell(changes)
                assert door.told == [change for each in announced[:number] for change in each]
            nursery.cancel_scope.cancel()

    trio.run(run, clock=trio.testing.MockClock(autojump_threshold=0))


@pytest.mark.logs_warnings
async def test_who_is_too_slow_hears_that_he_missed_something(
    autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(changes_module, "LIMIT", 4)
    broadcast, slow = Broadcast(), Door([1.0])
    async with trio.open_nursery() as nursery:
        await nursery.start(broadcast.serve, "a slow door", slow.hear)
        heard = broadcast.announce([AttributesChanged(0)])
        await trio.testing.wait_all_tasks_blocked()
        for number in range(1, 6):
            heard += broadcast.announce([AttributesChanged(number)])
        assert [event.is_set() for event in heard] == [False, True, True, True, True, False]
        await heard[-1].wait()
        nursery.cancel_scope.cancel()
    assert slow.told == [AttributesChanged(0), Missed(), AttributesChanged(5)]
    assert LIMIT > 4


@pytest.mark.logs_warnings
async def test_who_missed_something_is_settled_when_he_heard_that(
    autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Regression: he still believed what he had of before, when it was said that he had heard all."""
    monkeypatch.setattr(changes_module, "LIMIT", 4)
    broadcast, slow = Broadcast(), Door([0.5, 0.5, 3.0, 0.5])
    async with trio.open_nursery() as nursery:
        await nursery.start(broadcast.serve, "a slow door", slow.hear, 2)
        for number in range(2):
            broadcast.announce([AttributesChanged(number)])
        await trio.testing.wait_all_tasks_blocked()
        for number in range(2, 7):
            broadcast.announce([AttributesChanged(number)])
        await broadcast.settled()
        assert Missed() in slow.told
        nursery.cancel_scope.cancel()


async def test_who_left_is_not_waited_for(autojump_clock: trio.testing.MockClock) -> None:
    broadcast, leaving = Broadcast(), trio.CancelScope()
    door = Door(hangs=True)

    async def listen(task_status: trio.TaskStatus[None]) -> None:
        with leaving:
            await broadcast.serve("a door", door.hear, task_status=task_status)

    async with trio.open_nursery() as nursery:
        await nursery.start(listen)
        heard = [*broadcast.announce([AttributesChanged(1)]), *broadcast.announce([AttributesChanged(2)])]
        await trio.testing.wait_all_tasks_blocked()
        assert not any(event.is_set() for event in heard)
        leaving.cancel()
        begun = trio.current_time()
        for event in heard:
            await event.wait()
        assert trio.current_time() == begun

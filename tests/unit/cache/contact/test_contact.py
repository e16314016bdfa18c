"""The contact with an upstream: lost when a question is not answered, regained with the first that is."""

from __future__ import annotations

import logging
from math import inf

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from backend.errors import AwayError, CorruptError, ThrottledError, TransientError
from cache.contact.contact import (
    BRIEF,
    BRIEF_PAUSE,
    LEAST_PAUSE,
    MAX_BACKOFF,
    PATIENCE,
    PATIENCE_LOST,
    Contact,
)
from tests.mock_time import environment_of

DAY = 86_400.0


class Upstream:
    """Answers questions, or not."""

    def __init__(self, error: Exception | None = None) -> None:
        self.error = error
        self.asked: list[float] = []

    async def question(self) -> None:
        self.asked.append(trio.current_time())
        await trio.lowlevel.checkpoint()
        if self.error is not None:
            raise self.error


async def test_a_doubt_alone_loses_nothing(autojump_clock: MockClock, nursery: trio.Nursery) -> None:
    contact = Contact(environment_of(autojump_clock))
    upstream = Upstream()
    nursery.start_soon(contact.run, upstream.question)
    contact.doubt()
    await trio.sleep(DAY)
    assert len(upstream.asked) == 1
    assert not contact.is_lost


@pytest.mark.logs_warnings
async def test_a_loss_is_said_once_and_found_out_about_ever_more_seldom(
    autojump_clock: MockClock, nursery: trio.Nursery, caplog: pytest.LogCaptureFixture
) -> None:
    contact = Contact(environment_of(autojump_clock))
    caplog.set_level(logging.INFO)
    upstream = Upstream(TransientError("no route"))
    nursery.start_soon(contact.run, upstream.question)
    await trio.sleep(5)
    contact.doubt()
    await trio.sleep(DAY)
    assert contact.reason == "no route"
    assert contact.since_ns == 5 * 10**9
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    assert DAY / (MAX_BACKOFF + LEAST_PAUSE) < len(upstream.asked) < 3 * DAY / MAX_BACKOFF
    pauses = [after - before for before, after in zip(upstream.asked, upstream.asked[1:], strict=False)]
    assert min(pauses) >= LEAST_PAUSE
    assert max(pauses) <= MAX_BACKOFF + LEAST_PAUSE
    assert len({round(pause, 3) for pause in pauses}) > len(pauses) / 2
    upstream.error = None
    await trio.sleep(MAX_BACKOFF + LEAST_PAUSE)
    assert contact.reason == ""
    assert [record.levelno for record in caplog.records] == [logging.WARNING, logging.INFO]


@pytest.mark.logs_warnings
async def test_who_wants_something_has_it_found_out_soon(
    autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    contact = Contact(environment_of(autojump_clock))
    upstream = Upstream(AwayError("no route"))
    nursery.start_soon(contact.run, upstream.question)
    contact.doubt()
    await trio.sleep(DAY)
    upstream.error = None
    contact.doubt()
    with trio.fail_after(LEAST_PAUSE + 0.01):
        await contact.there()


async def test_an_upstream_that_answers_with_an_error_is_there(
    autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    contact = Contact(environment_of(autojump_clock))
    nursery.start_soon(contact.run, Upstream(CorruptError("a damaged answer")).question)
    contact.doubt()
    await trio.sleep(1)
    assert not contact.is_lost


@pytest.mark.logs_warnings
async def test_a_question_that_is_not_answered_at_all_loses_the_contact(
    autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    contact = Contact(environment_of(autojump_clock))
    nursery.start_soon(contact.run, trio.sleep_forever)
    contact.doubt()
    await trio.sleep(PATIENCE + 0.01)
    assert contact.is_lost
    assert "10 s" in contact.reason


@pytest.mark.logs_warnings
async def test_calls_wait_for_as_long_as_they_take_until_the_contact_is_lost(
    autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    contact = Contact(environment_of(autojump_clock))
    await contact.ask(lambda: trio.sleep(DAY))

    async def lose() -> None:
        await trio.sleep(100)
        contact.lose(AwayError("no route"))

    nursery.start_soon(lose)
    began = trio.current_time()
    with pytest.raises(AwayError, match="no route"):
        await contact.ask(trio.sleep_forever)
    assert trio.current_time() - began == pytest.approx(100 + PATIENCE_LOST)
    began = trio.current_time()
    with pytest.raises(AwayError, match="no route"):
        await contact.ask(trio.sleep_forever)
    assert trio.current_time() - began == pytest.approx(PATIENCE_LOST)


@pytest.mark.logs_warnings
async def test_a_call_that_is_under_way_goes_on_when_the_contact_is_back(
    autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    contact = Contact(environment_of(autojump_clock))

    async def come_back() -> None:
        await trio.sleep(PATIENCE_LOST / 2)
        contact.regain()

    contact.lose(AwayError("no route"))
    nursery.start_soon(come_back)
    await contact.ask(lambda: trio.sleep(DAY))


@pytest.mark.logs_warnings
async def test_who_listens_stops_when_the_contact_is_lost(
    autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    contact = Contact(environment_of(autojump_clock))

    async def lose() -> None:
        await trio.sleep(1)
        contact.lose(AwayError("no route"))

    nursery.start_soon(lose)
    with contact.listening():
        await trio.sleep(DAY)
    with contact.listening():
        await trio.sleep(DAY)
    assert trio.current_time() == pytest.approx(1)


@pytest.mark.logs_warnings
async def test_a_pause_ends_when_the_contact_is_back(
    autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    contact = Contact(environment_of(autojump_clock))
    await contact.pause(100)
    assert 50 <= trio.current_time() <= 100
    contact.lose(AwayError("no route"))

    async def come_back() -> None:
        await trio.sleep(1)
        contact.regain()

    began = trio.current_time()
    nursery.start_soon(come_back)
    await contact.pause(100)
    assert trio.current_time() - began == pytest.approx(1)


class Failing:
    """Fails until a moment of the loop's clock."""

    def __init__(self, error: Exception, until: float) -> None:
        self._error, self._until = error, until
        self.times = 0

    async def call(self) -> str:
        self.times += 1
        await trio.lowlevel.checkpoint()
        if trio.current_time() < self._until:
            raise self._error
        return "answer"


ERRORS = [AwayError("refused"), TransientError("later")]


@pytest.mark.logs_warnings
@pytest.mark.parametrize("error", ERRORS)
@pytest.mark.parametrize("is_lost", [False, True])
async def test_an_upstream_that_goes_under_an_open_drive_is_asked_again_for_a_while(
    autojump_clock: MockClock, nursery: trio.Nursery, error: Exception, is_lost: bool
) -> None:
    contact = Contact(environment_of(autojump_clock))
    upstream = Upstream(error if is_lost else None)
    nursery.start_soon(contact.run, upstream.question)
    await wait_all_tasks_blocked()
    if is_lost:
        contact.lose(error)
    failing = Failing(error, trio.current_time() + BRIEF - BRIEF_PAUSE)
    assert await contact.ask_again(failing.call) == "answer"
    assert BRIEF / BRIEF_PAUSE - 2 <= failing.times <= 2 * BRIEF / BRIEF_PAUSE
    with pytest.raises(TransientError, match=str(error)):
        await contact.ask_again(Failing(error, trio.current_time() + 2 * BRIEF).call)


@pytest.mark.logs_warnings
@pytest.mark.parametrize("is_open", [False, True])
async def test_an_upstream_that_is_away_for_longer_or_was_at_the_opening_is_not_asked_again(
    autojump_clock: MockClock, nursery: trio.Nursery, is_open: bool
) -> None:
    contact = Contact(environment_of(autojump_clock))
    if not is_open:
        contact.lose(AwayError("refused"))
    nursery.start_soon(contact.run, Upstream(AwayError("refused")).question)
    await wait_all_tasks_blocked()
    if is_open:
        contact.lose(AwayError("refused"))
        await trio.sleep(BRIEF)
    failing = Failing(AwayError("refused"), inf)
    with pytest.raises(AwayError, match="refused"):
        await contact.ask_again(failing.call)
    assert failing.times == 1


@pytest.mark.parametrize(("seconds", "times"), [(BRIEF / 4, 4), (BRIEF, 1)])
async def test_an_upstream_that_says_when_it_may_be_asked_again_is_not_asked_before(
    autojump_clock: MockClock, seconds: float, times: int
) -> None:
    contact = Contact(environment_of(autojump_clock))
    failing = Failing(ThrottledError("too many requests", seconds), inf)
    began = trio.current_time()
    with pytest.raises(ThrottledError):
        await contact.ask_again(failing.call)
    assert failing.times == times
    assert trio.current_time() - began <= BRIEF


async def test_other_errors_are_answers(autojump_clock: MockClock) -> None:
    contact = Contact(environment_of(autojump_clock))
    failing = Failing(CorruptError("damaged"), inf)
    with pytest.raises(CorruptError):
        await contact.ask_again(failing.call)
    assert failing.times == 1

"""The contact with an upstream that may be away for days: a hub, over a network.

Invariants:
1. One call without an answer says little. The contact is lost when the *question*, a call made for this
   alone, has no answer either. The first question that is answered regains it.
2. While the contact is lost the question is repeated, sooner when a caller wants something of the upstream.
   The waits grow, and chance shortens them: the devices of a hub that was down do not come back together.
3. A loss is one line of the log, however long it lasts; so is its end.
4. While the contact is lost no caller waits for long: a call that `ask` makes then has `PATIENCE_LOST`
   seconds, a call that is under way as many more.
5. An upstream that goes under an open drive is waited for by `ask_again`, until the loss is `BRIEF` seconds
   old. A server that is started again, or a database that fails over, is no error to programs.

Event-loop thread only.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from math import inf
from typing import Final, TypeVar

import trio

from backend.errors import AwayError, DriveError, ThrottledError, TransientError
from backend.system import Environment
from cache.messages import AwayStatus

FIRST_BACKOFF: Final = 0.5
MAX_BACKOFF: Final = 30.0
PATIENCE: Final = 10.0
"""Seconds that the question may take: a connection over a slow line is there by then."""
PATIENCE_LOST: Final = 3.0
BRIEF: Final = 60.0
"""Seconds: a fail-over of the hub's database takes half of that (docs/hub.md)."""
BRIEF_PAUSE: Final = 2.0
"""Seconds, at most, between two attempts of one call."""
LEAST_PAUSE: Final = 0.5
"""Seconds between two questions, whoever wants an answer."""

Result = TypeVar("Result")

log = logging.getLogger(__name__)


class Contact:
    """See the module. Nothing is lost before somebody says so; `run` finds out."""

    def __init__(self, environment: Environment) -> None:
        self._environment = environment
        self.since_ns = 0
        """when it was lost (wall clock, nanoseconds); while it is"""
        self.reason = ""
        """in one line, of the last question that was not answered; empty: it is not lost"""
        self.losses = 0
        """how often it was lost"""
        self._is_open = False
        self._brief_until = -inf
        """while it is lost: when its loss is no brief one any more, by the loop's clock"""
        self._doubted = trio.Event()
        self._regained = trio.Event()
        self._regained.set()
        self._returned = trio.Event()
        """set the next time that it is regained"""
        self._asking: set[trio.CancelScope] = set()
        self._listening: set[trio.CancelScope] = set()

    @property
    def is_lost(self) -> bool:
        """Whether the upstream does not answer."""
        return not self._regained.is_set()

    def status(self) -> AwayStatus | None:
        """For people; None: it is not lost."""
        return AwayStatus(since_ns=self.since_ns, reason=self.reason) if self.is_lost else None

    def doubt(self) -> None:
        """A call was not answered, or is wanted to be: `run` asks soon."""
        self._doubted.set()

    def lose(self, error: Exception) -> None:
        """The upstream does not answer: `error` says why. Idempotent."""
        self.reason = str(error)
        self._doubted.set()
        if self.is_lost:
            return
        self.losses += 1
        self.since_ns = self._environment.wall_clock()
        self._brief_until = trio.current_time() + BRIEF if self._is_open else -inf
        self._regained = trio.Event()
        log.warning("%s; changes stay here until it answers, and what is not here cannot be read", error)
        for scope in self._asking:
            scope.deadline = min(scope.deadline, trio.current_time() + PATIENCE_LOST)
        for scope in self._listening:
            scope.cancel()

    def regain(self) -> None:
        """The upstream answers. Idempotent."""
        if not self.is_lost:
            return
        self.since_ns, self.reason = 0, ""
        for scope in self._asking:
            scope.deadline = inf
        log.info("the upstream answers again")
        self._regained.set()
        self._returned.set()
        self._returned = trio.Event()

    async def run(self, question: Callable[[], Awaitable[object]]) -> None:
        """Find out by `question`, which the upstream answers at once, whenever there is a doubt; until
        cancelled. The drive is open from now on."""
        self._is_open = True
        while True:
            await self._doubted.wait()
            backoff = FIRST_BACKOFF
            while not await self._is_answered(question):
                await trio.sleep(LEAST_PAUSE)
                with trio.move_on_after(self._environment.chance(0, backoff)):
                    await self._doubted.wait()
                backoff = min(2 * backoff, MAX_BACKOFF)
            self.regain()

    async def _is_answered(self, question: Callable[[], Awaitable[object]]) -> bool:
        try:
            await self.reach(question)
        except AwayError:
            return False
        except (DriveError, OSError) as error:
            log.info("the upstream answers, though not well: %s", error)
        finally:
            self._doubted = trio.Event()
        return True

    async def reach(self, question: Callable[[], Awaitable[Result]]) -> Result:
        """The answer, within `PATIENCE` seconds. `AwayError`: there is none, or none yet, and the contact is
        lost."""
        try:
            with trio.fail_after(PATIENCE):
                return await question()
        except trio.TooSlowError:
            error = AwayError(f"the upstream does not answer within {PATIENCE:g} s")
        except TransientError as caught:
            error = caught if isinstance(caught, AwayError) else AwayError(str(caught))
        self.lose(error)
        raise error

    async def pause(self, seconds: float) -> None:
        """Wait for so long, or, by chance, for half of it at least; if the contact is regained meanwhile, no
        longer."""
        with trio.move_on_after(self._environment.chance(seconds / 2, seconds)):
            await self._returned.wait()

    async def there(self) -> None:
        """Return when the upstream answers, as far as is known."""
        await self._regained.wait()

    @contextmanager
    def listening(self) -> Iterator[trio.CancelScope]:
        """Around waiting for what the upstream may say at any time: ends when the contact is lost."""
        with trio.CancelScope() as scope:
            if self.is_lost:
                scope.cancel()
            self._listening.add(scope)
            try:
                yield scope
            finally:
                self._listening.discard(scope)

    async def ask(self, call: Callable[[], Awaitable[Result]]) -> Result:
        """The answer of `call`, which may be cancelled. `AwayError`: there is none, or not in time
        (invariant 4), or none yet of an upstream that is away. What `call` raises."""
        deadline = trio.current_time() + PATIENCE_LOST if self.is_lost else inf
        with trio.CancelScope(deadline=deadline) as scope:
            self._asking.add(scope)
            try:
                return await call()
            except TransientError as error:
                self.doubt()
                if self.is_lost and not isinstance(error, AwayError):
                    raise AwayError(str(error)) from error
                raise
            finally:
                self._asking.discard(scope)
        self.doubt()
        raise AwayError(self.reason or "the upstream did not answer in time")

    async def ask_again(self, call: Callable[[], Awaitable[Result]]) -> Result:
        """As `ask`; but the call is made again, as long as invariant 5 says, and no sooner than the upstream
        allows. `call` may be made any number of times."""
        begun = trio.current_time()
        while True:
            try:
                return await self.ask(call)
            except TransientError as error:
                seconds = error.seconds if isinstance(error, ThrottledError) else 0.0
                if trio.current_time() + seconds >= (self._brief_until if self.is_lost else begun + BRIEF):
                    raise
            await trio.sleep(seconds)
            await self.pause(BRIEF_PAUSE)

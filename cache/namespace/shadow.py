"""The shadow of a namespace: a second one on the same database, to make a later state of it while the first
one goes on to be read.

Invariants:
1. A shadow begins as what its original has saved, and its changes are in a transaction that is not committed:
   SQLite shows the original none of them. A shadow that ends before its time has changed nothing.
2. A database has one writer. While there is a shadow that is the shadow; an original that is to be written
   ends it first (`give_way`). Rows of the original that change meanwhile stay in memory.
3. A shadow takes the original's place (`Namespace.take_place`), whose rows in memory are dropped. The shadow
   has to have what changed there.

`run` is for one thread at a time, all else for the event-loop thread.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from threading import Lock
from typing import Generic, TypeVar

Twin = TypeVar("Twin")
Result = TypeVar("Result")
Item = TypeVar("Item")


class DisplacedError(Exception):
    """The shadow had to give way, as its original changes."""


class Shadow(Generic[Twin]):
    """See the module. `namespace`: the shadow's; `before`: as it began, to be read. `interrupt` has its SQL
    end soon, and may be called at any time; `close` ends its transaction. `first_number`: the lowest inode
    number that it may give."""

    def __init__(
        self,
        namespace: Twin,
        before: Twin,
        interrupt: Callable[[], None],
        close: Callable[[], None],
        first_number: int,
    ) -> None:
        self.namespace = namespace
        self.before = before
        self.first_number = first_number
        self._interrupt = interrupt
        self._close = close
        self._working = Lock()
        self.is_there = True
        """whether it did not have to give way"""

    def check(self) -> None:
        """`DisplacedError` if nobody needs the result any more. To be called often within `run`."""
        if not self.is_there:
            raise DisplacedError

    def checked(self, items: Iterable[Item]) -> Iterator[Item]:
        """These, with a `check` before each."""
        for item in items:
            self.check()
            yield item

    def run(self, work: Callable[[], Result]) -> Result:
        """`work` in the calling thread, which changes `namespace`. `DisplacedError`: for nothing."""
        with self._working:
            self.check()
            try:
                return work()
            except Exception:
                self.check()  # SQL that was interrupted says so in its own words
                raise

    def give_way(self) -> None:
        """End; waits for `run`, which ends soon. Idempotent."""
        if self.is_there:
            self.is_there = False
            self._interrupt()
            with self._working:
                self._close()

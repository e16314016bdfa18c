"""Random histories, with random points forgotten in between: what is retained is what was, everywhere."""

from __future__ import annotations

import os
from itertools import pairwise
from random import Random

import pytest

from cache.namespace import Namespace
from cache.operations import Forget
from cache.point_store import Gap
from tests.property.test_namespace import NamespaceMachine, dump, random_step


class RetainingMachine(NamespaceMachine):
    """As its parent, with recorded commits: only what is not recorded is taken back."""

    def __init__(self) -> None:
        super().__init__()
        self.forgets: dict[int, tuple[Gap, ...]] = {}
        self.recorded: list[int] = []

    def undo(self, back: int) -> None:
        if self.model.commit - back >= self.namespace.head().number:
            super().undo(back)
            kept = self.model.commit
            self.forgets = {commit: gaps for commit, gaps in self.forgets.items() if commit < kept}

    def a_past_state_is_right(self, number: int) -> None:
        commit = number % (self.model.commit + 1)
        if commit > self.namespace.head().number or self.namespace.points.is_retained(commit):
            self.check_past(commit)

    def publish(self) -> None:
        """All content comes, the commit ends, and everything is recorded."""
        while self.waiting:
            self.late_content(0, ((), ()))
        self.cut([], 1)
        for number in range(self.namespace.head().number + 1, self.model.commit):
            self.namespace.record_commit(number, bytes(32), number)
            self.recorded.append(number)

    def forget(self, random: Random) -> None:
        """Some points, all before the newest."""
        numbers = [0, *(point.number for point in self.namespace.points.points())]
        if self.namespace.points.is_waiting or len(numbers) < 3:
            return
        kept = [0, *(n for n in numbers[1:-1] if random.random() < 0.5), numbers[-1]]
        gaps = tuple((low, high) for low, high in pairwise(kept) if any(low < n < high for n in numbers))
        if gaps:
            self.namespace.apply(Forget(gaps))
            self.forgets[self.model.commit] = gaps

    def check_retained(self) -> None:
        for point in self.namespace.points.points():
            self.check_past(point.number)

    def replay(self, name: str, last: int) -> str:
        path = os.path.join(self.folder, name)
        fresh = Namespace(path)
        for commit in range(1, last + 1):
            fresh.begin_commit(commit)
            for operation in (*self.operations.get(commit, ()), *self.contents.get(commit, ())):
                fresh.apply(operation)
            if commit in self.forgets:
                fresh.apply(Forget(self.forgets[commit]))
            if commit in self.recorded:
                fresh.record_commit(commit, bytes(32), commit)
        finish(fresh)
        fresh.begin_commit(last + 1)
        fresh.flush(1)
        fresh.close()
        return path


def finish(namespace: Namespace) -> None:
    while namespace.points.forget_some(7):
        pass


@pytest.mark.parametrize("seed", range(12))
def test_what_is_retained_is_what_was(seed: int) -> None:
    random = Random(seed)
    machine = RetainingMachine()
    try:
        machine.begin([0o40755, 0o100644, 0o100644])
        for _ in range(5):
            for _ in range(40):
                random_step(machine, random)
                if random.random() < 0.1:
                    machine.namespace.points.forget_some(random.randrange(1, 4))
            if random.random() < 0.5:
                machine.forget(random)
                machine.undo(1)
            machine.forget(random)
            machine.publish()
            machine.check_retained()
            machine.check_live()
        machine.publish()
        finish(machine.namespace)
        machine.check_retained()
        assert len(machine.namespace.points.points()) < len(machine.recorded)
        machine.flush()
        replayed = machine.replay("replayed.db", machine.model.commit - 1)
        assert dump(machine.path, with_atime=False) == dump(replayed, with_atime=False)
    finally:
        machine.namespace.close()

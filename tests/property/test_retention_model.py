"""Random histories, with random points forgotten in between: what is retained is what was, everywhere."""

from __future__ import annotations

from random import Random

import pytest

from tests.property.namespace_machine import NamespaceMachine, random_step


def forget_some_points(machine: NamespaceMachine, random: Random) -> None:
    machine.forget({index for index in range(40) if random.random() < 0.5})


@pytest.mark.parametrize("seed", range(12))
def test_what_is_retained_is_what_was(seed: int) -> None:
    random = Random(seed)
    machine = NamespaceMachine()
    try:
        machine.begin([0o40755, 0o100644, 0o100644])
        for _ in range(5):
            for _ in range(40):
                random_step(machine, random)
                if random.random() < 0.1:
                    machine.forget_some(random.randrange(1, 4))
            if random.random() < 0.5:
                forget_some_points(machine, random)
                machine.undo(1)
            forget_some_points(machine, random)
            machine.publish()
            machine.check_states()
            machine.check_live()
        machine.publish()
        assert len(machine.namespace.points.points()) < len(machine.recorded)
    finally:
        machine.teardown()

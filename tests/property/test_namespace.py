"""The namespace against a model that keeps a copy of everything at each commit."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import settings

from tests.property.namespace_machine import NamespaceMachine, random_step

TestNamespace = NamespaceMachine.TestCase
TestNamespace.settings = settings(max_examples=25, stateful_step_count=40, deadline=None)


@pytest.mark.parametrize("seed", range(16))
def test_a_long_random_walk(seed: int) -> None:
    """Nothing is published: everything can be taken back, and looked at."""
    random = Random(seed)
    machine = NamespaceMachine()
    try:
        machine.begin([0o40755, 0o100644, 0o100644])
        for _ in range(200):
            random_step(machine, random)
    finally:
        machine.teardown()

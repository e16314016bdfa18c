"""Questions to all voters: who is waited for, who counts as away, and what is remembered."""

from __future__ import annotations

import math

import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st

from backend.commits.voter_rounds import REMEMBERED, Round
from backend.errors import DriveError, NodeError
from backend.nodes import Node, NodeHealth
from tests.memory_node import memory_nodes

FAILS: tuple[type[DriveError], ...] = (NodeError,)
SPARE = 2
TIMES = st.sampled_from([0.0, 0.25, 0.5, 4.0, math.inf])
VOTERS = st.lists(st.tuples(TIMES, st.sampled_from(["of use", "useless", "fails"])), min_size=5, max_size=5)


class Asking:
    """Five voters that answer when and as they are told to."""

    def __init__(self, told: list[tuple[float, str]]) -> None:
        self.nodes = memory_nodes(5)
        self.told = dict(zip(self.nodes, told, strict=True))
        self.health = NodeHealth(REMEMBERED)
        self.answered: set[str] = set()

    async def question(self, node: Node) -> bool:
        seconds, answer = self.told[node.name]
        await trio.sleep(seconds)
        if answer == "fails":
            raise NodeError(node.name, node.name)
        self.answered.add(node.name)
        return answer == "of use"

    async def round(self, seconds: float) -> tuple[float, Round]:
        """How long it took, and the round."""
        self.answered.clear()
        asking, begun = Round(self.nodes.values(), SPARE, self.health), trio.current_time()
        await asking.ask(self.question, FAILS, seconds)
        return trio.current_time() - begun, asking

    def ends(self) -> dict[str, float]:
        return {name: seconds for name, (seconds, _) in self.told.items()}

    def useful(self) -> list[float]:
        return sorted(seconds for seconds, answer in self.told.values() if answer == "of use")


@given(VOTERS)
def test_a_first_round_waits_for_all_and_the_second_for_none_that_was_slow(
    told: list[tuple[float, str]],
) -> None:
    async def ask() -> None:
        asking = Asking(told)
        took, first = await asking.round(5.0)
        assert took == min(max(asking.ends().values()), 5.0)
        assert first.away == {*asking.nodes} - asking.answered
        took, second = await asking.round(5.0)
        assert second.away == {*asking.nodes} - asking.answered
        enough = asking.useful()[len(asking.nodes) - SPARE - 1 :]
        if not enough or enough[0] >= 5.0:
            assert took == min(max(asking.ends().values()), 5.0), "too few are left to do without"
        else:
            quick = [end for end in asking.ends().values() if end <= enough[0] + 1]
            assert took <= max(quick)

    trio.run(ask, clock=trio.testing.MockClock(autojump_threshold=0))


async def test_who_was_slow_is_waited_for_again_after_a_while(autojump_clock: trio.testing.MockClock) -> None:
    asking = Asking([(0.0, "of use")] * 4 + [(4.0, "of use")])
    assert (await asking.round(math.inf))[0] == 4.0
    assert (await asking.round(math.inf))[0] == 0.0
    await trio.sleep(REMEMBERED)
    took, asked = await asking.round(math.inf)
    assert (took, asked.away) == (4.0, set())


async def test_who_has_become_quick_counts_at_once(autojump_clock: trio.testing.MockClock) -> None:
    asking = Asking([(0.5, "of use")] * 4 + [(4.0, "of use")])
    await asking.round(math.inf)
    asking.told["node4"] = (0.25, "of use")
    assert (await asking.round(math.inf))[1].away == set()
    assert not asking.health.is_avoided("node4")


async def test_any_other_error_is_raised_also_if_the_rest_is_not_waited_for(
    autojump_clock: trio.testing.MockClock,
) -> None:
    nodes = memory_nodes(5)
    health = NodeHealth(REMEMBERED)
    health.troubled("node4")

    async def question(node: Node) -> bool:
        if node.name == "node4":
            await trio.sleep_forever()
        if node.name == "node0":
            raise ValueError("of the asker")
        await trio.sleep(1.0)
        return True

    with pytest.raises(ValueError, match="of the asker"):
        await Round(nodes.values(), SPARE, health).ask(question, FAILS)

"""The findings of a check, one line each, and whether each was mended.

`mended`: it is as it should be now; `left`: it is not, and could be (another run, a node that comes back);
`lost`: it cannot be brought back from what is there, and is listed; `note`: worth knowing, nothing is wrong.
While nodes are away nothing is `lost`: they may bring it back.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

State = Literal["mended", "left", "lost", "note"]


@dataclass(frozen=True, slots=True)
class Finding:
    """One line for a person."""

    state: State
    text: str

    def __str__(self) -> str:
        return f"{self.state}: {self.text}"


def _nobody(_finding: Finding) -> None:
    """Nobody wants to know at once."""


class Findings:
    """Collects findings and tells each to `listener` as it comes. One task at a time adds. Once
    `nodes_are_away` is set, what is added as lost counts as left."""

    def __init__(self, listener: Callable[[Finding], None] = _nobody) -> None:
        self.all: list[Finding] = []
        self.nodes_are_away = False
        self._listener = listener

    def add(self, state: State, text: str) -> None:
        """One more."""
        finding = Finding("left" if state == "lost" and self.nodes_are_away else state, text)
        self.all.append(finding)
        self._listener(finding)

    def count(self, *states: State) -> int:
        """The number of findings in one of these states."""
        return sum(finding.state in states for finding in self.all)

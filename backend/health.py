"""The types in which a store's health is told."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ScrubStatus:
    """Of the scrub under way, or of the last one. `finished_ns`: since 1970, 0: never yet. `wrong` fragments
    were queued for repair, `unanswered` ones could not be read; of `by_size` only the size was asked."""

    running: bool
    finished_ns: int
    fragments: int
    by_size: int
    bytes: int
    wrong: int
    unanswered: int


@dataclass(frozen=True, slots=True)
class Repaired:
    """Packs that are whole again, and those that are left to repair."""

    repaired: int
    left: int

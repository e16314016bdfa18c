"""The types in which a store's health is told."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class ScrubStatus:
    """Of the scrub under way, or of the last one. `finished_ns`: since 1970, 0: never yet. `wrong` fragments
    were queued for repair, `unanswered` ones could not be read; of `by_size` only the size was asked. Of the
    `copies` of commits and roots `copies_wrong` were damaged or missing, and are mended."""

    running: bool
    finished_ns: int
    fragments: int
    by_size: int
    bytes: int
    wrong: int
    unanswered: int
    copies: int
    copies_wrong: int


@dataclass(frozen=True, slots=True)
class Repaired:
    """Packs that are whole again, and those that are left to repair."""

    repaired: int
    left: int


@dataclass(frozen=True, slots=True)
class PlaceWanted:
    """The place of a node to be: its absolute URL, and its settings as text."""

    url: str
    settings: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class NodesWanted:
    """A change of a drive's nodes. `verb`: add (`places`, `zone`, `rate`), remove (`names`, `rate`), replace
    (one of each, `zone`; no place: its own), rebalance (`rate`), or move-to: the drive leaves its nodes for a
    hub, or a hub for nodes (one name: its address, or folder, there; `rate`). `rate`: bytes a second."""

    verb: str
    places: tuple[PlaceWanted, ...] = ()
    names: tuple[str, ...] = ()
    zone: str | None = None
    rate: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeChange:
    """A change of nodes that is under way, or the last one. `step`: its present part, of which `done` of
    `total` (0: not known) are done. `said`: what was done so far, one line each. `problem`: why it ended
    before all was done; empty: it did not."""

    running: bool
    verb: str
    step: str = ""
    done: int = 0
    total: int = 0
    said: tuple[str, ...] = ()
    problem: str = ""

"""A stored pack: all that is needed to read and write its fragments."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Pack:
    """A stored pack. `nodes[i]` keeps fragment i; bit i of `missing`: it is known not to."""

    id: bytes
    size: int
    stored_size: int
    nodes: tuple[str, ...]
    missing: int = 0

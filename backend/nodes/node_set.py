"""The nodes of a drive by name, while nodes come and go.

Whoever is given a `NodeSet` sees a change with the next look-up; a walk over it sees the nodes as they were
when it began. Event-loop thread.
"""

from __future__ import annotations

from collections.abc import Callable, ItemsView, Iterator, KeysView, Mapping, ValuesView

from backend.nodes.node import Node

Wrap = Callable[[Node], Node]


class NodeSet(Mapping[str, Node]):
    """See the module."""

    def __init__(self, nodes: Mapping[str, Node]) -> None:
        self._now = dict(nodes)
        self._wrapped: list[tuple[NodeSet, Wrap]] = []

    @classmethod
    def of(cls, nodes: Mapping[str, Node]) -> NodeSet:
        """`nodes` itself if it is a set that may change; else one of these."""
        return nodes if isinstance(nodes, cls) else cls(nodes)

    def have(self, nodes: Mapping[str, Node]) -> None:
        """Exactly these are the nodes from now on; for those that were made of this set too. Where the same
        node stays, its wrapper does, and what that knows."""
        before, self._now = self._now, dict(nodes)
        for wrapped, wrap in self._wrapped:
            kept = wrapped._now
            wrapped.have(
                {name: kept[name] if before.get(name) is node else wrap(node) for name, node in nodes.items()}
            )

    def wrapped(self, wrap: Wrap) -> NodeSet:
        """The same nodes, each in a wrapper; it follows this set."""
        made = NodeSet({name: wrap(node) for name, node in self._now.items()})
        self._wrapped.append((made, wrap))
        return made

    def __getitem__(self, name: str) -> Node:
        return self._now[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._now)

    def __len__(self) -> int:
        return len(self._now)

    def __contains__(self, name: object) -> bool:
        return name in self._now

    # Of one moment, where those of `Mapping` would look again at each step.

    def keys(self) -> KeysView[str]:
        return self._now.keys()

    def values(self) -> ValuesView[Node]:
        return self._now.values()

    def items(self) -> ItemsView[str, Node]:
        return self._now.items()

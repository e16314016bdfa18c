"""Marks of a drive beside its tree: the pins and the retention policy. The later in the log counts."""

from __future__ import annotations

from dataclasses import dataclass

from cache.namespace import Namespace, Operation, Pin, SetRetention, Unpin
from cache.rebase.plan import Decision, Row


@dataclass(frozen=True, slots=True)
class Marks:
    """The pins, each with its commit, and the policy, None: the default."""

    pins: dict[bytes, int]
    policy: tuple[int, int, int, int, int] | None

    @classmethod
    def of(cls, namespace: Namespace) -> Marks:
        """As the namespace has them now."""
        return cls(namespace.points.pins(), namespace.points.policy())


def merged(was: Marks, mine: Marks, namespace: Namespace) -> tuple[list[Operation], list[Decision]]:
    """The operations at the head, which `namespace` is, by which the changes from `was` to `mine` hold."""
    operations: list[Operation] = []
    decisions: list[Decision] = []
    for name in sorted(was.pins.keys() | mine.pins.keys()):
        target, there = mine.pins.get(name), namespace.points.pins().get(name)
        if target == was.pins.get(name) or target == there:
            continue
        if there is not None:
            operations.append(Unpin(name))
        nearest = None if target is None else _nearest(target, namespace)
        if nearest is not None:
            operations.append(Pin(name, nearest))
        if nearest != target:
            decisions.append(Decision(Row.PIN_MOVED, 0, (0, name)))
    if mine.policy is not None and mine.policy not in (was.policy, namespace.points.policy()):
        operations.append(SetRetention(*mine.policy))
    return operations, decisions


def _nearest(commit: int, namespace: Namespace) -> int | None:
    """The retained point nearest to a commit, the earlier of two."""
    points = [
        point.number for point in namespace.points.points() if not namespace.points.is_going(point.number)
    ]
    return min(points, key=lambda number: (abs(number - commit), number), default=None)

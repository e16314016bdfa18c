"""Marks of a drive beside its tree: the pins and the retention policy, of which the later in the log counts;
revoked devices, which stay that; and key epochs, of which others may have begun one in the meantime."""

from __future__ import annotations

from dataclasses import dataclass

from backend.upstream import KeyEpoch
from cache.namespace import Namespace, NewEpoch, Operation, Pin, RevokeDevice, SetRetention, Unpin
from cache.rebase.plan import Decision, Row


@dataclass(frozen=True, slots=True)
class Marks:
    """The pins, each with its commit; the policy, None: the default; the devices that are revoked; the key
    epochs."""

    pins: dict[bytes, int]
    policy: tuple[int, int, int, int, int] | None
    revoked: frozenset[int]
    epochs: tuple[KeyEpoch, ...]

    @classmethod
    def of(cls, namespace: Namespace) -> Marks:
        """As the namespace has them now."""
        revoked = frozenset(device.number for device in namespace.devices.all() if device.is_revoked)
        epochs = tuple(namespace.epochs.until(namespace.commit))
        return cls(namespace.points.pins(), namespace.points.policy(), revoked, epochs)


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
    return [*operations, *_authority(was, mine, Marks.of(namespace))], decisions


def _authority(was: Marks, mine: Marks, there: Marks) -> list[Operation]:
    """An epoch that others began is as new as ours would be; of several of ours one is enough, as all is one
    commit."""
    found: list[Operation] = [
        RevokeDevice(number) for number in sorted(mine.revoked - was.revoked - there.revoked)
    ]
    begun = mine.epochs[len(was.epochs) :]
    if begun and there.epochs == was.epochs:
        found.append(NewEpoch(*begun[0]))
    return found


def _nearest(commit: int, namespace: Namespace) -> int | None:
    """The retained point nearest to a commit, the earlier of two."""
    points = [
        point.number for point in namespace.points.points() if not namespace.points.is_going(point.number)
    ]
    return min(points, key=lambda number: (abs(number - commit), number), default=None)

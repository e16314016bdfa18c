"""Resolve: what becomes of a device's unpublished changes on a state that others have changed.

Only the device that came second decides, once, and its decision is an ordinary commit: so all devices
converge. A function of the states and of nothing else: no I/O, no clock, no chance.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, replace

from cache.namespace import Namespace, Operation
from cache.rebase.contents import Contents
from cache.rebase.emission import Emission
from cache.rebase.marks import Marks, merged
from cache.rebase.names import Names
from cache.rebase.net_changes import Key, changes_since
from cache.rebase.plan import Decision, Plan, Situation
from cache.rebase.views import NamespaceView


@dataclass(frozen=True, slots=True)
class Changed:
    """The names that may mean another inode than before, and the inodes that may have other attributes, and
    other contents: of what this device showed."""

    names: frozenset[Key]
    inodes: frozenset[int]
    contents: frozenset[int]


@dataclass(frozen=True, slots=True)
class Resolved:
    """`operations` are valid on the head, in this order, as one commit. `moved`: where the dirty content of
    an inode goes, 0: it has no reader any more; of those that are not named it stays."""

    operations: tuple[Operation, ...]
    moved: dict[int, int]
    decisions: tuple[Decision, ...]
    changed: Changed


def resolve(situation: Situation) -> Resolved:
    """The decision, by the table of docs/conflicts.md."""
    plan = Plan()
    names = Names(situation, plan)
    names.run()
    Contents(situation, plan, names).run()
    moved = names.placing.numbers | plan.moved
    operations = tuple(Emission(situation, plan).operations())
    moved = {inode: to for inode, to in moved.items() if inode in situation.dirty}
    return Resolved(operations, moved, tuple(plan.decisions), _changed(situation, plan))


def _changed(situation: Situation, plan: Plan) -> Changed:
    both = (situation.ours, situation.theirs)
    names = {key for changes in both for key in changes.names} | plan.placed.keys() | plan.vacated.keys()
    inodes = {inode for changes in both for inode in (*changes.inodes, *changes.xattrs_of)}
    contents = {inode for changes in both for inode in inodes if changes.is_content_changed(inode)}
    return Changed(frozenset(names), frozenset(inodes), frozenset(contents))


@dataclass(frozen=True, slots=True)
class Device:
    """The facts of a device that its namespace does not hold: as of `Situation`."""

    dirty: Collection[int]
    held: Callable[[int], bool]
    host: bytes


def take_up(namespace: Namespace, follow: Callable[[], None], device: Device) -> Resolved:
    """Bring a namespace from what this device changed to the published state, and say what is to be applied
    there. `follow` applies the commits that the namespace lacks. Nothing is saved here; where something is
    raised, the namespace must not be saved, and be opened anew."""
    base = namespace.head().number
    ours, mine = changes_since(namespace.synced_connection(), base), Marks.of(namespace)
    namespace.undo(base)
    was = Marks.of(namespace)
    follow()
    theirs, head = changes_since(namespace.synced_connection(), base), NamespaceView(namespace)
    numbers = namespace.allocate_inode
    situation = Situation(base, head, ours, theirs, device.dirty, device.held, numbers, device.host)
    resolved = resolve(situation)
    operations, decisions = merged(was, mine, namespace)
    return replace(
        resolved,
        operations=(*resolved.operations, *operations),
        decisions=(*resolved.decisions, *decisions),
    )

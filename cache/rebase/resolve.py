"""Resolve: what becomes of a device's unpublished changes on a state that others have changed.

Only the device that came second decides, once, and its decision is an ordinary commit: so all devices
converge. A function of the states and of nothing else: no I/O, no clock, no chance.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from typing import Final

from cache.namespace import Namespace, Operation
from cache.rebase.contents import Contents
from cache.rebase.emission import Emission
from cache.rebase.marks import Marks, merged
from cache.rebase.names import Names
from cache.rebase.net_changes import Key, NetChanges, changes_since
from cache.rebase.plan import Decision, Plan, Situation
from cache.rebase.renumbering import Renumbering
from cache.rebase.views import NamespaceView

_NO_DEVICE: Final = -1
"""No inode has a number of it."""


@dataclass(frozen=True, slots=True)
class Changed:
    """The names that may mean another inode than before, and the inodes that may have other attributes, and
    other contents: of what this device showed. `replaced`: the inodes that are gone, or have a content that
    this device did not show. `became`: by inode, the one that has now what this device had made of it; 0:
    none has."""

    names: frozenset[Key]
    inodes: frozenset[int]
    contents: frozenset[int]
    replaced: frozenset[int]
    became: Mapping[int, int]


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
    became = {inode: to for inode, to in (names.placing.numbers | plan.moved).items() if inode != to}
    operations = tuple(Emission(situation, plan).operations())
    moved = {inode: to for inode, to in became.items() if inode in situation.dirty}
    return Resolved(operations, moved, tuple(plan.decisions), _changed(situation, plan, became))


def _changed(situation: Situation, plan: Plan, became: Mapping[int, int]) -> Changed:
    both = (situation.ours, situation.theirs)
    names = {key for changes in both for key in changes.names} | plan.placed.keys() | plan.vacated.keys()
    inodes = {inode for changes in both for inode in (*changes.inodes, *changes.xattrs_of)}
    contents = {inode for changes in both for inode in inodes if changes.is_content_changed(inode)}
    replaced = {inode for inode in situation.theirs.inodes if _is_replaced(situation, inode)}
    return Changed(frozenset(names), frozenset(inodes), frozenset(contents), frozenset(replaced), became)


def _is_replaced(situation: Situation, inode: int) -> bool:
    if situation.head.inode(inode) is None:
        return True
    is_ours = inode in situation.ours.inodes or inode in situation.ours.extents
    is_same = is_ours and situation.is_same_content(inode, inode)
    return situation.theirs.is_content_changed(inode) and not is_same


@dataclass(frozen=True, slots=True)
class Device:
    """The facts of a device that its namespace does not hold: as of `Situation`. `becomes`: the device that
    it is from now on, with inode numbers of that one for all that it made; None: it stays what it is."""

    dirty: Collection[int]
    held: Callable[[int], bool]
    host: bytes
    becomes: int | None = None


def take_up(namespace: Namespace, follow: Callable[[], None], device: Device) -> Resolved:
    """Bring a namespace from what this device changed to the published state, and say what is to be applied
    there. `follow` applies the commits that the namespace lacks. Nothing is saved here; where something is
    raised, the namespace must not be saved before it is rolled back."""
    base, renumbering = namespace.head().number, None
    ours = changes_since(namespace.synced_connection(), base)
    if device.becomes is not None:
        namespace.become(device.becomes)
        renumbering = Renumbering(ours, device.dirty, device.becomes, namespace.allocate_inode)
    return _taken_up(namespace, base, follow, device, ours, renumbering, namespace.allocate_inode)


def take_up_fork(
    namespace: Namespace, base: int, follow: Callable[[], None], device: Device, number: Callable[[], int]
) -> Resolved:
    """As `take_up`, of a namespace that has commits after `base`, a retained point, which the published state
    lost: they count as changes of this device. All inodes that they made get numbers of `number`, which also
    gives those of copies. `namespace` is nobody's then, and must not be saved."""
    ours = changes_since(namespace.synced_connection(), base)
    renumbering = Renumbering(ours, device.dirty, _NO_DEVICE, number)
    return _taken_up(namespace, base, follow, device, ours, renumbering, number)


def _taken_up(
    namespace: Namespace,
    base: int,
    follow: Callable[[], None],
    device: Device,
    ours: NetChanges,
    renumbering: Renumbering | None,
    number: Callable[[], int],
) -> Resolved:
    """As of `take_up`, from what changed after `base`."""
    mine, dirty = Marks.of(namespace), device.dirty
    if renumbering is not None:
        ours, dirty = renumbering.changes, renumbering.dirty
    namespace.undo(base)
    was = Marks.of(namespace)
    follow()
    theirs, head = changes_since(namespace.synced_connection(), base), NamespaceView(namespace)
    resolved = resolve(Situation(base, head, ours, theirs, dirty, device.held, number, device.host))
    if renumbering is not None:
        resolved = _by_old_numbers(resolved, renumbering)
    operations, decisions = merged(was, mine, namespace)
    return replace(
        resolved,
        operations=(*resolved.operations, *operations),
        decisions=(*resolved.decisions, *decisions),
    )


def _by_old_numbers(resolved: Resolved, renumbering: Renumbering) -> Resolved:
    changed = replace(resolved.changed, became=renumbering.became(resolved.changed.became))
    return replace(resolved, moved=renumbering.moved(resolved.moved), changed=changed)

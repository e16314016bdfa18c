"""Rebasing: what was accepted and is not published goes on from a newer published state.

Invariants:
1. Between taking back what is unpublished and having the new operations applied nothing else is accepted,
   saved or awaited. A large rebase is made on a shadow of the namespace, in a thread: the namespace shows the
   state from before until the shadow takes its place, and takes changes. These are the tail: at the end they
   are made on the shadow, too (`cache.rebase.tail`). If they touch what is not the same there, or a file was
   opened that mattered, or the database written, or too many numbers given, the shadow is dropped. Then
   another is made while changes wait, and at last one rebase without a pause.
2. A REBASED record says all of it: the published state, the operations that take the place of all that was
   not published, and where dirty content went. A kill before it is as if nothing had begun; a kill after it
   goes on from it. FOLLOWED records before it have the commits up to that state, so nobody need be asked for
   them: who is offline goes on, too.
3. The namespace is not saved before the record is synced: it would be ahead of a journal that lost it, and
   what was unpublished could not be found again.

Event-loop thread only.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Final

import trio

from backend.buffer import Buffer
from backend.errors import DriveError
from backend.failpoints import declare
from backend.upstream import Head
from cache.errors import FileSystemError, JournalLostError
from cache.journal.format import MAX_REBASED, Rebased, RecordType, encode_followed, encode_rebased
from cache.journal.ledger import Ledger
from cache.namespace import DisplacedError, Namespace, Shadow, decode, encode
from cache.rebase import Device, OvertakenError, Resolved, Tail, take_up

log = logging.getLogger(__name__)

Spool = Sequence[tuple[bytes, Buffer]]
"""The payloads of FOLLOWED records."""
LEAST_ROOM: Final = 4096
"""Bytes, for a rebase of little."""
FEW_CHANGES: Final = 64
"""Changes that are made on a shadow without a pause."""
ROUNDS: Final = 8
"""So often the changes are taken that came meanwhile, before those to come wait until the end."""
NUMBERS: Final = 1 << 16
"""Inode numbers that are left to the changes that go on. Who takes more has the rebase made anew: a number
may be given long before the change that uses it is accepted (`Intake.allocate_number`)."""

ASIDE: Final = declare(
    "rebase.aside",
    "a shadow of the namespace holds the rebase; the journal and the namespace know nothing of it",
)
FOLLOWED: Final = declare(
    "rebase.followed",
    "the namespace has others' commits and not our changes; the journal knows nothing of it",
)
SPOOLED: Final = declare(
    "rebase.spooled",
    "the journal has others' commits and no rebase on them; the namespace, or its shadow, is of them",
)
JOURNALED: Final = declare("rebase.journaled", "the journal has the rebase, perhaps not on the disk")
SYNCED: Final = declare("rebase.synced", "the rebase is on the disk; the namespace is not saved")


@dataclass(frozen=True, slots=True)
class Rebasing:
    """A rebase that is to be. `commits` gives numbers and encodings of those that the namespace lacks, in any
    thread. `follow` applies them to a namespace, one with each step, in the thread that may change it.
    `held`: whether somebody has an inode open; `host`: of this device. `before` is called when the state is
    about to change, `shown` with what was resolved when it has, before anybody else can look at it.
    `becomes`: as of `cache.rebase.Device`; the device is not saved here. `is_aside`: it may hold up calls for
    too long."""

    commits: Callable[[], Sequence[tuple[int, bytes]]]
    follow: Callable[[Namespace], Iterable[object]]
    held: Callable[[int], bool]
    host: bytes
    before: Callable[[], None]
    shown: Callable[[Resolved], None]
    becomes: int | None
    is_aside: bool


class _Made:
    """A rebase that a shadow holds, on commits up to `head`: the answer, its operations encoded with those of
    the tail that it took, and the record that says all of it."""

    def __init__(self, head: Head, resolved: Resolved, shadow: Shadow[Namespace]) -> None:
        self._head = head
        self.resolved = resolved
        self._shadow = shadow
        self._tail = Tail(shadow, resolved.changed)
        self.encoded = [encode(operation) for operation in shadow.checked(resolved.operations)]
        self.record = self._recorded()

    def _recorded(self) -> bytes:
        return _record(self._head, self.encoded, self.resolved)

    def take(self, encoded: Sequence[bytes], written: Collection[int]) -> None:
        """As of `Tail.take`."""
        self._tail.take([decode(each) for each in self._shadow.checked(encoded)], written)
        if encoded:
            self.encoded += encoded
            self.record = self._recorded()


async def rebase(ledger: Ledger, rebasing: Rebasing) -> Resolved:
    """Bring the ledger to the last of the commits. No commit is pending any more, and the operations that
    were resolved are those of the open one. Raises what `Journal.append` raises if the disk has no room for
    the records, and what `follow` raises: nothing has changed then; and what `sync_rebase` raises, when the
    state has changed. Any other error leaves the drive to be opened anew. Is not cancelled once the state has
    changed."""
    making = partial(_spool, rebasing)
    spool = await trio.to_thread.run_sync(making) if rebasing.is_aside else making()
    _make_room(ledger, spool)
    resolved: Resolved | None = None
    if rebasing.is_aside:
        resolved = await _rebase_aside(ledger, rebasing, spool, is_still=False)
        resolved = resolved or await _rebase_aside(ledger, rebasing, spool, is_still=True)
    if resolved is None:
        _make_room(ledger, spool)  # what was accepted meanwhile may have taken that from before
        resolved = _rebase_at_once(ledger, rebasing, spool)
    await sync_rebase(ledger)
    return resolved


async def sync_rebase(ledger: Ledger) -> None:
    """Have the disk hold the journal's record of a rebase that the namespace has; the namespace may be saved
    from then on. Raises what `Journal.sync` raises, and is to be called again then. Is not cancelled."""
    synced = ledger.rebase_synced
    if synced is None:
        return
    # Whoever is cancelled here would leave a namespace that nobody saves, and doors that nobody tells.
    with trio.CancelScope(shield=True), suppress(JournalLostError):  # the next start begins with the log
        await ledger.journal.sync()
    ledger.failpoints.reached(SYNCED)
    ledger.rebase_synced = None
    synced.set()


async def show_published(ledger: Ledger, rebasing: Rebasing) -> Resolved:
    """As `rebase`, where nothing waits to be published and nobody writes: nothing is journaled."""
    assert not ledger.unpublished
    rebasing.before()
    resolved = _take_up(ledger, rebasing)
    rebasing.shown(resolved)
    ledger.save()
    await trio.lowlevel.checkpoint()
    return resolved


def _spool(rebasing: Rebasing) -> Spool:
    return [payload for number, commit in rebasing.commits() for payload in encode_followed(number, commit)]


def _rebase_at_once(ledger: Ledger, rebasing: Rebasing, spool: Spool) -> Resolved:
    rebasing.before()
    resolved = _take_up(ledger, rebasing)
    try:
        _go_on(ledger, resolved, spool)
    except BaseException:
        ledger.fail_diverged()
        raise
    rebasing.shown(resolved)
    return resolved


async def _rebase_aside(
    ledger: Ledger, rebasing: Rebasing, spool: Spool, *, is_still: bool
) -> Resolved | None:
    """As `rebase`, with calls that go on meanwhile, and changes unless `is_still`. None: there was something
    in the way, and nothing has changed."""
    shadow, accepted = _shadow(ledger), _Accepted(ledger)
    if shadow is None:
        return None
    held = _Answers(rebasing.held, shadow.check)
    device = Device(ledger.dirty.inodes(), held, rebasing.host, rebasing.becomes)
    try:
        with ledger.standing.aside(is_still=is_still):
            making = partial(_make, shadow, rebasing, device)
            made = await trio.to_thread.run_sync(partial(shadow.run, making))
            ledger.failpoints.reached(ASIDE)
            await _catch_up(ledger, shadow, made, accepted)
            shadow.run(partial(made.take, *accepted.take()))
            if not held.still_hold() or not ledger.namespace.is_apart(shadow):
                return None
            _take_place(ledger, rebasing, spool, shadow, made)
            return made.resolved
    except (DisplacedError, OvertakenError) as error:
        log.debug("a rebase is made anew: %s", error)
        return None
    finally:
        shadow.give_way()


async def _catch_up(ledger: Ledger, shadow: Shadow[Namespace], made: _Made, accepted: _Accepted) -> None:
    """Have the shadow take the tail, but for the last short one. Changes that come as fast as that wait at
    last: what is left is done in the turn in which the shadow takes the place, and holds up all calls."""
    for left in reversed(range(ROUNDS + 1)):
        if accepted.count <= FEW_CHANGES:
            return
        ledger.standing.is_still |= not left
        taking = partial(made.take, *accepted.take())
        await trio.to_thread.run_sync(partial(shadow.run, taking))


class _Accepted:
    """What the ledger accepts from now on."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._operations = ledger.operations
        self._taken, self._written = len(ledger.operations), ledger.dirty.inodes()

    @property
    def count(self) -> int:
        """Changes that were not taken yet."""
        return len(self._operations) - self._taken + len(self._new())

    def _new(self) -> set[int]:
        return self._ledger.dirty.inodes() - self._written

    def take(self) -> tuple[list[bytes], set[int]]:
        """The operations, encoded, and the inodes that were written since the last call, and not before.
        `OvertakenError`: a commit was cut, or taken back."""
        if self._ledger.operations is not self._operations:
            raise OvertakenError("a commit was cut")
        operations, written = self._operations[self._taken :], self._new()
        self._taken += len(operations)
        self._written |= written
        return operations, written


def _shadow(ledger: Ledger) -> Shadow[Namespace] | None:
    """One of the present state. None: it cannot be made now, as where the disk is full."""
    try:
        ledger.save()
        return ledger.namespace.shadow(NUMBERS)
    except (DriveError, FileSystemError):
        return None


class _Answers:
    """Answers of whether somebody has an inode open, remembered: for a thread. `check` raises if nobody needs
    them any more."""

    def __init__(self, held: Callable[[int], bool], check: Callable[[], None]) -> None:
        self._held = held
        self._check = check
        self._given: dict[int, bool] = {}

    def __call__(self, inode: int) -> bool:
        self._check()
        return self._given.setdefault(inode, self._held(inode))

    def still_hold(self) -> bool:
        return all(self._held(inode) == given for inode, given in self._given.items())


def _make(shadow: Shadow[Namespace], rebasing: Rebasing, device: Device) -> _Made:
    """Make the rebase on the shadow."""
    namespace = shadow.namespace

    def follow() -> None:
        for _ in shadow.checked(rebasing.follow(namespace)):
            continue

    resolved = take_up(namespace, follow, device)
    head = namespace.head()
    for operation in shadow.checked(resolved.operations):
        namespace.apply(operation)
    return _Made(head, resolved, shadow)


def _take_place(
    ledger: Ledger,
    rebasing: Rebasing,
    spool: Spool,
    shadow: Shadow[Namespace],
    made: _Made,
) -> None:
    """Journal the rebase, and let the shadow take the namespace's place."""
    lengths = [*(sum(map(len, payload)) for payload in spool), len(made.record)]
    ledger.journal.make_room(lengths, ledger.namespace.commit)
    rebasing.before()
    try:
        position = _journal(ledger, spool, made.record)
        ledger.namespace.take_place(shadow)
        ledger.dirty.rebase(made.resolved.moved)
        ledger.take_rebased(made.encoded, position)
    except BaseException:
        ledger.fail_diverged()
        raise
    rebasing.shown(made.resolved)


def _make_room(ledger: Ledger, spool: Spool) -> None:
    """Have room in the journal for these commits and a rebase on them, or raise; as of `rebase`."""
    lengths = [sum(map(len, payload)) for payload in spool]
    ledger.journal.make_room([*lengths, _likely_size(ledger)], ledger.namespace.commit)


def _likely_size(ledger: Ledger) -> int:
    """Bytes of a record that says what is not published, and perhaps some copies."""
    pending = [] if ledger.pending is None else ledger.pending.all_operations()
    return min(2 * (ledger.operation_bytes + sum(map(len, pending))) + LEAST_ROOM, MAX_REBASED)


def _take_up(ledger: Ledger, rebasing: Rebasing) -> Resolved:
    """Bring the namespace to the published state, or leave it as it is."""
    savepoint = ledger.namespace.savepoint()

    def follow() -> None:
        for _ in rebasing.follow(ledger.namespace):
            continue

    try:
        device = Device(ledger.dirty.inodes(), rebasing.held, rebasing.host, rebasing.becomes)
        resolved = take_up(ledger.namespace, follow, device)
        ledger.failpoints.reached(FOLLOWED)
    except BaseException:
        ledger.roll_back(savepoint)
        raise
    return resolved


def _record(head: Head, encoded: Sequence[bytes], resolved: Resolved) -> bytes:
    """The REBASED record of these operations."""
    return encode_rebased(Rebased(head.number, head.hash, tuple(encoded), resolved.moved))


def _journal(ledger: Ledger, spool: Spool, record: bytes) -> int:
    """Journal the commits and the rebase on them; the position of the latter."""
    for payload in spool:
        ledger.journal.append(RecordType.FOLLOWED, payload, ledger.namespace.commit)
    ledger.failpoints.reached(SPOOLED)
    position = ledger.journal.append(RecordType.REBASED, (record,), ledger.namespace.commit)
    ledger.failpoints.reached(JOURNALED)
    return position


def _go_on(ledger: Ledger, resolved: Resolved, spool: Spool) -> None:
    """Journal the commits and what was resolved, and apply that."""
    encoded = [encode(operation) for operation in resolved.operations]
    position = _journal(ledger, spool, _record(ledger.head, encoded, resolved))
    for operation in resolved.operations:
        ledger.namespace.apply(operation)
    ledger.dirty.rebase(resolved.moved)
    ledger.take_rebased(encoded, position)

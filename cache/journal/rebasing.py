"""Rebasing: what was accepted and is not published goes on from a newer published state.

Invariants:
1. Between taking back what is unpublished and having the new operations applied nothing else is accepted,
   saved or awaited. A large rebase is made on a shadow of the namespace, in a thread: the namespace shows the
   state from before until the shadow takes its place. Changes wait. If one was accepted all the same, or a
   file opened that mattered, the shadow is dropped and the rebase made anew, without a pause.
2. A REBASED record says all of it: the published state, the operations that take the place of all that was
   not published, and where dirty content went. A kill before it is as if nothing had begun; a kill after it
   goes on from it. FOLLOWED records before it have the commits up to that state, so nobody need be asked for
   them: who is offline goes on, too.
3. The namespace is not saved before the record is synced: it would be ahead of a journal that lost it, and
   what was unpublished could not be found again.

Event-loop thread only.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
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
from cache.namespace import DisplacedError, Namespace, Shadow, encode
from cache.rebase import Device, Resolved, take_up

Spool = Sequence[tuple[bytes, Buffer]]
"""The payloads of FOLLOWED records."""
LEAST_ROOM: Final = 4096
"""Bytes, for a rebase of little."""

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


@dataclass(frozen=True, slots=True)
class _Made:
    """A rebase that a shadow holds: the answer, its operations encoded, and the record that says it."""

    resolved: Resolved
    encoded: list[bytes]
    record: bytes


async def rebase(ledger: Ledger, rebasing: Rebasing) -> Resolved:
    """Bring the ledger to the last of the commits. No commit is pending any more, and the operations that
    were resolved are those of the open one. Raises what `Journal.append` raises if the disk has no room for
    the records, and what `follow` raises: nothing has changed then; and what `sync_rebase` raises, when the
    state has changed. Any other error leaves the drive to be opened anew. Is not cancelled once the state has
    changed."""
    making = partial(_spool, rebasing)
    spool = await trio.to_thread.run_sync(making) if rebasing.is_aside else making()
    lengths = [sum(map(len, payload)) for payload in spool]
    ledger.journal.make_room([*lengths, _likely_size(ledger)], ledger.namespace.commit)
    resolved = await _rebase_aside(ledger, rebasing, spool) if rebasing.is_aside else None
    if resolved is None:
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


async def _rebase_aside(ledger: Ledger, rebasing: Rebasing, spool: Spool) -> Resolved | None:
    """As `rebase`, with calls that go on meanwhile. None: there was something in the way, and nothing has
    changed."""
    shadow, begun = _shadow(ledger), ledger.journal.end
    if shadow is None:
        return None
    held = _Answers(rebasing.held, shadow.check)
    device = Device(ledger.dirty.inodes(), held, rebasing.host, rebasing.becomes)
    try:
        with ledger.standing.still():
            making = partial(_make, shadow, rebasing, device)
            made = await trio.to_thread.run_sync(partial(shadow.run, making))
            ledger.failpoints.reached(ASIDE)
            is_same = ledger.namespace.is_as_shadowed(shadow) and ledger.journal.end == begun
            if not (is_same and held.still_hold()):
                return None
            _take_place(ledger, rebasing, spool, shadow, made)
            return made.resolved
    except DisplacedError:
        return None
    finally:
        shadow.give_way()


def _shadow(ledger: Ledger) -> Shadow[Namespace] | None:
    """One of the present state. None: it cannot be made now, as where the disk is full."""
    try:
        ledger.save()
        return ledger.namespace.shadow()
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
        for _ in rebasing.follow(namespace):
            shadow.check()

    resolved = take_up(namespace, follow, device)
    head = namespace.head()
    for operation in resolved.operations:
        shadow.check()
        namespace.apply(operation)
    return _Made(resolved, *_recorded(head, resolved))


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


def _recorded(head: Head, resolved: Resolved) -> tuple[list[bytes], bytes]:
    """The operations encoded, and the REBASED record of them."""
    encoded = [encode(operation) for operation in resolved.operations]
    return encoded, encode_rebased(Rebased(head.number, head.hash, tuple(encoded), resolved.moved))


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
    encoded, record = _recorded(ledger.head, resolved)
    position = _journal(ledger, spool, record)
    for operation in resolved.operations:
        ledger.namespace.apply(operation)
    ledger.dirty.rebase(resolved.moved)
    ledger.take_rebased(encoded, position)

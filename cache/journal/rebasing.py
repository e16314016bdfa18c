"""Rebasing: what was accepted and is not published goes on from a newer published state.

Invariants:
1. Between taking back what is unpublished and having the new operations applied nothing else is accepted,
   saved or awaited.
2. A REBASED record says all of it: the published state, the operations that take the place of all that was
   not published, and where dirty content went. A kill before it is as if nothing had begun; a kill after it
   goes on from it. FOLLOWED records before it have the commits up to that state, so nobody need be asked for
   them: who is offline goes on, too.
3. The namespace is not saved before the record is synced: it would be ahead of a journal that lost it, and
   what was unpublished could not be found again.

Event-loop thread only.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Final

import trio

from backend.buffer import Buffer
from backend.failpoints import declare
from cache.errors import JournalLostError
from cache.journal.format import MAX_REBASED, Rebased, RecordType, encode_followed, encode_rebased
from cache.journal.ledger import Ledger
from cache.namespace import encode
from cache.rebase import Device, Resolved, take_up

LEAST_ROOM: Final = 4096
"""Bytes, for a rebase of little."""

FOLLOWED: Final = declare(
    "rebase.followed",
    "the namespace has others' commits and not our changes; the journal knows nothing of it",
)
SPOOLED: Final = declare(
    "rebase.spooled", "the journal has others' commits and no rebase on them; the namespace is of them"
)
JOURNALED: Final = declare("rebase.journaled", "the journal has the rebase, perhaps not on the disk")
SYNCED: Final = declare("rebase.synced", "the rebase is on the disk; the namespace is not saved")


async def rebase(
    ledger: Ledger,
    commits: Sequence[tuple[int, bytes]],
    follow: Callable[[], None],
    held: Callable[[int], bool],
    host: bytes,
    shown: Callable[[Resolved], None],
    becomes: int | None = None,
) -> Resolved:
    """Bring the ledger to the last of these commits (numbers and encodings), which `follow` applies. No
    commit is pending any more, and the operations that were resolved are those of the open one. `shown` is
    told of them when the new state is there, before anybody else can look at it. `becomes`: as of
    `cache.rebase.Device`; the device is not saved here. Raises what `Journal.append`
    raises if the disk has no room for the records, and what `follow` raises: nothing has changed then. Any
    other error leaves the drive to be opened anew. Is not cancelled."""
    spool = [payload for number, commit in commits for payload in encode_followed(number, commit)]
    lengths = [sum(map(len, payload)) for payload in spool]
    ledger.journal.make_room([*lengths, _likely_size(ledger)], ledger.namespace.commit)
    resolved = _take_up(ledger, follow, Device(ledger.dirty.inodes(), held, host, becomes))
    try:
        _go_on(ledger, resolved, spool)
    except BaseException:
        ledger.fail_diverged()
        raise
    shown(resolved)
    # Whoever is cancelled here would leave a namespace that nobody saves, and doors that nobody tells.
    with trio.CancelScope(shield=True), suppress(JournalLostError):  # the next start begins with the log
        await ledger.journal.sync()
    ledger.failpoints.reached(SYNCED)
    ledger.is_rebase_unsynced = False
    return resolved


def _likely_size(ledger: Ledger) -> int:
    """Bytes of a record that says what is not published, and perhaps some copies."""
    pending = [] if ledger.pending is None else ledger.pending.all_operations()
    return min(2 * (ledger.operation_bytes + sum(map(len, pending))) + LEAST_ROOM, MAX_REBASED)


def _take_up(ledger: Ledger, follow: Callable[[], None], device: Device) -> Resolved:
    """Bring the namespace to the published state, or leave it as it is."""
    savepoint = ledger.namespace.savepoint()
    try:
        resolved = take_up(ledger.namespace, follow, device)
        ledger.failpoints.reached(FOLLOWED)
    except BaseException:
        ledger.roll_back(savepoint)
        raise
    return resolved


def _go_on(ledger: Ledger, resolved: Resolved, spool: Sequence[tuple[bytes, Buffer]]) -> None:
    """Journal the commits and what was resolved, and apply that."""
    encoded, head = [encode(operation) for operation in resolved.operations], ledger.head
    record = encode_rebased(Rebased(head.number, head.hash, tuple(encoded), resolved.moved))
    for payload in spool:
        ledger.journal.append(RecordType.FOLLOWED, payload, ledger.namespace.commit)
    ledger.failpoints.reached(SPOOLED)
    position = ledger.journal.append(RecordType.REBASED, (record,), ledger.namespace.commit)
    ledger.failpoints.reached(JOURNALED)
    for operation in resolved.operations:
        ledger.namespace.apply(operation)
    ledger.dirty.rebase(resolved.moved)
    ledger.take_rebased(encoded, position)

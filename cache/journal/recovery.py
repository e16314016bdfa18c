"""Recovery: the journal of an earlier process, brought into namespace and ledger.

The steps: `JournalRecovery` reads the journal; its owner asks what is unfinished, and may take back what
cannot go on as it was; `replay` brings the namespace up to the journal's end, finds the pending commit, and
begins.

Live calls and replay go through the same methods of `Namespace`, `DirtyFiles` and `Ledger`. Event-loop thread
only.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

from backend.errors import CorruptError
from cache.journal.format import RecordType, encode_given_up, encode_uncut
from cache.journal.ledger import Ledger
from cache.journal.pieces import Data
from cache.journal.scan import Event, PendingCommit, Scan, scan
from cache.namespace import Operation, decode, encode

log = logging.getLogger(__name__)


def _nobody_follows(_commit: bytes) -> None:
    """Of a state that is only looked at."""
    raise CorruptError("the journal stands on commits of other devices that the namespace does not hold")


class JournalRecovery:
    """See the module. Reads the journal of `ledger`."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._journal, self._namespace = ledger.journal, ledger.namespace
        self._scanned = Scan({}, {})
        self._take(self._scan())

    def _scan(self, void: int | None = None, uncut: tuple[int, int, int] | None = None) -> Scan:
        return scan(self._journal, void, uncut, published=self._ledger.head.number)

    def _take(self, scanned: Scan) -> None:
        self._scanned, self._ledger.dirty = scanned, scanned.dirty

    @property
    def contradicts_the_log(self) -> bool:
        """Whether the journal lost what a published commit stands on, which no power cut can do: then what
        it says of dirty files may be older than what is published. Until `replay`."""
        is_short = self._scanned.lost is not None or bool(self._journal.problems)
        reached = max(self._scanned.commit, self._journal.open_commit)
        return is_short and reached <= self._ledger.head.number

    def unfinished(self) -> list[PendingCommit]:
        """The commits that the scan found and that the journal does not say are published, oldest first."""
        return self._scanned.unfinished()

    @property
    def is_rebased(self) -> bool:
        """Whether the namespace on the disk does not know of the journal's newest rebase. Until `replay`."""
        rebased = self._scanned.rebased
        return rebased is not None and self._namespace.journal_position() <= rebased[0]

    @property
    def has_followed(self) -> bool:
        """Whether the journal has all commits between what the namespace says is published and the newest
        rebase, so that `replay` brings them. Until `replay`."""
        scanned, published = self._scanned, self._ledger.head.number
        kinds = (RecordType.FOLLOWED, RecordType.PUBLISHED)
        there = {event.commit for event in scanned.events if event.kind in kinds}
        return scanned.rebased is not None and there.issuperset(range(published + 1, scanned.rebased[1] + 1))

    @property
    def base(self) -> int | None:
        """The published commit on which all is that the journal does not say is published; None: there is
        nothing. Until `replay`."""
        return min((each.number - 1 for each in self.unfinished()), default=None)

    def forget_unpublished(self) -> None:
        """The namespace has nothing but what is published; `replay` brings the rest. What is in the way of
        `is_rebased` before it."""
        self._namespace.undo(self._ledger.head.number)

    def may_be(self, unfinished: PendingCommit, published: list[bytes]) -> bool:
        """Whether a published commit of these operations can be the unfinished one. If its cut was read, its
        first segments may be gone already. Until `replay`."""
        ours = unfinished.all_operations()
        if unfinished.number < self._scanned.commit:
            published = published[max(len(published) - len(ours), 0) :]
        return published == ours

    def take_back_extents(self, number: int) -> None:
        """Blocks that the unfinished commit's content was stored in are gone: it is dirty again, and stored
        anew from the journal, which has all of it (`cache.journal.trimming`). Before `replay`."""
        self._take(self._scan(self._scanned.void_from(number)))

    def unsealed(self) -> tuple[int, list[Data]]:
        """The number of the commit that was cut and that the journal does not say is published (0: none), and
        the bytes of its content that are not in blocks. Before `replay`."""
        cut = self._scanned.pending_cut()
        pieces = [piece for _, layer in self._ledger.dirty.frozen() for piece in layer.pieces]
        return (0 if cut is None else cut[0]), [piece for piece in pieces if isinstance(piece, Data)]

    def has_extents(self, number: int) -> bool:
        """Whether content of that unfinished commit is in blocks. Before `replay`."""
        return self._scanned.void_from(number) is not None

    def take_back_cut(self) -> None:
        """The unpublished commit was not cut: a later cut leaves out what cannot be read. Before `replay`;
        upstream must not have the commit."""
        cut = self._scanned.pending_cut()
        assert cut is not None
        self._take(self._scan(self._scanned.void, cut))

    def replay(self, follow: Callable[[bytes], None] = _nobody_follows) -> None:
        """Bring the namespace up to the journal's end, find the pending commit, and begin. `follow` applies
        an encoded commit of others, the next one."""
        self._replay_events(follow)
        self._finish_replay()

    def look(self) -> list[Operation]:
        """Bring the namespace up to the journal's end, of a state that nobody goes on with; what it says that
        is not known to be published. `CorruptError`: the journal does not fit it."""
        self._replay_events(_nobody_follows)
        pending = [] if self._ledger.pending is None else self._ledger.pending.all_operations()
        return [decode(encoded) for encoded in [*pending, *self._ledger.operations]]

    def _replay_events(self, follow: Callable[[bytes], None]) -> None:
        position, published = self._namespace.journal_position(), self._ledger.head.number
        if self.is_rebased:
            position = 0
        elif self._has_taken_back(position):
            position = 0
            self._namespace.undo(published)
        elif self._is_ahead(position):
            # The database outlived the journal's tail (a power cut): back to what is published.
            log.warning(
                "the journal ends before the namespace's state: taking back to the last published commit"
            )
            position = 0
            self._namespace.undo(published)
        self._ledger.positions.published = self._journal.begin
        for event in self._scanned.events:
            if event.commit > published and event.kind is RecordType.FOLLOWED:
                pieces = [self._journal.read_at(at, length) for at, length in event.content]
                follow(b"".join(pieces))
            elif event.commit > published:
                self._replay_event(event, event.position >= position)
            elif event.kind is RecordType.CUT:
                self._ledger.positions.published = event.content.oldest

    def _has_taken_back(self, position: int) -> bool:
        """Whether the namespace, as of `position`, holds a cut that was taken back since."""
        scanned = self._scanned
        taken_back = [(uncut.begin, uncut.noted) for uncut in scanned.told_uncut]
        if scanned.uncut is not None:
            taken_back.append((scanned.uncut[1], self._journal.end))
        return any(begin < position <= noted for begin, noted in taken_back)

    def _is_ahead(self, position: int) -> bool:
        """Whether the namespace, as of `position`, holds what the journal lost, or was given up: now, or by a
        process that did not come to write the namespace down after it."""
        scanned = self._scanned
        given_up = [*scanned.told.items(), *scanned.told_void.items()]
        given_up += [
            (begin, self._journal.end) for begin in (scanned.lost, scanned.void) if begin is not None
        ]
        inside = any(begin < position <= end for begin, end in given_up)
        return inside or not self._journal.reaches(position)

    def _replay_event(self, event: Event, apply: bool) -> None:
        namespace, content = self._namespace, event.content
        if event.kind is RecordType.OPERATION:
            self._ledger.remember(encode(content))
            if apply:
                namespace.apply(content)
        elif event.kind is RecordType.CUT:
            self._ledger.hand_over(content)
            if apply:
                namespace.begin_commit(event.commit + 1)
        elif event.kind is RecordType.EXTENTS:
            self._ledger.add_extents(encode(content))
            if apply:
                namespace.apply(content, commit=event.commit)
        elif event.kind is RecordType.PUBLISHED:
            self._ledger.forget_pending()
            if apply:
                time_ns, commit_hash = content
                namespace.record_commit(event.commit, commit_hash, time_ns, namespace.device)

    def _finish_replay(self) -> None:
        published, scanned = self._ledger.head.number, self._scanned
        self._scanned = Scan({}, {})
        pending = self._ledger.pending
        if pending is None or pending.number <= published:
            self._ledger.forget_pending()
            self._ledger.thaw_all()
        if self._namespace.commit <= published:
            self._namespace.begin_commit(published + 1)
        self._journal.pass_by(self._namespace.journal_position())
        self._journal.start(self._namespace.commit)
        self._note_decisions(scanned)
        self._namespace.save(self._journal.end)

    def _note_decisions(self, scanned: Scan) -> None:
        """Journal the decisions of the scan, so that later processes make the same."""
        journal, commit = self._journal, self._namespace.commit
        if scanned.lost is not None:
            journal.append(RecordType.GIVEN_UP, (encode_given_up(scanned.lost),), commit)
        if scanned.void is not None:
            journal.append(RecordType.VOID, (encode_given_up(scanned.void),), commit)
        if scanned.uncut is not None:
            journal.append(RecordType.UNCUT, (encode_uncut(*scanned.uncut[1:]),), commit)

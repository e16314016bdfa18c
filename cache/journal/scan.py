"""The scan of a journal from its beginning: dirty files, and the events that change the namespace.

A power cut may take the bytes of a record that are in a bulk file and leave the record. Nobody was told
that such a write is durable. The accepted prefix ends at the first such record that a dirty file still
needs (I7). All that follows is given up, except records that only say that earlier commits are stored and
published. Giving up records may bring back older bytes, where the extents that replaced them are given up.
So it is repeated until all bytes that are needed are there. Records are only ever appended; a GIVEN_UP
record keeps the decision.

A pending commit may name blocks in its EXTENTS that are gone when it is taken up again, as another mount
may have had no use for them. Then all its EXTENTS are void, which a VOID record keeps, and its content is
dirty again.

A pending commit may have content that is in no block and cannot be read when it is taken up again. Then its
cut counts as not made, which an UNCUT record keeps. The commit is open as before, and the next cut leaves
that content out.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from cache.journal.dirty import DirtyFiles, Layer
from cache.journal.format import (
    CONTENT_HEADER,
    FOLLOWED_HEADER,
    RECORD_HEADER_SIZE,
    Bulk,
    Rebased,
    RecordType,
    decode_batch,
    decode_bulk,
    decode_cut,
    decode_extents,
    decode_followed,
    decode_given_up,
    decode_published,
    decode_rebased,
    decode_times,
    decode_uncut,
)
from cache.journal.journal import Journal
from cache.journal.replay import Record
from cache.namespace import SetExtents, decode, encode

log = logging.getLogger(__name__)

DATA_OFFSET = RECORD_HEADER_SIZE + CONTENT_HEADER.size
"""From a DATA record's position to its bytes."""


@dataclass(slots=True)
class PendingCommit:
    """A commit that was cut and is not published."""

    number: int
    time_ns: int
    position: int
    """journal position of the cut's end: what comes from there on is of later commits"""
    operations: list[bytes]
    inodes: list[int]
    extents: list[bytes] = field(default_factory=list)
    begin: int | None = None
    """position of the first record of the cut, if this process made it"""
    start: int = 0
    """position of the CUT record"""
    oldest: int = 0
    """position of the oldest write that the state at the cut needs and the commit did not take; `position`
    if there is none. Needed until a later commit is published, though the file may be deleted before: that it
    was can be lost with the journal's end"""

    def all_operations(self) -> list[bytes]:
        """The operations of the commit and then its extents, in order."""
        return self.operations + self.extents


@dataclass(frozen=True, slots=True)
class Event:
    """A journal record that changes the namespace."""

    position: int
    kind: RecordType
    commit: int
    content: Any


@dataclass(frozen=True, slots=True)
class Uncut:
    """A cut that did not happen: its records are in [begin, end); that it did not is noted at `noted`. It
    would have been that of `commit`, which is the open one up to there."""

    begin: int
    end: int
    noted: int
    commit: int

    def covers(self, position: int) -> bool:
        """Whether the record there was made when the cut was thought to stand, or belongs to it."""
        return self.begin <= position < self.noted

    def voids(self, position: int, kind: RecordType) -> bool:
        """Whether the record there does not count."""
        is_extents = kind is RecordType.EXTENTS and self.covers(position)
        return is_extents or self.begin <= position < self.end


class Scan:
    """What the records say, without those in a range of `given_up`, without the EXTENTS in one of `void`
    (end by begin, positions), and without the cuts of `uncut`."""

    def __init__(
        self, given_up: Mapping[int, int], void: Mapping[int, int], uncut: Sequence[Uncut] = ()
    ) -> None:
        self.dirty = DirtyFiles()
        self.events: list[Event] = []
        self.commit = 0
        """the commit that is open at the end; 0: there is no record"""
        self.lost: int | None = None
        """from where this process gave up what the journal says; None: nothing"""
        self.told: dict[int, int] = {}
        """the ranges that GIVEN_UP records name"""
        self.told_void: dict[int, int] = {}
        """the ranges that VOID records name"""
        self.void: int | None = None
        """from where this process takes EXTENTS for void; None: nothing"""
        self.told_uncut: list[Uncut] = []
        """the cuts that UNCUT records name"""
        self.uncut: tuple[int, int, int] | None = None
        """the cut that this process takes back, as of `pending_cut`; None: none"""
        self.rebased: tuple[int, int] | None = None
        """position and published commit of the newest REBASED record; None: there is none"""
        self._uncut = uncut
        self._given_up = given_up
        self._void = void
        self._bulk: list[tuple[int, Layer, Bulk]] = []
        self._followed: dict[int, list[tuple[int, int]]] = {}
        """commits of others, by number, that no REBASED record stands on yet: where their pieces lie"""

    def read(self, journal: Journal) -> None:
        """Take all records."""
        for record in journal.replay():
            covering = [uncut.commit for uncut in self._uncut if uncut.covers(record.position)]
            # The header of a segment that was begun while the cut was thought to stand names the next commit.
            stated = min([record.open_commit, *covering])
            self.commit = self.commit or stated
            if record.kind is RecordType.GIVEN_UP:
                self.told[decode_given_up(record.payload)] = record.position
            elif record.kind is RecordType.VOID:
                self.told_void[decode_given_up(record.payload)] = record.position
            elif record.kind is RecordType.UNCUT:
                begin, end = decode_uncut(record.payload)
                self.told_uncut.append(Uncut(begin, end, record.position, record.open_commit))
            elif not self._is_given_up(record):
                if not covering:
                    self.commit = max(self.commit, stated)
                self._take(record.position, record.kind, record.payload)

    def first_lost(self, journal: Journal) -> int | None:
        """Position of the first write whose bytes are needed and are not there."""
        for position, layer, bulk in self._bulk:
            if self.dirty.has(bulk.inode, layer) and not journal.holds(bulk):
                return position
        return None

    def unfinished(self) -> list[PendingCommit]:
        """Commits that the journal does not say are published, oldest first."""
        found: dict[int, PendingCommit] = {}
        for event in self.events:
            if event.kind is RecordType.FOLLOWED:
                continue
            commit = found.setdefault(event.commit, PendingCommit(event.commit, 0, 0, [], []))
            if event.kind is RecordType.OPERATION:
                commit.operations.append(encode(event.content))
            elif event.kind is RecordType.EXTENTS:
                commit.extents.append(encode(event.content))
            elif event.kind is RecordType.PUBLISHED:
                found = {number: left for number, left in found.items() if number > event.commit}
        if self.dirty.tops():
            found.setdefault(self.commit, PendingCommit(self.commit, 0, 0, [], []))
        return list(found.values())

    def void_from(self, commit: int) -> int | None:
        """The position where the EXTENTS of the pending commit of that number begin; None: it has none."""
        positions = (e.position for e in self.events if e.kind is RecordType.EXTENTS and e.commit == commit)
        return next(positions, None)

    def pending_cut(self) -> tuple[int, int, int] | None:
        """Number, begin and end of the cut whose commit the journal does not say is published, if there is
        one: from the first size that it states on."""
        for index in range(len(self.events) - 1, -1, -1):
            event = self.events[index]
            if event.kind in (RecordType.PUBLISHED, RecordType.FOLLOWED):
                return None
            if event.kind is RecordType.CUT:
                first = self.events[index - len(event.content.inodes)]
                return event.commit, first.position, event.content.position
        return None

    def _is_given_up(self, record: Record) -> bool:
        if any(uncut.voids(record.position, record.kind) for uncut in self._uncut):
            return True
        if record.kind is RecordType.EXTENTS and _is_within(record.position, self._void):
            return True
        if not _is_within(record.position, self._given_up):
            return False
        # Of a commit whose cut stands, what became of it stands too.
        if record.kind is RecordType.EXTENTS:
            return decode_extents(record.payload)[0] >= self.commit
        if record.kind is RecordType.PUBLISHED:
            return decode_published(record.payload)[0] >= self.commit
        return True

    def _take(self, position: int, kind: RecordType, payload: memoryview) -> None:
        if kind is RecordType.DATA:
            inode, offset, time_ns = CONTENT_HEADER.unpack_from(payload)
            length = len(payload) - CONTENT_HEADER.size
            self.dirty.write(inode, offset, length, position, position + DATA_OFFSET, time_ns)
        elif kind is RecordType.BULK:
            self._take_bulk(position, decode_bulk(payload))
        elif kind is RecordType.TRUNCATE:
            inode, size, time_ns = CONTENT_HEADER.unpack_from(payload)
            self.dirty.truncate(inode, size, position, time_ns)
        elif kind is RecordType.TIMES:
            self.dirty.set_times(*decode_times(payload))
        elif kind is RecordType.OPERATION:
            self._take_operation(position, payload)
        elif kind is RecordType.BATCH:
            for encoded in decode_batch(payload):
                self._take_operation(position, encoded)
        elif kind is RecordType.CUT:
            self._take_cut(position, payload)
        elif kind is RecordType.EXTENTS:
            self._take_extents(position, payload)
        elif kind is RecordType.FOLLOWED:
            self._take_followed(position, payload)
        elif kind is RecordType.REBASED:
            self._take_rebased(position, decode_rebased(payload))
        else:
            self._take_published(position, payload)

    def _take_bulk(self, position: int, bulk: Bulk) -> None:
        layer = self.dirty.write(bulk.inode, bulk.offset, bulk.length, position, bulk.position, bulk.time_ns)
        self._bulk.append((position, layer, bulk))

    def _take_operation(self, position: int, encoded: bytes | memoryview) -> None:
        operation = decode(encoded)
        self.dirty.observe(operation)
        self.events.append(Event(position, RecordType.OPERATION, self.commit, operation))

    def _take_cut(self, position: int, payload: memoryview) -> None:
        number, time_ns, inodes = decode_cut(payload)
        for inode in inodes:
            self.dirty.freeze(inode)
        end = position + RECORD_HEADER_SIZE + len(payload)
        oldest = self.dirty.oldest_top(end)
        cut = PendingCommit(number, time_ns, end, [], inodes, start=position, oldest=oldest)
        self.events.append(Event(position, RecordType.CUT, number, cut))
        self.commit = number + 1

    def _take_extents(self, position: int, payload: memoryview) -> None:
        number, encoded = decode_extents(payload)
        operation = decode(encoded)
        assert isinstance(operation, SetExtents)
        self.dirty.thaw(operation.inode)
        self.events.append(Event(position, RecordType.EXTENTS, number, operation))

    def _take_followed(self, position: int, payload: memoryview) -> None:
        number, offset, length = decode_followed(payload)
        pieces = self._followed.setdefault(number, [])
        if offset == 0:  # of a rebase that was not finished there may be some
            pieces.clear()
        pieces.append((position + RECORD_HEADER_SIZE + FOLLOWED_HEADER.size, length))

    def _take_rebased(self, position: int, rebased: Rebased) -> None:
        """All that was not published is what it says now."""
        published = [event.commit for event in self.events if event.kind is RecordType.PUBLISHED]
        newest = max(published, default=-1)
        self.events = [
            event for event in self.events if event.commit <= newest or event.kind is RecordType.FOLLOWED
        ]
        for number, pieces in sorted(self._followed.items()):
            if number <= rebased.base:
                self.events.append(Event(position, RecordType.FOLLOWED, number, tuple(pieces)))
        self._followed.clear()
        self.dirty.rebase(rebased.moved)
        self.rebased, self.commit = (position, rebased.base), rebased.base + 1
        for encoded in rebased.operations:
            self.events.append(Event(position, RecordType.OPERATION, self.commit, decode(encoded)))

    def _take_published(self, position: int, payload: memoryview) -> None:
        number, time_ns, commit_hash, _ = decode_published(payload)
        for inode, _ in self.dirty.frozen():
            self.dirty.thaw(inode)
        self.events.append(Event(position, RecordType.PUBLISHED, number, (time_ns, commit_hash)))


def _is_within(position: int, ranges: Mapping[int, int]) -> bool:
    return any(begin <= position < end for begin, end in ranges.items())


def scan(
    journal: Journal,
    void: int | None = None,
    uncut: tuple[int, int, int] | None = None,
    *,
    published: int = 0,
) -> Scan:
    """Read the journal and give up what a power cut left in part. EXTENTS from `void` on do not count, nor
    does the cut `uncut` (as `Scan.pending_cut` gave it): of a journal that was scanned before. `published`:
    as of `Journal.pass_over`. Before `Journal.start`."""
    told: dict[int, int] = {}
    told_void: dict[int, int] = {}
    told_uncut: list[Uncut] = []
    lost: int | None = None
    while True:
        found = Scan(
            told if lost is None else told | {lost: journal.end},
            told_void if void is None else told_void | {void: journal.end},
            told_uncut if uncut is None else [*told_uncut, Uncut(*uncut[1:], journal.end, uncut[0])],
        )
        found.read(journal)
        if journal.pass_over(published):
            continue
        if (found.told, found.told_void, found.told_uncut) != (told, told_void, told_uncut):
            told, told_void, told_uncut = found.told, found.told_void, found.told_uncut
            continue
        first = found.first_lost(journal)
        if first is None:
            found.lost, found.void, found.uncut = lost, void, uncut
            return found
        log.warning("bytes of a write that was not synced are not on the disk: given up what came after it")
        lost = first

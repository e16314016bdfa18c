"""The journal: the append-only record of what has been accepted and is not yet published.

Invariants:
1. Records have consecutive sequence numbers across segments; a position (segment << 32 | offset)
   grows with the sequence.
2. `append` returns after the bytes are in the page cache: a killed process loses nothing of it. What
   reaches the disk, and when: `cache.journal.syncing`.
3. A journal that has failed (`cache.journal.failure`) accepts nothing more. Else a call that failed before
   or at writing accepted nothing, and the next one may succeed.
4. A power cut can take a segment's name, and its number is given again: a salt in the header seeds the
   checksums too, so that old records cannot come back under a new header.

What is read back: `cache.journal.replay`; what may go: `cache.journal.dropping`. `append`, `append_bulk` and
`drop_before` are called on the event-loop thread only; `read_at` by any thread; `sync` and `sync_records` by
any number of tasks.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

from backend.buffer import Buffer
from backend.failpoints import declare
from backend.system import THIS_MACHINE, Environment
from cache.errors import FileTooBigError, InputOutputError
from cache.journal.bulk import BulkFiles
from cache.journal.dropping import Dropping
from cache.journal.failure import Failure
from cache.journal.format import (
    OFFSET_BITS,
    OFFSET_MASK,
    RECORD_HEADER_SIZE,
    SEGMENT_HEADER_SIZE,
    Bulk,
    RecordType,
    SegmentHeader,
    bulk_checksum,
    encode_bulk,
    encode_record_header,
    encode_segment_header,
    largest_payload,
)
from cache.journal.kept_segments import KeptSegments
from cache.journal.needed import find_needed
from cache.journal.reading import Reading
from cache.journal.replay import Record, replay
from cache.journal.salvage import LOST, Loss
from cache.journal.segments import Segment, SegmentFiles, close_all
from cache.journal.syncing import Syncing

SEGMENT_SIZE = 64 << 20

log = logging.getLogger(__name__)

APPENDED = declare("journal.appended", "a record is in the page cache; nothing was applied yet")


def _tell_nobody(_path: str) -> None:
    """Of a journal that nobody watches over."""


class Journal:
    """See the module. `folder` is the journal's own; it is created if missing. `on_nameless` is called with
    the name of a file that was found to have lost it."""

    def __init__(
        self,
        folder: Path,
        segment_size: int = SEGMENT_SIZE,
        on_nameless: Callable[[str], None] = _tell_nobody,
        environment: Environment = THIS_MACHINE,
    ) -> None:
        self._folder = folder
        self.environment: Final = environment
        self._disk, self._failpoints = environment.disk, environment.failpoints
        self.segment_size = segment_size
        """of segments that are begun from now on"""
        self._kept = KeptSegments()
        self._files = SegmentFiles(folder, environment)
        self._bulk = BulkFiles(folder, environment)
        self._failure = Failure(folder)
        self._begin: int | None = None
        """the position from which on it is read, 0: all of it; None: likewise, and nothing else was tried"""
        self._reached = 0
        """where the first replay ended, if what follows is passed over"""
        self._lost: list[Loss] = []
        """what replay could not use, and `start` has not kept aside yet"""
        self.losses: list[str] = []
        """for people: what `start` has kept aside"""
        self._has_refused = False
        """whether something of a refused record may be behind the last one"""
        self._on_nameless = on_nameless
        self._syncing = Syncing(folder, self._kept, self._bulk, self._failure, on_nameless, environment)
        self._dropping = Dropping(self._kept, self._files, self._bulk, self._syncing.lock, environment)
        self._reading = Reading(folder, self._kept, self._bulk)
        self._disk.make_folders(str(folder))

    # Reading what an earlier process left

    def replay(self) -> Iterator[Record]:
        """All records from the oldest kept segment to the end of the valid prefix. To be run to
        its end before `start`; it may be run again."""
        self.close()
        self._lost[:] = [self._passed_over()] if self.begin else []
        self._kept.open_commit = 0
        return replay(
            self._folder, self._files, self._bulk, self._kept, self._lost, self.begin, self.environment
        )

    @property
    def begin(self) -> int:
        """The position from which on it was read; 0: all of it."""
        return self._begin or 0

    def pass_over(self, published: int) -> bool:
        """Whether to replay once more, as the last replay met what cannot be read. It may be passed over if
        nobody needs it since a commit that is published, by `published` at the latest, and all that comes
        after it can be read."""
        if not self.problems or self._begin == 0:
            return False
        if self._begin is not None:
            self._begin = 0
            return True
        self._reached, needed = self._kept.end, find_needed(self._files, published)
        self._begin = needed if needed > self._reached else 0
        return self._begin > 0

    def _passed_over(self) -> Loss:
        reached = self._place(self._reached) if self._reached else "its beginning"
        needed = self._place(self.begin)
        why = f"the journal cannot be read from {reached} on; all that it says up to {needed} is stored"
        return Loss(why, None, harmless=True)

    def _place(self, position: int) -> str:
        """For people."""
        return f"{self._files.path_of(position >> OFFSET_BITS)}, byte {position & OFFSET_MASK}"

    @property
    def open_commit(self) -> int:
        """The commit that was open when the newest segment was begun that was read; 0 if there is none. Until
        `start`."""
        return self._kept.open_commit

    @property
    def problems(self) -> list[str]:
        """For people: what replay could not use though it was on the disk once. Until `start`."""
        return [loss.why for loss in self._lost if not loss.harmless]

    def holds(self, bulk: Bulk) -> bool:
        """Whether the bytes that a BULK record refers to are there."""
        return self._bulk.holds(bulk)

    def pass_by(self, position: int) -> None:
        """No file that is made from now on has the number of that position, or a lower one."""
        self._kept.pass_by(position >> OFFSET_BITS)

    def start(self, open_commit: int) -> None:
        """Begin appending, after `replay`. What it could not use is kept aside, and the torn tail of the last
        segment is cut off for good."""
        self._keep_lost_aside()
        if (self._folder / LOST).is_dir():
            self._bulk.set_unreferred_aside()
        if self._kept.in_order:
            last = self._kept.in_order[-1]
            self._disk.write(last.descriptor, [bytes(RECORD_HEADER_SIZE)], last.end)
            self._disk.sync_data(last.descriptor)
            # A process that was killed may have left them in the page cache only.
            self._kept.unsynced.update(segment.number for segment in self._kept.in_order)
        self.begin_segment(open_commit)

    def _keep_lost_aside(self) -> None:
        while self._lost:
            loss = self._lost[0]
            self.losses.append(loss.settle())
            log.log(logging.INFO if loss.harmless else logging.ERROR, "%s", self.losses[-1])
            self._lost.pop(0)

    # Appending

    @property
    def end(self) -> int:
        """The position of the next record; 0 if there is no segment at all."""
        return self._kept.end

    def reaches(self, position: int) -> bool:
        """Whether records were read up to `position`, or it is before all that is kept. Not if it lies behind
        the torn end of a segment, also where a later process went on in another one. Before `start`."""
        return self._kept.reaches(position)

    @property
    def used_bytes(self) -> int:
        """Bytes that the kept records take, in whole segments but for the last."""
        return self._kept.used_bytes + self._bulk.used_bytes if self._kept.in_order else 0

    @property
    def record_bytes(self) -> int:
        """Bytes of the kept records themselves, without the room that segments have beyond them."""
        return self._kept.record_bytes + self._bulk.used_bytes

    def bytes_before(self, position: int) -> int:
        """Bytes that `drop_before` would let go of."""
        return self._kept.bytes_before(position) + self._bulk.bytes_before(position)

    def append(self, kind: RecordType, parts: tuple[Buffer, ...], open_commit: int) -> int:
        """Append one record of at most `largest_payload` bytes; its position. `NoSpaceLeftError`: nothing
        was appended. `InputOutputError`: the journal has failed, now or before. `open_commit` is
        kept in the header if this begins a segment."""
        if self._failure.for_good is not None:
            raise InputOutputError(self._failure.for_good)
        length = sum(map(len, parts))
        if length > largest_payload(kind):  # replay would take it for the journal's end
            raise FileTooBigError(f"a journal record of {length} bytes is over the limit")
        kept = self._kept
        segment = self._segment_for(RECORD_HEADER_SIZE + length, open_commit)
        header = encode_record_header(segment.seed, kind, kept.next_sequence, parts, length)
        offset = segment.end
        segment.written = max(segment.written, offset + RECORD_HEADER_SIZE + length)
        try:
            self._disk.write(segment.descriptor, (header, *parts), offset)
            self._failpoints.reached(APPENDED)
        except OSError as error:
            self._has_refused = True
            with suppress(OSError):
                self._erase_refused()
            raise self._failure.refused(error) from error
        self._has_refused = False
        segment.end = offset + RECORD_HEADER_SIZE + length
        segment.size = max(segment.size, segment.end)
        kept.next_sequence += 1
        kept.unsynced.add(segment.number)
        return segment.number << OFFSET_BITS | offset

    def make_room(self, lengths: Sequence[int], open_commit: int) -> None:
        """Have room for records of so many bytes, in one segment: no disk is too full for them then, if
        nothing is appended before. Raises what `append` raises."""
        needed = sum(RECORD_HEADER_SIZE + length for length in lengths)
        segment = self._segment_for(needed, open_commit)
        size = segment.end + needed
        if size > segment.size:
            try:
                self._disk.preallocate(segment.descriptor, size)
            except OSError as error:
                raise self._failure.refused(error) from error
            segment.size = size

    def _segment_for(self, needed: int, open_commit: int) -> Segment:
        """The last segment, if it has room for so many bytes or nothing is in it; else a new one."""
        segment = self._kept.in_order[-1]
        if segment.end + needed > segment.size and segment.end > SEGMENT_HEADER_SIZE:
            return self.begin_segment(open_commit)
        return segment

    def _erase_refused(self) -> None:
        """A refused record may be whole all the same, if what was not written of it was there: zeros."""
        last = self._kept.in_order[-1]
        self._disk.write(last.descriptor, [bytes(RECORD_HEADER_SIZE)], last.end)
        self._has_refused = False

    def append_bulk(
        self, inode: int, offset: int, time_ns: int, data: Buffer, open_commit: int
    ) -> tuple[int, int]:
        """Append a large write, its bytes beside the record: the positions of both. Raises what `append`
        raises; nothing was appended then."""
        if self._failure.for_good is not None:
            raise InputOutputError(self._failure.for_good)
        try:
            position = self._append_bytes(data)
        except OSError as error:
            raise self._failure.refused(error) from error
        bulk = Bulk(inode, offset, time_ns, position, len(data), bulk_checksum(position, data))
        try:
            record = self.append(RecordType.BULK, (encode_bulk(bulk),), open_commit)
        except BaseException:
            self._bulk.take_back(position)
            raise
        self._bulk.refer(position, record)
        return record, position

    def _append_bytes(self, data: Buffer) -> int:
        try:
            return self._bulk.append(data, self.segment_size, self._kept.new_number)
        except (FileNotFoundError, NotADirectoryError):
            if self._syncing.nameless or not self._find_out():
                raise
        return self._bulk.append(data, self.segment_size, self._kept.new_number)

    def _find_out(self) -> bool:
        """The folder is not there: whether the journal goes on without names now."""
        self._on_nameless(str(self._folder))
        return self._syncing.nameless

    def fail(self, problem: str) -> InputOutputError:
        """Accept nothing more, for ever; what to raise."""
        return self._failure.fail(problem)

    def begin_segment(self, open_commit: int) -> Segment:
        """Begin a new segment, which says that this commit is open. Raises what
        `append` raises."""
        number = self._kept.new_number()
        path = self._files.path_of(number)
        salt = int.from_bytes(self.environment.random_bytes(4))
        header = SegmentHeader(number, self._kept.next_sequence, open_commit, salt)
        try:
            if self._has_refused:
                self._erase_refused()  # else it would come before the new segment, in whose place it is
            descriptor, size, ready = self._files.allocate(
                path, encode_segment_header(header), self.segment_size
            )
        except (FileNotFoundError, NotADirectoryError) as error:
            if self._syncing.nameless or not self._find_out():
                raise self._failure.refused(error) from error
            return self._kept.in_order[-1]
        except OSError as error:
            raise self._failure.refused(error) from error
        start = SEGMENT_HEADER_SIZE
        segment = Segment(number, header.seed, path, descriptor, start, size, start, ready)
        self._kept.add(segment)
        self._kept.unsynced.add(number)
        return segment

    # Names

    def named_files(self) -> list[tuple[str, int]]:
        """The files that the next start has to find by name: names and descriptors."""
        return [(each.path, each.descriptor) for each in self._kept.in_order] + self._bulk.named()

    def lose_names(self, open_commit: int) -> None:
        """The files are not where the next start looks for them, so nothing in them is durable any more. What
        is accepted from now on goes into files without a name."""
        self._syncing.nameless = self._files.nameless = self._bulk.nameless = True
        self.begin_segment(open_commit)
        self._bulk.leave()

    # Durability

    async def sync(self, *, alone: bool = False) -> None:
        """Everything appended before the call is on the disk when this returns. `InputOutputError` if it
        is not: for ever after if an fsync failed; if it could not begin, the next call may succeed.
        `JournalLostError`: it is, in files that nobody will find. `alone`: nobody but the caller needs the
        event loop just now; a quick disk may be waited for there."""
        await self._syncing.sync(alone)

    async def sync_records(self, first: int, last: int) -> None:
        """Every record appended before the call is on the disk when this returns. So are the bytes in bulk
        files that records in [first, last) refer to. `InputOutputError` as `sync`. A journal whose files have
        lost their names does nothing here: the next start finds no journal, and begins with the log."""
        await self._syncing.sync_records(first, last)

    # Reading back and letting go

    def read_at(self, position: int, length: int) -> bytes:
        """`length` bytes at `position` (inside a payload, not at its header). Any thread.
        `InputOutputError` if they cannot be had."""
        return self._reading.read_at(position, length)

    def read_at_once(self, position: int, length: int) -> memoryview | None:
        """The same, if the disk need not be waited for; else None. Event-loop thread."""
        return self._reading.read_at_once(position, length)

    def warm(self, ranges: list[tuple[int, int]]) -> None:
        """Read the ranges (position, length) into the page cache. For a thread. Bytes that the journal has
        let go of meanwhile are no error."""
        self._reading.warm(ranges)

    def leave(self, open_commit: int) -> None:
        """Go on in a new segment if the last one has a record. Then the last one can be let go."""
        if self._kept.in_order[-1].end > SEGMENT_HEADER_SIZE:
            self.begin_segment(open_commit)

    def drop_before(self, position: int) -> None:
        """Let go of the segments that end before `position`. The caller vouches that all they say
        is stored, published, and in the durable namespace, and calls `close_dropped` after it."""
        self._dropping.drop_before(position, self.segment_size)

    async def prepare(self) -> None:
        """Have the file of the next segment made before it is needed. To be called when the last one has been
        filled for a while; does nothing where a file is there. Errors are met when it is needed."""
        await self._dropping.prepare(self.segment_size)

    def give_back_spares(self) -> None:
        """The disk is short of room: keep no files for later segments."""
        self._files.give_back_spares()

    async def close_dropped(self) -> None:
        """Give the space of dropped segments back. Idempotent."""
        await self._dropping.close_dropped()

    def close(self) -> None:
        """Close the files; the records stay. Idempotent."""
        self._dropping.close()
        close_all(self._bulk.clear())
        self._kept.close()

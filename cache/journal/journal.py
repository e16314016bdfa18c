"""The journal: the append-only record of what has been accepted and is not yet published.

Invariants:
1. Records have consecutive sequence numbers across segments; a position (segment << 32 | offset)
   grows with the sequence.
2. `append` returns after the bytes are in the page cache: a killed process loses nothing of it.
   `sync` returns after everything appended before the call is on the disk, `sync_records` after all but
   the bytes of large writes is.
3. An fsync that failed poisons the journal: every later append and sync raises; it is never retried,
   because the kernel may have dropped the pages it could not write. Nothing else does: a call that failed
   before or at writing (no descriptor, no memory, no room) accepted nothing, and the next one may succeed.
4. What is read back after a crash is a prefix of what was appended. Segments that follow a gap are
   put aside in `lost/`, never silently used or removed.
5. `drop_before` only lets whole segments go (`cache.journal.segments`). Bulk files go with the last record
   that refers to them. Neither is emptied or closed while an fdatasync may be using it.
6. A segment's number is higher than that of any file that is there, and than the namespace's position: so
   a position never means two things. A power cut can take a name, and its number is given again; a salt in
   the header seeds the checksums too, so that old records cannot come back under a new header.

`append`, `append_bulk` and `drop_before` are called on the event-loop thread only; `read_at` by any
thread; `sync` and `sync_records` by any number of tasks (they share one fdatasync).
"""

from __future__ import annotations

import errno
import logging
import os
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import trio

from backend import failpoints, file_limit
from backend.buffer import Buffer
from backend.system import durable
from cache.errors import FileTooBigError, InputOutputError, JournalLostError, NoSpaceLeftError
from cache.journal.bulk import BulkFile, BulkFiles
from cache.journal.format import (
    MAX_PAYLOAD,
    OFFSET_BITS,
    RECORD_HEADER_SIZE,
    SEGMENT_HEADER_SIZE,
    Bulk,
    RecordType,
    SegmentHeader,
    bulk_checksum,
    decode_bulk,
    decode_record,
    encode_bulk,
    encode_record_header,
    encode_segment_header,
)
from cache.journal.segments import LOST, Dropped, Segment, SegmentFiles, close_all, preallocated, set_aside

log = logging.getLogger(__name__)

SEGMENT_SIZE = 64 << 20
_OFFSET_MASK = (1 << OFFSET_BITS) - 1

APPENDED = failpoints.declare("journal.appended", "a record is in the page cache; nothing was applied yet")
SYNCED = failpoints.declare("journal.synced", "fdatasync returned; the caller was not told yet")
RECORDS_SYNCED = failpoints.declare(
    "journal.records-synced", "the records are on the disk, the bytes of large writes perhaps not"
)
SEGMENT_DROPPED = failpoints.declare("journal.segment-dropped", "one segment was let go, others may follow")


@dataclass(frozen=True, slots=True)
class Record:
    """One record as replay sees it. `payload` is valid until the next one is asked for."""

    position: int
    kind: RecordType
    payload: memoryview
    open_commit: int
    """the commit that was open when the record's segment was begun"""


class Journal:
    """See the module. `folder` is the journal's own; it is created if missing."""

    def __init__(self, folder: Path, segment_size: int = SEGMENT_SIZE) -> None:
        self._folder = folder
        self.segment_size = segment_size
        """of segments that are begun from now on"""
        self._segments: list[Segment] = []
        self._by_number: dict[int, Segment] = {}
        self._files = SegmentFiles(folder)
        self._sequence = 1
        self._highest_number = 0
        self._synced = 0
        self._unsynced: set[int] = set()
        self._new_names = False
        self._failure: str | None = None
        self._has_refused = False
        """whether something of a refused record may be behind the last one"""
        self._sync_lock = trio.Lock()
        self._dropped: list[Dropped] = []
        self._bulk = BulkFiles(folder)
        self._is_nameless = False
        self.on_nameless: Callable[[str], None] = lambda _path: None
        """called with the name of a file that was found to have lost it when it was synced"""
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)

    # Reading what an earlier process left

    def replay(self) -> Iterator[Record]:
        """All records from the oldest kept segment to the end of the valid prefix. To be run to
        its end before `start`; it may be run again."""
        self.close()
        self._bulk.find()
        headers = self._find_segments()
        expected: int | None = None
        for index, (path, header) in enumerate(headers):
            if expected is not None and header.first_sequence != expected:
                self._set_aside([path for path, _ in headers[index:]], expected)
                break
            self._sequence = header.first_sequence
            yield from self._replay_segment(path, header)
            expected = self._sequence

    def _find_segments(self) -> list[tuple[str, SegmentHeader]]:
        for path in sorted(self._folder.glob("**/*.*")):
            with suppress(ValueError):
                self._highest_number = max(self._highest_number, int(path.stem, 16))
        return self._files.find()

    def _replay_segment(self, path: str, header: SegmentHeader) -> Iterator[Record]:
        data = memoryview(Path(path).read_bytes())
        offset = SEGMENT_HEADER_SIZE
        base = header.number << OFFSET_BITS
        while (record := decode_record(header.seed, data, offset, self._sequence)) is not None:
            kind, payload = record
            if kind is RecordType.BULK:
                self._bulk.refer(decode_bulk(payload).position, base | offset)
            yield Record(base | offset, kind, payload, header.open_commit)
            offset += RECORD_HEADER_SIZE + len(payload)
            self._sequence += 1
        descriptor = durable.current().open(path, os.O_RDWR)
        self._keep(Segment(header.number, header.seed, path, descriptor, offset, len(data), len(data)))

    def _keep(self, segment: Segment) -> None:
        self._segments.append(segment)
        self._by_number[segment.number] = segment

    def _set_aside(self, paths: list[str], expected: int) -> None:
        lost = set_aside(self._folder, paths)
        log.error(
            "journal %s: record %d is missing although later segments exist; kept them aside in %s",
            self._folder,
            expected,
            lost,
        )

    def holds(self, bulk: Bulk) -> bool:
        """Whether the bytes that a BULK record refers to are there."""
        return self._bulk.holds(bulk)

    def pass_by(self, position: int) -> None:
        """No file that is made from now on has the number of that position, or a lower one."""
        self._highest_number = max(self._highest_number, position >> OFFSET_BITS)

    def start(self, open_commit: int) -> None:
        """Begin appending, after `replay`. The torn tail of the last segment is cut off for good."""
        if (self._folder / LOST).is_dir():
            self._bulk.move_unreferred(self._folder / LOST)
        if self._segments:
            last = self._segments[-1]
            durable.current().write(last.descriptor, [bytes(RECORD_HEADER_SIZE)], last.end)
            durable.current().sync_data(last.descriptor)
            # A process that was killed may have left them in the page cache only.
            self._unsynced.update(segment.number for segment in self._segments)
        self.begin_segment(open_commit)

    # Appending

    @property
    def end(self) -> int:
        """The position of the next record; 0 if there is no segment at all."""
        if not self._segments:
            return 0
        segment = self._segments[-1]
        return segment.number << OFFSET_BITS | segment.end

    def reaches(self, position: int) -> bool:
        """Whether records were read up to `position`, or it is before all that is kept. Not if it lies behind
        the torn end of a segment, also where a later process went on in another one. Before `start`."""
        segment = self._by_number.get(position >> OFFSET_BITS)
        if segment is not None:
            return position & _OFFSET_MASK <= segment.end
        return position == 0 or (bool(self._segments) and position >> OFFSET_BITS < self._segments[0].number)

    @property
    def used_bytes(self) -> int:
        """What the kept records take, in whole segments but for the last."""
        if not self._segments:
            return 0
        records = sum(segment.size for segment in self._segments[:-1]) + self._segments[-1].end
        return records + self._bulk.used_bytes

    @property
    def record_bytes(self) -> int:
        """What the kept records take themselves, without the room that segments have beyond them."""
        return sum(segment.end for segment in self._segments) + self._bulk.used_bytes

    def bytes_before(self, position: int) -> int:
        """What `drop_before` would let go of."""
        number = position >> OFFSET_BITS
        records = sum(segment.size for segment in self._segments[:-1] if segment.number < number)
        return records + self._bulk.bytes_before(position)

    def append(self, kind: RecordType, parts: tuple[Buffer, ...], open_commit: int) -> int:
        """Append one record of at most `MAX_PAYLOAD` bytes; its position. `NoSpaceLeftError`: nothing
        was appended. `InputOutputError`: the journal has failed, now or before. `open_commit` is
        kept in the header if this begins a segment."""
        if self._failure is not None:
            raise InputOutputError(self._failure)
        length = sum(map(len, parts))
        if length > MAX_PAYLOAD:  # replay would take it for the journal's end
            raise FileTooBigError(f"a journal record of {length} bytes is over the limit")
        segment = self._segments[-1]
        if segment.end + RECORD_HEADER_SIZE + length > segment.size and segment.end > SEGMENT_HEADER_SIZE:
            segment = self.begin_segment(open_commit)
        header = encode_record_header(segment.seed, kind, self._sequence, parts, length)
        offset = segment.end
        segment.written = max(segment.written, offset + RECORD_HEADER_SIZE + length)
        try:
            durable.current().write(segment.descriptor, (header, *parts), offset)
            failpoints.failpoint(APPENDED)
        except OSError as error:
            self._has_refused = True
            with suppress(OSError):
                self._erase_refused()
            raise self._refused(error) from error
        self._has_refused = False
        segment.end = offset + RECORD_HEADER_SIZE + length
        segment.size = max(segment.size, segment.end)
        self._sequence += 1
        self._unsynced.add(segment.number)
        return segment.number << OFFSET_BITS | offset

    def _erase_refused(self) -> None:
        """A refused record may be whole all the same, if what was not written of it was there: zeros."""
        last = self._segments[-1]
        durable.current().write(last.descriptor, [bytes(RECORD_HEADER_SIZE)], last.end)
        self._has_refused = False

    def append_bulk(
        self, inode: int, offset: int, time_ns: int, data: Buffer, open_commit: int
    ) -> tuple[int, int]:
        """Append a large write, its bytes beside the record: the positions of both. Raises what `append`
        raises; nothing was appended then."""
        if self._failure is not None:
            raise InputOutputError(self._failure)
        try:
            position = self._append_bytes(data)
        except OSError as error:
            raise self._refused(error) from error
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
            return self._bulk.append(data, self.segment_size, self._new_number)
        except (FileNotFoundError, NotADirectoryError):
            if self._is_nameless or not self._find_out():
                raise
        return self._bulk.append(data, self.segment_size, self._new_number)

    def _find_out(self) -> bool:
        """The folder is not there: whether the journal goes on without names now."""
        self.on_nameless(str(self._folder))
        return self._is_nameless

    def _new_number(self) -> int:
        """For a file that is about to be made."""
        self._highest_number += 1
        self._new_names = True
        return self._highest_number

    def _refused(self, error: OSError) -> InputOutputError | NoSpaceLeftError:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            return NoSpaceLeftError(f"the disk that holds {self._folder} is full: nothing was accepted")
        reason = file_limit.reason(error)
        return InputOutputError(
            f"the journal {self._folder} cannot be written now ({reason}): nothing was accepted"
        )

    def fail(self, problem: str) -> InputOutputError:
        """Accept nothing more, for ever; what to raise."""
        self._failure = (
            f"the journal {self._folder} {problem}; what was accepted before is kept; unmount, mend the "
            "disk, mount again"
        )
        log.error("%s", self._failure)
        return InputOutputError(self._failure)

    def begin_segment(self, open_commit: int) -> Segment:
        """What is appended from now on is in a new segment, which says that this commit is open. Raises what
        `append` raises."""
        number = self._new_number()
        path = self._files.path_of(number)
        header = SegmentHeader(number, self._sequence, open_commit, int.from_bytes(os.urandom(4)))
        try:
            if self._has_refused:
                self._erase_refused()  # else it would come before the new segment, in whose place it is
            descriptor, size = self._files.allocate(path, encode_segment_header(header), self.segment_size)
        except (FileNotFoundError, NotADirectoryError) as error:
            if self._is_nameless or not self._find_out():
                raise self._refused(error) from error
            return self._segments[-1]
        except OSError as error:
            raise self._refused(error) from error
        segment = Segment(
            number, header.seed, path, descriptor, SEGMENT_HEADER_SIZE, size, SEGMENT_HEADER_SIZE
        )
        self._keep(segment)
        self._unsynced.add(number)
        return segment

    # Names

    def named_files(self) -> list[tuple[str, int]]:
        """What has to be found by its name at the next start: names and descriptors."""
        return [(each.path, each.descriptor) for each in self._segments] + self._bulk.named()

    def lose_names(self, open_commit: int) -> None:
        """The files are not where the next start looks for them: nothing is durable by them any more. What is
        accepted from now on is in files without a name."""
        self._is_nameless = self._files.nameless = self._bulk.nameless = True
        self.begin_segment(open_commit)
        self._bulk.leave()

    # Durability

    async def sync(self) -> None:
        """Everything appended before the call is on the disk when this returns. `InputOutputError` if it
        is not: for ever after if an fsync failed; if it could not begin, the next call may succeed.
        `JournalLostError`: it is, in files that nobody will find."""
        target = self._sequence
        while self._synced < target and not self._is_nameless:
            async with self._sync_lock:
                if self._synced < target and not self._is_nameless:
                    reached = self._sequence
                    await self._sync_files(self._bulk.unsynced(0, self.end))
                    self._synced = reached
                    failpoints.failpoint(SYNCED)
        if self._failure is not None:
            raise InputOutputError(self._failure)
        if self._is_nameless:
            raise JournalLostError(f"the files of the journal {self._folder} were removed")

    async def sync_records(self, first: int, last: int) -> None:
        """Every record appended before the call is on the disk when this returns, and of the bytes beside
        them those that records in [first, last) refer to. `InputOutputError` as `sync`. Without names there
        is nothing to be done: a start that finds no journal knows of nothing but the log."""
        async with self._sync_lock:
            if self._is_nameless:
                return
            await self._sync_files(self._bulk.unsynced(first, last))
            failpoints.failpoint(RECORDS_SYNCED)

    async def _sync_files(self, bulk: list[BulkFile]) -> None:
        """The records, and what is in these files by now."""
        if self._failure is not None:
            raise InputOutputError(self._failure)
        numbers, new_names, ends = self._unsynced, self._new_names, [file.end for file in bulk]
        self._unsynced, self._new_names = set(), False
        files = [(file.path, file.descriptor) for file in bulk]
        files += [(s.path, s.descriptor) for s in self._segments if s.number in numbers]
        try:
            nameless = await trio.to_thread.run_sync(self._sync_on_disk, files, new_names)
        except durable.NotBegunError as error:
            self._still_unsynced(numbers, new_names)
            raise self._refused(error) from error
        except OSError as error:
            raise self.fail(f"cannot be synced ({file_limit.reason(error)})") from error
        except BaseException:  # cancelled before it began: nothing is synced
            self._still_unsynced(numbers, new_names)
            raise
        for file, end in zip(bulk, ends, strict=True):
            file.synced_to = end
        if nameless:
            self.on_nameless(nameless)

    def _still_unsynced(self, numbers: set[int], new_names: bool) -> None:
        self._unsynced |= numbers
        self._new_names = self._new_names or new_names

    def _sync_on_disk(self, files: list[tuple[str, int]], new_names: bool) -> str:
        """Sync them; the path of one that nobody will find, if there is one."""
        for _, descriptor in files:
            durable.current().sync_data(descriptor)
        nameless = next((path for path, descriptor in files if os.fstat(descriptor).st_nlink == 0), "")
        if new_names and not nameless:
            durable.current().sync_folder(str(self._folder))
        return nameless

    # Reading back and letting go

    def read_at(self, position: int, length: int) -> bytes:
        """`length` bytes at `position` (inside a payload, not at its header). Any thread.
        `InputOutputError` if they cannot be had."""
        descriptor = self._descriptor(position)
        data = b"" if descriptor is None else os.pread(descriptor, length, position & _OFFSET_MASK)
        if len(data) == length:
            return data
        raise InputOutputError(f"the journal {self._folder} lacks {length} bytes at {position:#x}")

    def read_at_once(self, position: int, length: int) -> memoryview | None:
        """The same, if the disk need not be waited for; else None. Event-loop thread."""
        descriptor = self._descriptor(position)
        if descriptor is None:
            return None
        data = bytearray(length)
        try:
            found = os.preadv(descriptor, [data], position & _OFFSET_MASK, os.RWF_NOWAIT)
        except OSError as error:
            if error.errno == errno.EOPNOTSUPP:  # the file system cannot tell
                return memoryview(self.read_at(position, length))
            return None
        return memoryview(data) if found == length else None

    def warm(self, ranges: list[tuple[int, int]]) -> None:
        """Have the bytes (position, length) in memory, if they are there. For a thread; what it would read is
        not told, for the journal may let go of it meanwhile."""
        for position, length in ranges:
            descriptor = self._descriptor(position)
            if descriptor is not None:
                with suppress(OSError):  # who needs it meets the error himself
                    os.pread(descriptor, length, position & _OFFSET_MASK)

    def _descriptor(self, position: int) -> int | None:
        """Of the file that holds the position."""
        segment = self._by_number.get(position >> OFFSET_BITS)
        return self._bulk.descriptor(position) if segment is None else segment.descriptor

    def leave(self, open_commit: int) -> None:
        """Go on in a new segment if the last one has a record, so that it can be let go."""
        if self._segments[-1].end > SEGMENT_HEADER_SIZE:
            self.begin_segment(open_commit)

    def drop_before(self, position: int) -> None:
        """Let go of the segments that end before `position`. The caller vouches that all they say
        is stored, published, and in the durable namespace, and calls `close_dropped` after it."""
        number = position >> OFFSET_BITS
        while len(self._segments) > 1 and self._segments[0].number < number:
            segment = self._segments[0]
            self._dropped.append(self._files.let_go(segment, self.segment_size))
            del self._segments[0], self._by_number[segment.number]
            self._unsynced.discard(segment.number)
            failpoints.failpoint(SEGMENT_DROPPED)
        self._dropped += map(Dropped, self._bulk.drop_before(position))

    async def prepare(self) -> None:
        """Have the file of the next segment made before it is needed. To be called when the last one has been
        filled for a while; does nothing where a file is there. Errors are met when it is needed."""
        last = self._segments[-1]
        if last.end < last.size // 4:
            return
        path = self._files.begin_spare(last.number + 1)
        if path is None:
            return
        made: list[str] = []
        try:
            with trio.CancelScope(shield=True):
                made = await trio.to_thread.run_sync(preallocated, path, self.segment_size)
        finally:
            self._files.end_spare(made)

    def give_back_spares(self) -> None:
        """The disk is short of room: keep no files for later segments."""
        self._files.give_back_spares()

    async def close_dropped(self) -> None:
        """Give the space of dropped segments back. Idempotent."""
        async with self._sync_lock:
            dropped = list(self._dropped)
            if dropped:
                emptied = await trio.to_thread.run_sync(self._files.finish_dropping, dropped)
                self._files.take_spares(emptied, dropped)
                del self._dropped[: len(dropped)]

    def close(self) -> None:
        """Close the files; the records stay. Idempotent."""
        close_all([*(each.descriptor for each in self._dropped), *self._bulk.clear()])
        close_all(segment.descriptor for segment in self._segments)
        self._dropped.clear()
        self._segments.clear()
        self._by_number.clear()

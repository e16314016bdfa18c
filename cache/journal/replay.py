"""Replay: the records that earlier processes left, up to the end of the valid prefix.

What is read back is a prefix of what was appended. Segments that follow a gap, and what follows a sector that
cannot be read, are never silently used or removed: they are to be kept aside (`cache.journal.salvage`).
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from backend.system import Environment
from cache.journal import salvage
from cache.journal.bulk import BulkFiles
from cache.journal.format import (
    OFFSET_BITS,
    OFFSET_MASK,
    RECORD_HEADER_SIZE,
    SEGMENT_HEADER_SIZE,
    RecordType,
    SegmentHeader,
    decode_bulk,
    decode_record,
    record_sequence,
)
from cache.journal.kept_segments import KeptSegments
from cache.journal.salvage import Loss
from cache.journal.segments import Segment, SegmentFiles


@dataclass(frozen=True, slots=True)
class Record:
    """One record as replay sees it. `payload` is valid until the next one is asked for."""

    position: int
    kind: RecordType
    payload: memoryview
    open_commit: int
    """the commit that was open when the record's segment was begun"""


def replay(
    folder: Path,
    files: SegmentFiles,
    bulk: BulkFiles,
    kept: KeptSegments,
    losses: list[Loss],
    begin: int,
    environment: Environment,
) -> Iterator[Record]:
    """All records, or those from the position `begin` on; run to its end, `kept` has the segments, and
    `losses` what is to be kept aside. Nothing is open before."""
    bulk.find()
    _pass_by_files(folder, kept)
    first = begin >> OFFSET_BITS
    headers = files.find(losses, first)
    expected: int | None = None
    for index, (path, header) in enumerate(headers):
        if header.number < first:
            size = os.path.getsize(path)
            kept.add(_segment(path, header, size, size, environment))
            continue
        if expected is not None and header.first_sequence != expected:
            losses.append(_gap(folder, [path for path, _ in headers[index:]], expected, environment))
            break
        kept.next_sequence, kept.open_commit = header.first_sequence, header.open_commit
        start = begin & OFFSET_MASK if header.number == first else 0
        yield from _replay_segment(folder, path, header, start, bulk, kept, losses, environment)
        expected = kept.next_sequence


def _pass_by_files(folder: Path, kept: KeptSegments) -> None:
    for path in sorted(folder.glob("**/*.*")):
        with suppress(ValueError):
            kept.pass_by(int(path.stem, 16))


def _segment(path: str, header: SegmentHeader, end: int, size: int, environment: Environment) -> Segment:
    descriptor = environment.disk.open(path, os.O_RDWR)
    return Segment(header.number, header.seed, path, descriptor, end, size, size)


def _replay_segment(
    folder: Path,
    path: str,
    header: SegmentHeader,
    start: int,
    bulk: BulkFiles,
    kept: KeptSegments,
    losses: list[Loss],
    environment: Environment,
) -> Iterator[Record]:
    """The records of one; if `start` is not 0, from the one there on."""
    found, is_whole = salvage.read(path, start)
    data, offset = memoryview(found), start or SEGMENT_HEADER_SIZE
    if start:
        kept.next_sequence = record_sequence(data, start)
    base = header.number << OFFSET_BITS
    while (record := decode_record(header.seed, data, offset, kept.next_sequence)) is not None:
        kind, payload = record
        if kind is RecordType.BULK:
            bulk.refer(decode_bulk(payload).position, base | offset)
        yield Record(base | offset, kind, payload, header.open_commit)
        offset += RECORD_HEADER_SIZE + len(payload)
        kept.next_sequence += 1
    if not is_whole:
        data = data[:offset]
    segment = _segment(path, header, offset, len(data), environment)
    kept.add(segment)
    if not is_whole:
        why = (
            f"the journal file {path} cannot be read from byte {offset} on: what it says before that is "
            "used, what came after it is lost"
        )
        losses.append(Loss(why, partial(_cut_off, folder, segment, data, environment)))


def _cut_off(folder: Path, segment: Segment, beginning: memoryview, environment: Environment) -> Path:
    """The segment is its beginning from now on."""
    kept = salvage.keep_beginning(folder, segment.path, bytes(beginning), environment)
    os.close(segment.descriptor)
    segment.descriptor = environment.disk.open(segment.path, os.O_RDWR)
    return kept


def _gap(folder: Path, paths: list[str], expected: int, environment: Environment) -> Loss:
    why = f"the journal {folder}: record {expected} is missing although later segments exist"
    return Loss(why, partial(salvage.set_aside, folder, paths, environment.disk))

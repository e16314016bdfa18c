"""Replay: the records that earlier processes left, up to the end of the valid prefix.

What is read back is a prefix of what was appended. Segments that follow a gap are put aside in `lost/`, never
silently used or removed; so is what follows a sector that cannot be read (`cache.journal.salvage`).
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from backend.system import durable
from cache.journal import salvage
from cache.journal.bulk import BulkFiles
from cache.journal.format import (
    OFFSET_BITS,
    RECORD_HEADER_SIZE,
    SEGMENT_HEADER_SIZE,
    RecordType,
    SegmentHeader,
    decode_bulk,
    decode_record,
)
from cache.journal.kept_segments import KeptSegments
from cache.journal.segments import Segment, SegmentFiles

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Record:
    """One record as replay sees it. `payload` is valid until the next one is asked for."""

    position: int
    kind: RecordType
    payload: memoryview
    open_commit: int
    """the commit that was open when the record's segment was begun"""


def replay(
    folder: Path, files: SegmentFiles, bulk: BulkFiles, kept: KeptSegments, losses: list[str]
) -> Iterator[Record]:
    """All records; run to its end, `kept` has the segments that hold them, and `losses` for people what was
    put aside. Nothing is open before."""
    bulk.find()
    _pass_by_files(folder, kept)
    headers = files.find(losses)
    expected: int | None = None
    for index, (path, header) in enumerate(headers):
        if expected is not None and header.first_sequence != expected:
            losses.append(_set_aside(folder, [path for path, _ in headers[index:]], expected))
            break
        kept.next_sequence = header.first_sequence
        yield from _replay_segment(folder, path, header, bulk, kept, losses)
        expected = kept.next_sequence


def _pass_by_files(folder: Path, kept: KeptSegments) -> None:
    for path in sorted(folder.glob("**/*.*")):
        with suppress(ValueError):
            kept.pass_by(int(path.stem, 16))


def _replay_segment(
    folder: Path, path: str, header: SegmentHeader, bulk: BulkFiles, kept: KeptSegments, losses: list[str]
) -> Iterator[Record]:
    found, is_whole = salvage.read(path)
    data = memoryview(found)
    offset = SEGMENT_HEADER_SIZE
    base = header.number << OFFSET_BITS
    while (record := decode_record(header.seed, data, offset, kept.next_sequence)) is not None:
        kind, payload = record
        if kind is RecordType.BULK:
            bulk.refer(decode_bulk(payload).position, base | offset)
        yield Record(base | offset, kind, payload, header.open_commit)
        offset += RECORD_HEADER_SIZE + len(payload)
        kept.next_sequence += 1
    if not is_whole:
        losses.append(_salvage(folder, path, data[:offset]))
        data = data[:offset]
    descriptor = durable.current().open(path, os.O_RDWR)
    kept.add(Segment(header.number, header.seed, path, descriptor, offset, len(data), len(data)))


def _salvage(folder: Path, path: str, beginning: memoryview) -> str:
    kept = salvage.keep_beginning(folder, path, bytes(beginning))
    loss = (
        f"the journal file {path} cannot be read from byte {len(beginning)} on: what it says before that is "
        f"used, what came after it is lost; the file is kept as {kept}"
    )
    log.error("%s", loss)
    return loss


def _set_aside(folder: Path, paths: list[str], expected: int) -> str:
    lost = salvage.set_aside(folder, paths)
    loss = (
        f"the journal {folder}: record {expected} is missing although later segments exist, which are kept "
        f"aside in {lost}"
    )
    log.error("%s", loss)
    return loss

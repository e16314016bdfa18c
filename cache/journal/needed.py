"""From where on a journal is needed: so that nothing before that need be readable.

A PUBLISHED record has a position. Everything that the journal says before that position is published, or was
replaced by something that is. So a journal with an unreadable place may be read from that position on, if the
namespace holds the commit of the record. All that is not stored yet comes after the position.

Blocks; before anything of the journal is open.
"""

from __future__ import annotations

import re
import struct
import sys
from collections.abc import Iterator
from typing import Final

from cache.journal import salvage
from cache.journal.format import (
    OFFSET_BITS,
    OFFSET_MASK,
    RecordType,
    SegmentHeader,
    decode_published,
    decode_record,
    record_sequence,
)
from cache.journal.segments import SegmentFiles

_PUBLISHED: Final = re.compile(b"(?s).\0{3}" + re.escape(struct.pack("<I", RecordType.PUBLISHED)))
"""How such a record begins: its length, which is less than 256, and its type. What looks so in the content of
files costs no more than that to check."""


def find_needed(files: SegmentFiles, published: int) -> int:
    """The position of the first record that is needed since the newest commit, of those up to `published`,
    that a record says is published; 0: none says so. The record there can be read."""
    headers = files.find([], first=sys.maxsize)
    segments = {header.number: (path, header) for path, header in headers}
    for path, header in reversed(headers):
        for payload in _published_in(memoryview(salvage.read_around(path)), header.seed):
            commit, _, _, needed = decode_published(payload)
            segment = segments.get(needed >> OFFSET_BITS)
            if commit <= published and segment is not None and _holds(*segment, needed & OFFSET_MASK):
                return needed
    return 0


def _published_in(data: memoryview, seed: int) -> Iterator[memoryview]:
    """The payloads of the PUBLISHED records in a segment, the newest first, whatever lies between."""
    found = [match.start() for match in re.finditer(_PUBLISHED, data)]
    for offset in reversed(found):
        record = decode_record(seed, data, offset, record_sequence(data, offset))
        if record is not None:
            yield record[1]


def _holds(path: str, header: SegmentHeader, offset: int) -> bool:
    """Whether a record can be read there."""
    data = memoryview(salvage.read(path, offset).data)
    return decode_record(header.seed, data, offset, record_sequence(data, offset)) is not None

"""Reading from a file at an offset, to the end of what is wanted."""

from __future__ import annotations

import os


def read_all(descriptor: int, length: int, offset: int) -> bytes:
    """The bytes [offset, offset+length), fewer only where the file ends before. Raises what pread(2) raises:
    one that meets a sector that cannot be read gives the bytes before it first, and the next one EIO."""
    data = os.pread(descriptor, length, offset)
    while len(data) < length:
        more = os.pread(descriptor, length - len(data), offset + len(data))
        if not more:
            break
        data += more
    return data

"""Names of conflict copies: `report (conflict 2026-11-28 laptop).odt`. Pure functions.

The suffix of an earlier conflict is taken off first, so that a conflict does not breed names. An executable
file, and a name in a folder whose files are read by their endings (`*.d`, folders that begin with a dot),
gets the suffix last, so that nothing runs or loads the copy.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from typing import Final

from cache.namespace import MAX_NAME

_EARLIER: Final = re.compile(rb" \(conflict \d{4,}-\d\d-\d\d [^()]*\)(?: \d+)?")
_HOST_LIMIT: Final = 40
"""Bytes of a host's name that a suffix shows."""


def conflict_name(
    name: bytes,
    host: bytes,
    time_ns: int,
    *,
    is_last: bool,
    is_taken: Callable[[bytes], bool],
    limit: int = MAX_NAME,
) -> bytes:
    """A free name for the copy of `name`, made on `host` of content of that time. `is_last`: the suffix comes
    after the ending. `limit`: bytes that it may have."""
    stem, ending = _split(_EARLIER.sub(b"", name) or name, is_last=is_last)
    day = time.strftime("%Y-%m-%d", time.gmtime(max(time_ns, 0) // 10**9)).encode()
    count = 1
    while True:
        number = b"" if count == 1 else b" %d" % count
        suffix = b" (conflict %s %s)%s" % (day, _plain(host), number)
        found = _cut(stem, limit - len(suffix) - len(ending)) + suffix + ending
        if not is_taken(found):
            return found
        count += 1


def original_of(name: bytes) -> bytes | None:
    """The name that a conflict name was made of; None if it is none. Of a name that was cut its beginning."""
    found = _EARLIER.sub(b"", name)
    return found if found != name else None


def is_read_by_ending(folder: bytes, mode: int) -> bool:
    """Whether a copy in a folder of that name, of a file of that mode, gets its suffix last."""
    return folder.startswith(b".") or folder.endswith(b".d") or bool(mode & 0o111)


def _split(name: bytes, *, is_last: bool) -> tuple[bytes, bytes]:
    dot = name.rfind(b".")
    return (name, b"") if is_last or dot <= 0 or len(name) - dot > 32 else (name[:dot], name[dot:])


def _plain(host: bytes) -> bytes:
    """A host's name as a suffix may have it: neither brackets nor what no name may have."""
    return _cut(re.sub(rb"[()/\0]", b"_", host), _HOST_LIMIT)


def _cut(text: bytes, limit: int) -> bytes:
    """At most `limit` bytes, ending with a whole character if it is UTF-8."""
    cut = text[:limit]
    if len(text) > limit:
        while cut and text[len(cut)] & 0xC0 == 0x80:
            cut = cut[:-1]
    return cut

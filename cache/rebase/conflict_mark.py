"""The mark of a conflict copy: the value of its extended attribute `user.drivefs.conflict`, JSON in UTF-8.

| key | |
|---|---|
| `of` | the name of the file that it is a copy of, in the folder where it was made |
| `base` | the newest commit that its maker knew |
| `by` | what its maker is called |
| `in` | of a version, of which no copy is shown: the path of the file's folder; a very long one is cut |

People and programs may write the attribute too: what is no mark is none.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from typing import Final

COPY_OF: Final = b"user.drivefs.conflict"
_MOST: Final = 32 << 10
_LONGEST_PATH: Final = 4096
_NAME: Final = 255


@dataclass(frozen=True, slots=True)
class Mark:
    """See the module."""

    of: bytes
    base: int
    by: bytes
    folder: bytes | None = None


def encode_mark(mark: Mark) -> bytes:
    """The attribute's value."""
    said = {"of": os.fsdecode(mark.of), "base": mark.base, "by": os.fsdecode(mark.by)}
    if mark.folder is not None:
        said["in"] = os.fsdecode(mark.folder[:_LONGEST_PATH])
    return json.dumps(said).encode()


def decode_mark(value: bytes) -> Mark | None:
    """The mark that a value says; None if it says none."""
    try:
        if len(value) > _MOST:
            return None
        found = json.loads(value)
        folder = os.fsencode(found["in"]) if "in" in found else None
        mark = Mark(os.fsencode(found["of"]), found["base"], os.fsencode(found["by"]), folder)
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    is_name = 0 < len(mark.of) <= _NAME and not {*b"/\0"} & {*mark.of} and mark.of not in (b".", b"..")
    is_number = type(mark.base) is int and 0 <= mark.base < 1 << 63
    return mark if is_name and is_number and len(mark.by) <= _NAME else None

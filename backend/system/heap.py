"""One heap for all threads of a process, of a mount, a hub or an S3 door (mallopt(3); without glibc nothing
is done).

Requests, blocks and packs come in fresh buffers of up to some MiB. To have the kernel map and clear their
pages each time costs a mount that is written to a third of its processor time, and a hub a sixth, so freed
buffers are kept.
A heap of its own for each thread (an arena) would keep that much as well, whoever used it last.
"""

from __future__ import annotations

import ctypes
from typing import Final

_M_TRIM_THRESHOLD: Final = -1
_M_MMAP_THRESHOLD: Final = -3
_M_ARENA_MAX: Final = -8
_KEPT_FREE: Final = 128 << 20
"""Freed bytes that malloc keeps: what the sealer, the block buffer and the packs have under way at most."""
_KEPT_BUFFER: Final = 16 << 20
"""Buffers below this size are kept: a pack with its coding is the largest that comes again and again."""


def share_one_heap() -> None:
    """To be called before the process has had any thread: an arena outlives the thread that it was made for,
    and a fork, and is then given to others. Idempotent."""
    library = ctypes.CDLL(None)
    if hasattr(library, "mallopt"):
        library.mallopt(_M_ARENA_MAX, 1)
        library.mallopt(_M_TRIM_THRESHOLD, _KEPT_FREE)
        library.mallopt(_M_MMAP_THRESHOLD, _KEPT_BUFFER)

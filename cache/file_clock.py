"""The clock that stamps files: the kernel's own, so that its stamps and ours have one order.

With the write-back cache the kernel stamps regular files by itself. It uses a coarse clock that goes in
steps of some milliseconds (`ktime_get_coarse_real_ts64_mg` in kernel/time/timekeeping.c). A stamp of an
exact clock would be later than the kernel's stamp for what happens after it. CLOCK_REALTIME_COARSE is not
that clock: from 6.13 on the kernel's never goes behind a fine stamp that it gave a file elsewhere.

So the kernel is asked to stamp a file in memory that nobody else sees. That stamp is not before any stamp
that the kernel gave earlier, and not after any that it gives later; before 6.13 too.
"""

from __future__ import annotations

import os
import weakref


class FileClock:
    """See the module. Its descriptor goes with it. Any thread."""

    def __init__(self) -> None:
        self._descriptor = os.memfd_create("drivefs-clock")
        weakref.finalize(self, os.close, self._descriptor)

    def now(self) -> int:
        """Nanoseconds since 1970. Takes some microseconds."""
        os.utime(self._descriptor)
        return os.fstat(self._descriptor).st_ctime_ns

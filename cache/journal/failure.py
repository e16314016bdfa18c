"""What the journal raises when its disk refuses: for one call, or for good.

A failed fsync is for good, because the kernel may have dropped the pages that it could not write. A record
that the namespace could not take is for good, too. Every other failure is for one call: nothing of it was
accepted.
"""

from __future__ import annotations

import errno
import logging
from pathlib import Path

from backend import file_limit
from cache.errors import InputOutputError, NoSpaceLeftError

log = logging.getLogger(__name__)


class Failure:
    """See the module. `folder` is the journal's, for people."""

    __slots__ = ("_folder", "for_good")

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.for_good: str | None = None
        """why nothing is accepted any more"""

    def check(self) -> None:
        """`InputOutputError` if the journal has failed for good."""
        if self.for_good is not None:
            raise InputOutputError(self.for_good)

    def refused(self, error: OSError) -> InputOutputError | NoSpaceLeftError:
        """The error to raise for a call that accepted nothing."""
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            return NoSpaceLeftError(f"the disk that holds {self._folder} is full: nothing was accepted")
        reason = file_limit.reason(error)
        return InputOutputError(
            f"the journal {self._folder} cannot be written now ({reason}): nothing was accepted"
        )

    def fail(self, problem: str) -> InputOutputError:
        """Accept nothing more, for ever; what to raise."""
        self.for_good = (
            f"the journal {self._folder} {problem}; what was accepted before is kept; unmount, mend the "
            "disk, mount again"
        )
        log.error("%s", self.for_good)
        return InputOutputError(self.for_good)

"""The commits that were found damaged or in too few copies, until they are mended. Event-loop thread."""

from __future__ import annotations

import logging

import trio

from backend.commits.commit_search import number_of
from backend.commits.replicated_objects import Listing

_LOG = logging.getLogger(__name__)


class CommitsToMend:
    """Their numbers. `wanted` is set while there are some; it is replaced when there are none any more."""

    def __init__(self) -> None:
        self._numbers: set[int] = set()
        self.wanted = trio.Event()

    def note(self, number: int) -> None:
        """This one is to be mended."""
        self._numbers.add(number)
        self.wanted.set()

    def note_damaged(self, number: int, where: str) -> None:
        """As `note`, of a copy on the node `where` that was read."""
        _LOG.warning("commit %d is damaged on %s: another copy is used and it will be mended", number, where)
        self.note(number)

    def note_thin(self, listing: Listing, copies: int) -> None:
        """Note those that are listed by fewer than `copies` nodes, those that did not answer counted."""
        for key, holders in listing.holders.items():
            number = number_of(key)
            if number is not None and len(holders) + len(listing.away) < copies:
                self.note(number)

    def newest_first(self) -> list[int]:
        """Those that are noted now."""
        return sorted(self._numbers, reverse=True)

    def done(self, number: int) -> None:
        """This one is in order, or none of the log."""
        self._numbers.discard(number)
        if not self._numbers and self.wanted.is_set():
            self.wanted = trio.Event()

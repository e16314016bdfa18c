"""What may never happen: the judge of a run. It is told of everything that a writer was told."""

from __future__ import annotations

from collections.abc import Iterable

from backend.commits.commit_format import commit_hash
from backend.upstream import NO_COMMIT, Commit, Head


class Violation(AssertionError):
    """A promise of the log or the lease was broken."""


class History:
    """Every commit that anybody ever made, and which of them were acknowledged."""

    def __init__(self) -> None:
        self._previous: dict[bytes, bytes] = {NO_COMMIT: NO_COMMIT}
        self._numbers: dict[bytes, int] = {NO_COMMIT: 0}
        self._blocks: dict[bytes, frozenset[int]] = {NO_COMMIT: frozenset()}
        self.acknowledged = Head(0, NO_COMMIT)
        self.count = 0
        """acknowledged appends"""

    def note_made(self, commit: Commit, blocks: Iterable[int]) -> bytes:
        """A writer has made this commit, which needs these blocks; its hash."""
        found = commit_hash(commit)
        self._previous[found] = commit.previous
        self._numbers[found] = commit.number
        self._blocks[found] = frozenset(blocks)
        return found

    def blocks_of(self, head: Head) -> frozenset[int]:
        """What the commit needs."""
        return self._blocks[head.hash]

    def contains(self, head: Head, older: Head) -> bool:
        """Whether `older` is `head` or before it in its chain."""
        at = head.hash
        while self._numbers[at] > older.number:
            at = self._previous[at]
        return at == older.hash

    def note_acknowledged(self, head: Head, who: str) -> None:
        """`who` was told that `head` is in the log."""
        self.count += 1
        longer, shorter = head, self.acknowledged
        if longer.number < shorter.number:
            longer, shorter = shorter, longer
        if not self.contains(longer, shorter):
            raise Violation(f"{who} was told that commit {head.number} is in the log, beside another one")
        self.acknowledged = longer

    def note_found(self, head: Head, at_least: Head, who: str) -> None:
        """`who` opened the log at `head`; `at_least` was acknowledged before it began."""
        if head.number < at_least.number or not self.contains(head, at_least):
            raise Violation(f"{who} found commit {head.number}; {at_least.number} was acknowledged before")

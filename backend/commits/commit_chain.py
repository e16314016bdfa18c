"""The hashes of a verified stretch of the commit log, 32 bytes each. Pure; no I/O.

The stretch starts at a commit that is taken for granted (the empty log, the last commit that this device saw,
or the one that a snapshot names) and grows at both ends. A million commits take 32 MB.
"""

from __future__ import annotations

from collections.abc import Iterable

from backend.upstream import COMMIT_HASH_SIZE, Head


class CommitChain:
    """Hashes of the commits `first`..`head.number`, in order."""

    def __init__(self, base: Head) -> None:
        self._hashes = bytearray(base.hash)
        self.first = base.number

    @property
    def head(self) -> Head:
        """The newest commit."""
        return Head(
            self.first + len(self._hashes) // COMMIT_HASH_SIZE - 1, bytes(self._hashes[-COMMIT_HASH_SIZE:])
        )

    def hash_of(self, number: int) -> bytes:
        """`IndexError` outside the stretch."""
        if not self.first <= number <= self.head.number:
            raise IndexError(f"commit {number} is not in the verified stretch")
        start = (number - self.first) * COMMIT_HASH_SIZE
        return bytes(self._hashes[start : start + COMMIT_HASH_SIZE])

    def append(self, commit_hash: bytes) -> None:
        """Add the hash of the commit after the head."""
        self._hashes += commit_hash

    def prepend(self, newest_first: Iterable[bytes]) -> None:
        """Add the hashes of the commits before the first, from the newest back."""
        older = list(newest_first)
        self._hashes[:0] = b"".join(reversed(older))
        self.first -= len(older)

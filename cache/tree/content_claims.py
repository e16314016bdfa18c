"""Claims about the content of files: a door keeps a statement with a file that holds for these bytes only.

An object store's door says the MD5 and checksums of what it was given, in the attribute `CLAIM`. The mount
and other doors know nothing of it, and need not.

Invariants:
1. A claim without `CHANGED` beside it holds for the file's bytes. Before the first change of bytes that have
   a claim is journaled, `CHANGED` is. So no crash leaves a claim that looks true and is not. One that looks
   false and is true costs whoever made it a little work.
2. Whoever makes a claim makes it on a file that has none.
3. Both are no class of attributes that a mount knows: programs neither see nor change them.

Event-loop thread only.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from cache.attributes import CHANGED, CLAIM
from cache.journal import Ledger
from cache.namespace import SetXattr
from cache.sync import Replaced
from cache.tree.intake import Intake


@dataclass(slots=True)
class ContentWatch:
    """Whether the watched bytes were changed since, here or by another device."""

    changed: bool = False


class ContentClaims:
    """See the module. An onlooker of the drive's broadcast."""

    def __init__(self, ledger: Ledger, intake: Intake) -> None:
        self._namespace = ledger.namespace
        self._intake = intake
        self._watches: dict[int, list[ContentWatch]] = {}

    def end(self, inode: int) -> None:
        """The file's bytes are about to change. Raises what accepting an operation raises."""
        if self._namespace.xattr(inode, CLAIM) is not None and self._is_true(inode):
            self._intake.accept(SetXattr(inode, CHANGED, b"", self._intake.now()))
        self._tell(inode)

    def _tell(self, inode: int) -> None:
        for watch in self._watches.get(inode, ()):
            watch.changed = True

    def before(self) -> None:
        """See `cache.sync.Onlooker`."""

    def after(self, replaced: Replaced) -> None:
        """See `cache.sync.Onlooker`: others changed the bytes of these, or removed them."""
        for inode in replaced.inodes:
            self._tell(inode)

    def _is_true(self, inode: int) -> bool:
        return self._namespace.xattr(inode, CHANGED) is None

    def claim(self, inode: int) -> tuple[bytes | None, bool]:
        """The claim, if there is one, and whether it holds."""
        value = self._namespace.xattr(inode, CLAIM)
        return value, value is not None and self._is_true(inode)

    @contextmanager
    def watching(self, inode: int) -> Iterator[ContentWatch]:
        """Around several reads that are to be of one content."""
        watch = ContentWatch()
        self._watches.setdefault(inode, []).append(watch)
        try:
            yield watch
        finally:
            watches = self._watches[inode]
            watches.remove(watch)
            if not watches:
                del self._watches[inode]

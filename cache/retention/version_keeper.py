"""The versions of conflicts: their commit is pinned for thirty days, and they go (`cache.rebase.versions`).

Invariant: pin and deletion are one batch, on a commit that has the whole content. A kill before it leaves all
to the next look, of the next process too.

Event-loop thread only.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from backend.system import Environment
from cache.journal import Ledger
from cache.namespace import Delete, Pin
from cache.rebase import published_versions
from cache.retention.automatic_pins import pin_name

REASON: Final = "conflict"


class VersionKeeper:
    """See the module. `held`: whether somebody has an inode open, and may write to it still."""

    def __init__(self, ledger: Ledger, held: Callable[[int], bool], environment: Environment) -> None:
        self._ledger = ledger
        self._held = held
        self._environment = environment

    def look(self) -> None:
        """To be called about once a second. Raises what accepting raises; the next call tries again."""
        namespace = self._ledger.namespace
        due = [
            inode
            for inode in published_versions(namespace)
            if self._ledger.dirty.get(inode) is None and not self._held(inode)
        ]
        name = pin_name(REASON, namespace.device, self._environment.wall_clock())
        if due and name not in namespace.points.pins():
            pin = Pin(name, namespace.head().number)
            self._ledger.accept_all([pin, *map(Delete, due)])

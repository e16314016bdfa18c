"""`tests.mount.faulty_mount` whose changes wait for room until there is some, when the journal has 4 MiB: a
test that kills who waits sees no other end of it."""

from __future__ import annotations

from cache.journal import Ledger, Trimming
from cache.publish.pressure import Pressure
from cache.tree import intake
from tests.mount import faulty_mount


def main() -> None:
    """The command."""
    make = Pressure.__init__

    def small(self: Pressure, ledger: Ledger, trimming: Trimming, _journal_limit: int) -> None:
        make(self, ledger, trimming, 4 << 20)

    setattr(Pressure, "__init__", small)  # noqa: B010 - the class has another
    setattr(intake, "PATIENCE", 3600.0)  # noqa: B010 - it is final elsewhere
    faulty_mount.main()

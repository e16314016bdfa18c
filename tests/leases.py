"""Leases of several mounts on nodes in memory, for tests."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace

import trio
import trio.testing

from backend.commits import lease_record
from backend.commits.lease import Lease
from backend.commits.lease_record import NO_CLAIM, Holder, LeaseRecord
from backend.commits.process_identity import Life
from backend.system import Environment
from tests.memory_node import MemoryNode, memory_nodes

DRIVE = bytes(range(16))
SECRET = bytes(range(32))
HOLDER = Holder("machine", "boot", "ns", 7, 11, "host")
RECORD = LeaseRecord(
    DRIVE.hex(), 3, True, 2, "token", "nonce", 1, NO_CLAIM, 30.0, 1_700_000_000_000_000_000, HOLDER
)


def stored(record: LeaseRecord) -> bytes:
    """As who has the key stores it."""
    return lease_record.encode(record, SECRET)


class Setup:
    """Six nodes and any number of mounts, each on a machine of its own unless `life` says otherwise."""

    def __init__(self, count: int = 6) -> None:
        self.nodes: dict[str, MemoryNode] = memory_nodes(count)
        self.life: Life = "elsewhere"

    def lease(
        self,
        host: str = "one",
        waiting: Callable[[str], None] = lambda _: None,
        seconds: float = 30,
        boot_clock: Callable[[], float] = trio.current_time,
    ) -> Lease:
        return Lease(
            self.nodes,
            DRIVE,
            SECRET,
            replace(HOLDER, host=host, machine=host),
            seconds=seconds,
            environment=Environment(boot_clock=boot_clock),
            life=lambda holder, observer: self.life,
            waiting=waiting,
        )

    async def held(self, host: str = "one", seconds: float = 30) -> Lease:
        lease = self.lease(host, seconds=seconds)
        await lease.acquire()
        return lease

    def counted(self) -> Counter[str]:
        """The calls to all nodes from now on, by their names."""
        found: Counter[str] = Counter()

        async def before(called: str, _key: str) -> None:
            found[called] += 1
            await trio.lowlevel.checkpoint()

        for node in self.nodes.values():
            node.before = before
        return found

    def lose(self, *names: str) -> None:
        for name, node in self.nodes.items():
            node.away = name in names

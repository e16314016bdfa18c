"""`python -m bench.hub_capacity [--validate]`: what a hub of so many accounts needs, and where it stops.

A model of unit costs: the work of a second is counted by kinds, each kind costs so much (`bench.hub_costs`,
measured by `bench.hub_load`), and what comes out is divided by what one machine has. Nothing is assumed of
queues: figures are of the mean load at `full` of a machine. `--validate` measures the unit costs on this
machine anew, and compares three mixed runs with what the model says of them.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Final

from backend.hub.compaction import BYTES_PER_SECOND
from backend.hub.packing import TARGET as PACK_BYTES
from backend.nodes import MAX_NODES
from backend.packs.thin_packs import THIN
from bench.hub_costs import COSTS, Cost, Costs

KIB: Final = 1 << 10
MIB: Final = 1 << 20
GIB: Final = 1 << 30
TIB: Final = 1 << 40
FRAGMENTS: Final = 6
"""Of a pack, with 4+2."""
DAY: Final = 86_400


@dataclass(frozen=True, slots=True)
class Demand:
    """Of what people do; `saves` and `reads` in the busiest hour. Sizes in bytes, as they are sealed."""

    accounts: int = 50_000_000
    active: int = 10_000_000
    """accounts of a day"""
    devices_each: float = 1.5
    """devices of an active account that wait at the same time"""
    saves: float = 480.0
    """files a second that are stored"""
    save_bytes: int = 1 * MIB
    reads_each: float = 2.0
    """times that what is stored is read by other devices"""
    block_bytes: int = 512 * KIB
    """the mean"""
    stored_each: int = 10_000_000_000
    """bytes of an account"""
    poll_seconds: float = 60.0
    peak: float = 2.0
    """the busiest hour, of the mean"""
    replaced: float = 1.0
    """bytes that are released for each byte that is stored; with 1, what is stored does not grow"""


@dataclass(frozen=True, slots=True)
class Machines:
    """What there is to divide by. `full`: a machine is loaded so far and not farther."""

    full: float = 0.6
    cores: int = 16
    """of a server of PostgreSQL"""
    database_bytes: int = 4 << 40
    """of tables, of a server of PostgreSQL: what is restored in a day"""
    process_polls: int = 5000
    node_bytes: int = 500 << 40
    """a bucket, or a rack"""
    overhead: float = 1.5
    """bytes on nodes for a byte: 4+2"""
    shards: int = 256
    rewriting: float = BYTES_PER_SECOND / 2
    """bytes of thin packs a second, of a shard: a round reads for a minute, and the next is a minute later"""


@dataclass(frozen=True, slots=True)
class Work:
    """Operations, of a second or of a run. `named`: blocks that commits add; `blocks`: those of packs beyond
    the first one of each. `idle`: seconds that polls wait, of all of them together; `looking`: seconds in
    which processes have polls, and look for commits of others."""

    appends: float = 0.0
    named: float = 0.0
    packs: float = 0.0
    blocks: float = 0.0
    stored_mib: float = 0.0
    asked: float = 0.0
    reads: float = 0.0
    read_mib: float = 0.0
    logs: float = 0.0
    polls: float = 0.0
    idle: float = 0.0
    looking: float = 0.0

    def kinds(self) -> Mapping[str, float]:
        """By the names that costs have."""
        return {name: getattr(self, name) for name in self.__slots__}


def used(work: Work, costs: Costs) -> Cost:
    """All of it together: a second's work gives processors that are busy, and bytes a second."""
    total = Cost()
    for name, count in work.kinds().items():
        each = costs.by_kind[name]
        total = _both(total, Cost(count * each.hub_ms, count * each.database_ms, count * each.wal_bytes))
    return total


def work_of(demand: Demand, machines: Machines) -> Work:
    """Of one second of the busiest hour. A file that is stored is a question, a pack and a commit; every
    device that waits for the drive lists the log once for it."""
    waiting = demand.active * demand.devices_each
    blocks = max(1.0, demand.save_bytes / demand.block_bytes)
    read_bytes = demand.saves * demand.save_bytes * demand.reads_each
    return Work(
        appends=demand.saves,
        packs=demand.saves,
        named=demand.saves * blocks,
        blocks=demand.saves * (blocks - 1),
        stored_mib=demand.saves * demand.save_bytes / MIB,
        asked=demand.saves,
        reads=max(demand.saves * demand.reads_each, read_bytes / demand.block_bytes),
        read_mib=read_bytes / MIB,
        logs=demand.saves * demand.reads_each,
        polls=waiting / demand.poll_seconds + demand.saves * demand.reads_each,
        idle=waiting,
        looking=math.ceil(waiting / machines.process_polls),
    )


def rewriting_of(demand: Demand) -> Work:
    """Of one second of the mean of a day: thin packs. A pack is rewritten when `THIN` of it is needed, so for
    each byte that is released 1 / (1 - THIN) bytes are read, and THIN / (1 - THIN) stored anew. Packs are as
    large as a save before, and full ones after."""
    released = demand.saves / demand.peak * demand.save_bytes * demand.replaced
    read, moved = released / (1 - THIN), released * THIN / (1 - THIN)
    return Work(
        packs=moved / PACK_BYTES,
        blocks=moved / demand.block_bytes,
        stored_mib=moved / MIB,
        reads=read / min(demand.save_bytes, PACK_BYTES),
        read_mib=read / MIB,
    )


@dataclass(frozen=True, slots=True)
class Need:
    """One resource: how much of it, in that unit, how many machines that is, and of which kind."""

    resource: str
    amount: float
    unit: str
    machines: int
    of: str


@dataclass(frozen=True, slots=True)
class Plan:
    """Each resource, and how many times the demand the design bears before the first one stops."""

    needs: tuple[Need, ...]
    bears: Mapping[str, float] = field(default_factory=dict)

    def need(self, resource: str) -> Need:
        """By its name."""
        return next(each for each in self.needs if each.resource == resource)


TARGET: Final = Demand()
MACHINES: Final = Machines()


def plan(demand: Demand, costs: Costs = COSTS, machines: Machines = MACHINES) -> Plan:
    """The needs of the demand."""
    work, rewriting = work_of(demand, machines), rewriting_of(demand)
    busy = _both(used(work, costs), used(rewriting, costs))
    hub, database = (each / 1000 / machines.full for each in (busy.hub_ms, busy.database_ms))
    waiting = demand.active * demand.devices_each
    blocks, commits = _table_bytes(demand, costs)
    tables = blocks + commits
    nodes = float(demand.accounts) * demand.stored_each * machines.overhead
    thinnest, node, rate = nodes / THIN / TIB, machines.node_bytes / TIB, machines.rewriting / MIB
    fragments = (work.packs + rewriting.packs) * FRAGMENTS
    incoming, outgoing = (mib * MIB * 8 / 1e9 for mib in (work.stored_mib, work.read_mib))
    servers = max(database / machines.cores, tables / machines.database_bytes)
    needs = (
        _need("hub processes, by processor", hub, "cores", 1, "a core each, 60 % busy"),
        _need("hub processes, by polls", waiting, "polls", machines.process_polls, "5,000 each"),
        _need("memory of all polls", waiting * costs.poll_bytes / GIB, "GiB", 64, "64 GiB each"),
        _need("PostgreSQL, by processor", database, "cores", machines.cores, "16 cores each"),
        _need("PostgreSQL, by tables", tables / TIB, "TiB", machines.database_bytes / TIB, "4 TiB each"),
        _need("of these rows of blocks", blocks / TIB, "TiB", machines.database_bytes / TIB, "4 TiB each"),
        _need("write-ahead log", busy.wal_bytes / MIB, "MiB/s", 100, "100 MiB/s each"),
        _need("nodes, by bytes", nodes / TIB, "TiB", node, "500 TiB each"),
        _need("nodes, with packs at their thinnest", thinnest, "TiB", node, "500 TiB each"),
        _need("rewriting of thin packs", rewriting.read_mib, "MiB/s", rate, "8 MiB/s a shard"),
        _need("nodes, by fragments", fragments, "a second", 100, "100 a second each"),
        _need("incoming", incoming, "Gbit/s", 10, "10 Gbit/s each"),
        _need("outgoing", outgoing, "Gbit/s", 10, "10 Gbit/s each"),
    )
    bears = {
        "256 shards, a server each, by tables": machines.shards * machines.database_bytes / tables,
        "256 shards, a server each, by processor": machines.shards * machines.cores / database,
        "1,024 nodes in one hub.toml": MAX_NODES * machines.node_bytes / nodes,
        "one server of PostgreSQL": 1 / servers,
    }
    return Plan(needs, bears)


def _both(one: Cost, other: Cost) -> Cost:
    return Cost(
        one.hub_ms + other.hub_ms, one.database_ms + other.database_ms, one.wal_bytes + other.wal_bytes
    )


def _table_bytes(demand: Demand, costs: Costs) -> tuple[float, float]:
    """Of blocks, and of the commits of a year."""
    blocks = float(demand.accounts) * demand.stored_each / demand.block_bytes * costs.block_row_bytes
    kept = demand.accounts * costs.kept_commits * costs.commit_bytes
    return blocks, kept + demand.saves / demand.peak * DAY * 365 * costs.moved_row_bytes


def _need(resource: str, amount: float, unit: str, each: float, of: str) -> Need:
    return Need(resource, amount, unit, math.ceil(amount / each), of)


def table(demand: Demand, found: Plan) -> str:
    """As Markdown."""
    lines = [
        f"{demand.accounts:,} accounts, {demand.active:,} active a day, {demand.saves:g} saves a second of"
        f" {demand.save_bytes / MIB:g} MiB, {demand.accounts * demand.stored_each / 1e15:,.0f} PB\n",
        "| resource | amount | machines | machines of |\n|---|---|---|---|",
        *(f"| {n.resource} | {n.amount:,.4g} {n.unit} | {n.machines:,} | {n.of} |" for n in found.needs),
        "\n| limit of the design | times this demand |\n|---|---|",
        *(f"| {name} | {times:,.2f} |" for name, times in sorted(found.bears.items(), key=lambda b: b[1])),
    ]
    return "\n".join(lines)


SMALL: Final = Demand(accounts=20, active=10, devices_each=3, saves=0.05, stored_each=200_000_000_000)
"""A home or an office."""


def main() -> None:
    """Prints the tables, or the comparison."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--validate", action="store_true", help="compare with three runs on this machine")
    if parser.parse_args().validate:
        from bench.hub_validation import validate

        validate()
        return
    print(f"unit costs of {COSTS.date}, {COSTS.machine}\n")
    for demand in (TARGET, replace(TARGET, accounts=500_000, active=100_000, saves=4.8), SMALL):
        print(table(demand, plan(demand)), end="\n\n")


if __name__ == "__main__":
    main()

"""A hub to measure: `drivefs-hub serve` as an operator runs it, PostgreSQL that syncs, nodes in folders.

The load comes from another process, so that processor time and memory of the hub are those of its process.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import httpx
import psycopg

from tests.hub_process import HubProcess
from tests.postgres import cluster, new_database

_COUNTED: Final = ("shared_preload_libraries=pg_stat_statements", "pg_stat_statements.track=top")
_TICK: Final = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class MeasuredHub:
    """Where a hub is, and the processes that its work is done in."""

    port: int
    conninfo: str
    metrics: str
    process: int
    postmaster: int

    def polls(self) -> int:
        """The number of those that wait."""
        shown = httpx.get(self.metrics, timeout=60).text
        return int(float(shown.partition("\ndrivefs_hub_polls ")[2].partition("\n")[0]))

    def memory(self) -> int:
        """Bytes of the hub's process that are in memory."""
        with open(f"/proc/{self.process}/statm") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    def processor_seconds(self) -> float:
        """Of the hub, so far."""
        return _processor_seconds(self.process)

    def database_seconds(self) -> float:
        """Of PostgreSQL, so far: of all its processes, those that have ended too."""
        return _processor_seconds(self.postmaster, ended=True) + sum(
            _processor_seconds(each) for each in _children(self.postmaster)
        )


@contextmanager
def measured_hub(folder: Path) -> Iterator[MeasuredHub]:
    """A hub with a new database and empty nodes in `folder`, while the block runs. `NoServerError`."""
    server = cluster(_COUNTED)
    conninfo = new_database(server)
    with psycopg.connect(conninfo, autocommit=True) as connection:
        connection.execute("CREATE EXTENSION pg_stat_statements")
    hub = HubProcess(folder, conninfo=conninfo)
    postmaster = int(Path(server, "data", "postmaster.pid").read_text().split()[0])
    with hub.serving() as process:
        yield MeasuredHub(int(hub.url.rpartition(":")[2]), conninfo, hub.metrics, process.pid, postmaster)


def _processor_seconds(process: int, ended: bool = False) -> float:
    """Of a process, and of its children that have `ended`; 0 if it has ended itself."""
    try:
        fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    except FileNotFoundError:
        return 0.0
    return sum(int(each) for each in fields[11 : 15 if ended else 13]) / _TICK


def _children(process: int) -> list[int]:
    return [int(each) for each in Path(f"/proc/{process}/task/{process}/children").read_text().split()]

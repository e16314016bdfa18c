"""A hub in a process of its own, for measuring: PostgreSQL that syncs, nodes in folders, uvicorn.

The load comes from another process, so that processor time and memory of the hub are those of its process.
`python -m bench.hub_process CONNINFO FOLDER` prints its port and serves until it is ended.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import anyio
import psycopg
import uvicorn

from backend.coding import ClusterMap, ClusterNode
from backend.coding.erasure import Profile, code_for
from backend.hub import (
    Accounts,
    Attempts,
    BlockTable,
    CommitTable,
    Database,
    Directory,
    Heads,
    Hub,
    HubBlocks,
    Imports,
    Pepper,
    Quotas,
    RequestRates,
    app,
    listener_at,
    migrate,
)
from backend.nodes import DirectoryNode, NodeIdentity, initialise_directory_node
from tests.postgres import cluster, new_database

PROFILE: Final = "4+2"
_NODES: Final = 6
_COUNTED: Final = ("shared_preload_libraries=pg_stat_statements", "pg_stat_statements.track=top")
_TICK: Final = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class HubProcess:
    """Where a hub is, and the processes that its work is done in."""

    port: int
    conninfo: str
    process: int
    postmaster: int

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
def hub_process(folder: Path) -> Iterator[HubProcess]:
    """A hub with a new database and empty nodes in `folder`, while the block runs. `NoServerError`."""
    server = cluster(_COUNTED)
    conninfo = new_database(server)
    with psycopg.connect(conninfo, autocommit=True) as connection:
        connection.execute("CREATE EXTENSION pg_stat_statements")
    command = [sys.executable, "-m", "bench.hub_process", conninfo, str(folder)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        port = int(process.stdout.readline())
        postmaster = int(Path(server, "data", "postmaster.pid").read_text().split()[0])
        yield HubProcess(port, conninfo, process.pid, postmaster)
    finally:
        process.terminate()
        process.wait()


def _processor_seconds(process: int, ended: bool = False) -> float:
    """Of a process, and of its children that have `ended`; 0 if it has ended itself."""
    try:
        fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    except FileNotFoundError:
        return 0.0
    return sum(int(each) for each in fields[11 : 15 if ended else 13]) / _TICK


def _children(process: int) -> list[int]:
    return [int(each) for each in Path(f"/proc/{process}/task/{process}/children").read_text().split()]


async def _serve(conninfo: str, folder: Path) -> None:
    async with await psycopg.AsyncConnection.connect(conninfo, autocommit=True) as connection:
        await migrate(connection)
    database = Database(conninfo)
    await database.open()
    nodes = {each.name: each for each in _nodes(folder)}
    placed = ClusterMap(1, tuple(ClusterNode(name, node.zone) for name, node in nodes.items()))
    listener = listener_at("127.0.0.1", 0)
    async with anyio.create_task_group() as group:
        table, heads = BlockTable(database), Heads(database)
        blocks = HubBlocks(table, nodes, placed, code_for(Profile.parse(PROFILE)), b"k" * 32, group)
        group.start_soon(heads.run)
        directory, commits, pepper = Directory(database), CommitTable(database), Pepper(b"p" * 32)
        accounts = Accounts(database, pepper, is_open=False, attempts=Attempts(database, pepper))
        rates = RequestRates(rate=1e6, burst=1e6)  # a device of a bench makes the requests of many
        hub = Hub(
            directory,
            commits,
            table,
            blocks,
            heads,
            accounts,
            Quotas(database),
            rates,
            Imports(database, commits),
        )
        config = uvicorn.Config(app(hub), log_level="warning", lifespan="off", timeout_graceful_shutdown=1)
        print(listener.getsockname()[1], flush=True)
        await uvicorn.Server(config).serve([listener])
        group.cancel_scope.cancel()
    await database.close()


def _nodes(folder: Path) -> Iterator[DirectoryNode]:
    for at in range(_NODES):
        identity = NodeIdentity(f"node{at}", b"hub node".ljust(16), f"zone{at}")
        path = str(folder / identity.name)
        initialise_directory_node(path, identity.drive_id, identity.name, identity.zone)
        yield DirectoryNode(path, identity)


if __name__ == "__main__":
    asyncio.run(_serve(sys.argv[1], Path(sys.argv[2])))

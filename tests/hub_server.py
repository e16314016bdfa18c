"""A hub for tests: the real application on a real database, served by a thread of this process."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Coroutine, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import anyio
import psycopg
import pytest
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
    Presences,
    PresenceTable,
    Quotas,
    RequestRates,
    app,
    listener_at,
    migrate,
)
from tests.memory_node import MemoryNode, memory_nodes
from tests.postgres import new_database
from tests.servers import NoServerError

T = TypeVar("T")
PEPPER = Pepper(b"p" * 32)


@dataclass
class RunningHub:
    """Where it is, and how to do what an operator does."""

    url: str
    conninfo: str
    nodes: Mapping[str, MemoryNode]
    hub: Hub
    database: Database
    loop: asyncio.AbstractEventLoop

    def call(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run on the hub's loop; the result."""
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop).result(60)

    def new_drive(self) -> tuple[bytes, bytes]:
        """A new account with a device and a drive: the drive's id, the device's token."""
        uuid, directory = os.urandom(16), self.hub.directory
        account = self.call(directory.add_account(f"{uuid.hex()}@example.org"))
        self.call(directory.add_drive(account, uuid))
        return uuid, self.call(directory.add_device(account))

    def another_token(self, token: bytes) -> bytes:
        """That of a new device of the same account."""
        directory = self.hub.directory
        return self.call(directory.add_device(self.call(directory.device(token)).account))


@contextmanager
def hub_for_test() -> Iterator[RunningHub]:
    """A hub with a new database; the test is skipped where there is no PostgreSQL."""
    try:
        database = new_database()
    except NoServerError as error:
        pytest.skip(str(error))
    with hub(database) as found:
        yield found


@contextmanager
def hub(conninfo: str, port: int = 0, nodes: Mapping[str, MemoryNode] | None = None) -> Iterator[RunningHub]:
    """A hub that runs while the block does, on six nodes in memory. One that goes on where another has ended
    is given that one's `port` and `nodes`."""
    if nodes is None:
        nodes = {name: node for name, node in memory_nodes(6).items() if isinstance(node, MemoryNode)}
    started = threading.Event()
    found: list[tuple[Hub, Database, asyncio.AbstractEventLoop, uvicorn.Server]] = []
    failures: list[BaseException] = []
    listener = listener_at("127.0.0.1", port)

    async def run() -> None:
        async with await psycopg.AsyncConnection.connect(conninfo, autocommit=True) as connection:
            await migrate(connection)
        database = Database(conninfo)
        await database.open()
        cluster = ClusterMap(1, tuple(ClusterNode(node.name, node.zone) for node in nodes.values()))
        async with anyio.create_task_group() as group:
            table = BlockTable(database)
            blocks = HubBlocks(table, nodes, cluster, code_for(Profile.parse("4+2")), b"k" * 32, group)
            heads = Heads(database)
            accounts = Accounts(
                database, PEPPER, is_open=True, attempts=Attempts(database, PEPPER, burst=5, refill=3600)
            )
            directory, commits, rates = Directory(database), CommitTable(database), RequestRates()
            quotas, imports = Quotas(database, fresh=0), Imports(database, commits)
            presences = Presences(PresenceTable(database))
            parts = Hub(directory, commits, table, blocks, heads, accounts, quotas, rates, imports, presences)
            group.start_soon(heads.run)
            group.start_soon(presences.run)
            config = uvicorn.Config(
                app(parts), log_level="warning", lifespan="off", timeout_graceful_shutdown=1
            )
            server = uvicorn.Server(config)
            found.append((parts, database, asyncio.get_running_loop(), server))
            started.set()
            await server.serve([listener])
            group.cancel_scope.cancel()
        await database.close()

    def main() -> None:
        try:
            asyncio.run(run())
        except BaseException as error:
            failures.append(error)
        finally:
            started.set()

    thread = threading.Thread(target=main)
    thread.start()
    started.wait(30)
    if failures:
        raise failures[0]
    parts, database, loop, server = found[0]
    try:
        yield RunningHub(
            f"http://127.0.0.1:{listener.getsockname()[1]}", conninfo, nodes, parts, database, loop
        )
    finally:
        server.should_exit = True
        thread.join(30)
        if failures:
            raise failures[0]

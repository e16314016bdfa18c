"""A hub that is opened by its folder: its file, its secrets, its nodes, and the parts made of them."""

from __future__ import annotations

import argparse
import os
from collections.abc import AsyncIterator, Coroutine, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any, Final, TypeVar

import anyio

from backend.coding import code_for
from backend.errors import sole
from backend.hub import (
    BlockTable,
    Database,
    DatabaseAge,
    HubBlocks,
    HubFile,
    PackTable,
    hub_file,
    require_current,
)
from backend.nodes import Node, NodeIdentity, PatientNode, RetryNode
from backend.system import Group, plain_task_group
from tools.errors import Parser

PATIENCE: Final = 30.0
"""Seconds for one call of a node: one that takes longer is away."""
Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class HubFolder:
    """The folder of a hub, absolute, and what its file says."""

    path: str
    file: HubFile

    @classmethod
    def load(cls, path: str) -> HubFolder:
        """`NotFoundError`, `FormatError`."""
        folder = os.path.abspath(path)
        return cls(folder, hub_file.load(os.path.join(folder, hub_file.FILE_NAME)))

    def secret(self, file: str) -> bytes:
        """The secret in a file that the hub file names."""
        return hub_file.read_secret(os.path.join(self.path, file))

    def nodes(self) -> dict[str, Node]:
        """All nodes by name, also those that are away: each call finds out."""
        found: dict[str, Node] = {}
        for entry in self.file.nodes:
            identity = NodeIdentity(entry.name, self.file.id, entry.zone)
            found[entry.name] = RetryNode(PatientNode(entry.place(self.path).node(identity), PATIENCE))
        return found


@dataclass(frozen=True, slots=True)
class HubParts:
    """What commands and requests work with. `group`: the tasks that store, which `opened` waits for."""

    folder: HubFolder
    database: Database
    nodes: Mapping[str, Node]
    table: BlockTable
    packs: PackTable
    blocks: HubBlocks
    age: DatabaseAge
    group: Group


@asynccontextmanager
async def opened(folder: HubFolder) -> AsyncIterator[HubParts]:
    """The hub's parts. `TransientError`: no database; `FormatError`: it is to be migrated."""
    file, nodes = folder.file, folder.nodes()
    key = folder.secret(file.pack_key_file)
    async with database_of(folder) as database, plain_task_group() as group:
        table = BlockTable(database)
        blocks = HubBlocks(table, nodes, file.cluster(), code_for(file.profile), key, group)
        age = DatabaseAge(database, nodes, file.id, key)
        yield HubParts(folder, database, nodes, table, PackTable(database), blocks, age, group)


@asynccontextmanager
async def database_of(folder: HubFolder) -> AsyncIterator[Database]:
    """The hub's database, which has the schema of this version. Errors as of `opened`."""
    database = Database(folder.file.database)
    try:
        await database.open()
        async with database.transaction() as connection:
            await require_current(connection)
        yield database
    finally:
        await database.close()


def run(work: Coroutine[Any, Any, Result]) -> Result:
    """Run a command on asyncio, with uvloop where that is installed; the error that is alone in a group is
    raised as it is."""

    async def main() -> Result:
        return await work

    try:
        return anyio.run(main, backend="asyncio", backend_options={"use_uvloop": _has_uvloop()})
    except BaseExceptionGroup as group:
        raise sole(group) from None


def _has_uvloop() -> bool:
    return find_spec("uvloop") is not None


def add_hub(parser: Parser) -> None:
    """The argument that says which hub."""
    parser.add_argument("hub", metavar="HUB", help=f"the hub's folder, which has its {hub_file.FILE_NAME}")


def folder_of(options: argparse.Namespace) -> HubFolder:
    """The hub that it says."""
    return HubFolder.load(options.hub)

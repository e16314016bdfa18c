"""A pack as the database has it: the columns `id`, `size`, `nodes` and `missing` of its row.

The row does not have the pack's size on the nodes (`Pack.stored_size`), which nobody asks a hub for: a pack
that was read from here has 0 there.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from backend.hub.database import Connection
from backend.packs import Pack

_ADD: Final = "INSERT INTO pack (id, drive, size, nodes, missing, shrunk) VALUES (%s, %s, %s, %s, %s, false)"

_SHRUNK: Final = (
    "UPDATE pack SET shrunk = true, emptied ="
    " CASE WHEN NOT EXISTS (SELECT 1 FROM place WHERE pack = %(pack)s) THEN now() END WHERE id = %(pack)s"
)


def pack_of(pack_id: bytes, size: int, nodes: Sequence[str], missing: int) -> Pack:
    """The pack of these columns."""
    return Pack(bytes(pack_id), size, 0, tuple(nodes), missing)


async def mark_shrunk(connection: Connection, pack: Pack) -> None:
    """In the transaction that adds the pack: not all of it is read from. If nothing is, it is kept as if it
    had been emptied: where this database was restored by mistake, a newer dump may name it."""
    await connection.execute(_SHRUNK, {"pack": pack.id})


async def add_pack(connection: Connection, drive: int, pack: Pack) -> None:
    """In a transaction: a new pack of the drive."""
    await connection.execute(_ADD, (pack.id, drive, pack.size, [*pack.nodes], pack.missing))

"""Packs that nodes have and no transaction entered: of writes that were cut off, or later than a database
that was put back. They are found page by page in the nodes' listings, and go when their time is over. The
database has how far each node is listed: processes that come and go reach the end of a large one together.

Invariants:
1. A pack is deleted that was listed twice, `grace` seconds or more apart, and was not entered in between. So
   one that is on its way stays, whichever process has it; and who put back a dump by mistake has that long
   to put back a newer one.
2. A pack that ended is never entered: who enters one and who ends one exclude each other by a lock, and the
   ended ones are remembered for `_REMEMBERED` after that. A process that was stopped in the middle of a write
   is told to store the blocks anew.
3. It is safe by several processes at once and to cut off anywhere: what is left of an ended pack, or comes
   late, goes when it is listed next.
asyncio's thread.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping, Sequence
from typing import Final

from backend.errors import DriveError
from backend.failpoints import declare
from backend.hub.database import Database
from backend.nodes import Node
from backend.packs import fragment_key, parse_fragment_key
from backend.system import THIS_MACHINE, Environment

PAGE: Final = 1000
"""Keys of a node that one round looks at."""
PAUSE: Final = 86_400.0
"""Seconds from the end of a node's listing to its next begin: each page costs a request."""
_REMEMBERED: Final = "90 days"

ENDED: Final = declare("stray-pack.ended", "a stray pack cannot be entered any more; its fragments are there")
DELETING: Final = declare(
    "stray-pack.deleting", "a fragment of a stray pack is about to go; others may be gone"
)

log = logging.getLogger(__name__)

_SEE: Final = (
    # In one order: a check may see the same packs at this moment.
    "INSERT INTO stray_pack (id) SELECT unnest(%(ids)s::bytea[]) EXCEPT SELECT id FROM pack"
    " WHERE id = ANY(%(ids)s) ORDER BY 1 ON CONFLICT DO NOTHING"
)
_DUE: Final = (
    "SELECT id, ended IS NOT NULL FROM stray_pack s WHERE id = ANY(%s)"
    " AND (ended IS NOT NULL OR seen < now() - make_interval(secs => %s))"
    " AND NOT EXISTS (SELECT 1 FROM pack p WHERE p.id = s.id)"
)
_LOCK: Final = "SELECT pg_try_advisory_xact_lock(pack_lock(%s))"
_END: Final = (
    "UPDATE stray_pack s SET ended = now() WHERE id = %s"
    " AND NOT EXISTS (SELECT 1 FROM pack p WHERE p.id = s.id)"
)
_FORGET: Final = (
    "DELETE FROM stray_pack s WHERE CASE WHEN ended IS NOT NULL"
    f" THEN ended < now() - interval '{_REMEMBERED}'"
    f" ELSE seen < now() - make_interval(secs => %s) - interval '{_REMEMBERED}'"
    " OR EXISTS (SELECT 1 FROM pack p WHERE p.id = s.id) END"
)
_LISTINGS: Final = (
    "SELECT name, coalesce(l.after, '') FROM unnest(%s::text[]) name"
    " LEFT JOIN node_listing l ON l.node = name WHERE l.due IS NULL OR l.due <= now()"
)
_LISTED: Final = (
    "INSERT INTO node_listing (node, after, due) VALUES (%s, %s, now() + make_interval(secs => %s))"
    " ON CONFLICT (node) DO UPDATE SET after = excluded.after, due = excluded.due"
)


class StrayPackTable:
    """Stray packs in the database. `grace` in seconds. Any number of tasks and processes at once.
    `TransientError`: as of `Database`."""

    def __init__(self, database: Database, grace: float) -> None:
        self._database = database
        self._grace = grace

    async def see(self, packs: Collection[bytes]) -> None:
        """Nodes list these packs now: those that are not entered are strays, since they were seen first."""
        await self._database.execute(_SEE, {"ids": [*packs]})

    async def due(self, packs: Collection[bytes]) -> dict[bytes, bool]:
        """Those of the packs whose time is over, and whether they ended."""
        rows = await self._database.rows(_DUE, ([*packs], self._grace))
        return {bytes(pack): ended for pack, ended in rows}

    async def end(self, pack: bytes) -> bool:
        """From now on nobody enters the pack; False: it was, or another is at it just now."""
        async with self._database.transaction() as connection:
            row = await (await connection.execute(_LOCK, (pack,))).fetchone()
            if row is None or not row[0]:
                return False
            # What the one before has entered is seen by a statement that begins under the lock.
            return (await connection.execute(_END, (pack,))).rowcount == 1

    async def count(self) -> int:
        """Those that were seen and have not ended."""
        row = await self._database.row("SELECT count(*) FROM stray_pack WHERE ended IS NULL")
        assert row is not None
        return int(row[0])

    async def forget(self) -> None:
        """Forget those that were entered after all, were not listed any more, or ended long ago."""
        await self._database.execute(_FORGET, (self._grace,))

    async def listings(self, nodes: Collection[str]) -> dict[str, str]:
        """Those of the nodes whose turn it is, each with the key that its listing goes on after."""
        return dict(await self._database.rows(_LISTINGS, ([*nodes],)))

    async def note_listing(self, node: str, after: str, pause: float) -> None:
        """The node is listed up to that key, and goes on in `pause` seconds."""
        await self._database.execute(_LISTED, (node, after, pause))


class StrayPacks:
    """See the module. One round at a time."""

    def __init__(
        self, table: StrayPackTable, nodes: Mapping[str, Node], environment: Environment = THIS_MACHINE
    ) -> None:
        self._table = table
        self._nodes = nodes
        self._failpoints = environment.failpoints

    async def round(self, away: Collection[str] = ()) -> int:
        """Look at a page of each node whose turn it is, and that is not `away`; how many fragments were
        deleted. A node that does not answer waits for the next round. `TransientError`: the database does
        not."""
        deleted = 0
        asked = [name for name in self._nodes if name not in away]
        for name, after in (await self._table.listings(asked)).items():
            try:
                deleted += await self._go_on(name, after)
            except DriveError as error:
                log.info("%s: packs that nobody knows are looked for later: %s", name, error)
        await self._table.forget()
        if deleted:
            log.info("fragments of stray packs were deleted", extra={"fields": {"fragments": deleted}})
        return deleted

    async def _go_on(self, name: str, after: str) -> int:
        """Look at the page behind that key. The next one comes when all that is due on this one is gone."""
        keys = await self._nodes[name].keys("packs/", after, PAGE)
        deleted = await self._look(name, keys)
        is_last = len(keys) < PAGE
        await self._table.note_listing(name, "" if is_last else keys[-1], PAUSE if is_last else 0.0)
        return deleted

    async def _look(self, name: str, keys: Sequence[str]) -> int:
        """The node lists these keys: delete what is due; how many fragments. Errors of the node."""
        found = [*filter(None, map(parse_fragment_key, keys))]
        packs = {pack for pack, _ in found}
        await self._table.see(packs)
        due = await self.ended(packs)
        for pack, index in found:
            if pack in due:
                await self.delete(name, pack, index)
        return sum(pack in due for pack, _ in found)

    async def delete(self, name: str, pack: bytes, index: int) -> None:
        """The fragment of an ended pack on that node. Idempotent; errors of the node."""
        self._failpoints.reached(DELETING)
        await self._nodes[name].delete(fragment_key(pack, index))

    async def ended(self, packs: Collection[bytes]) -> set[bytes]:
        """Those of the packs whose time is over, and that cannot be entered any more."""
        found = set()
        for pack, has_ended in (await self._table.due(packs)).items():
            if has_ended or await self._table.end(pack):
                self._failpoints.reached(ENDED)
                found.add(pack)
        return found

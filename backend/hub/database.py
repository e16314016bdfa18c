"""The hub's database: a pool of connections to PostgreSQL, transactions, and its errors in our words.

A connection string may name several servers (`host=a,b target_session_attrs=read-write`): after a fail-over
the pool finds the new primary.

Invariants:
1. A transaction is committed when the `transaction` block ends without an error, and only then.
2. A connection that met an error of the server or the network is not used again: its server may be no primary
   any more (SQLSTATE 25006). Only a new connection is asked whether its server takes writes: a primary that
   becomes a standby restarts, and that ends its old connections.
3. A statement by itself (`rows`, `execute`) is one round trip.
4. A process that stops in the middle of a transaction holds its locks for `idle` seconds at most: the server
   ends its connection then, and nothing of the transaction is done.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, Final, TypeAlias

import psycopg
from psycopg import AsyncConnection
from psycopg_pool import AsyncConnectionPool, PoolTimeout

from backend.errors import TransientError

Connection: TypeAlias = AsyncConnection
_RETRIABLE = (
    psycopg.OperationalError,
    psycopg.InterfaceError,
    PoolTimeout,
    psycopg.errors.ReadOnlySqlTransaction,
    psycopg.errors.IdleInTransactionSessionTimeout,
)


Values = Sequence[Any] | Mapping[str, Any]


_RECONNECTING: Final = 3.0
"""Seconds after which an attempt to connect begins anew, at the next request: its pauses double, so that one
which went on for as long as a fail-over would notice its end as long after it."""


class Database:
    """See the module. `size`: the most connections; `patience`: seconds to wait for one. asyncio's thread."""

    def __init__(self, conninfo: str, size: int = 16, patience: float = 10.0, idle: float = 60.0) -> None:
        made = partial(
            AsyncConnectionPool[AsyncConnection],
            conninfo,
            timeout=patience,
            reconnect_timeout=_RECONNECTING,
            open=False,
            configure=partial(_configure, idle),
            kwargs={"autocommit": True},
        )
        self._pool = made(min_size=1, max_size=size)
        self._apart = made(min_size=0, max_size=1)

    async def open(self) -> None:
        """Connect. `TransientError`."""
        try:
            await self._pool.open(wait=True)
            await self._apart.open()
        except _RETRIABLE as error:
            raise TransientError(f"the database does not answer: {error}") from error

    async def close(self) -> None:
        """Let go of all connections. Idempotent."""
        await self._apart.close()
        await self._pool.close()

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[AsyncConnection]:
        """A connection in a transaction. `TransientError`: the connection broke, the outcome is unknown."""
        async with self._connection() as connection, connection.transaction():
            yield connection

    async def rows(self, statement: str, values: Values = ()) -> list[tuple[Any, ...]]:
        """The rows of one statement, which is a transaction of its own. `TransientError`, as above."""
        async with self._connection() as connection:
            return await (await connection.execute(statement.encode(), values)).fetchall()

    async def row(self, statement: str, values: Values = ()) -> tuple[Any, ...] | None:
        """The first of `rows`."""
        return next(iter(await self.rows(statement, values)), None)

    async def execute(self, statement: str, values: Values = ()) -> int:
        """The number of rows that one statement changed, which gives none. `TransientError`, as above."""
        async with self._connection() as connection:
            return (await connection.execute(statement.encode(), values)).rowcount

    async def ask(self) -> None:
        """Return when the server has answered, on a connection that no request has. `TransientError`."""
        async with self._connection(self._apart) as connection:
            await connection.execute("SELECT 1")

    @asynccontextmanager
    async def _connection(
        self, pool: AsyncConnectionPool[AsyncConnection] | None = None
    ) -> AsyncIterator[AsyncConnection]:
        try:
            async with (pool or self._pool).connection() as connection:
                try:
                    yield connection
                except _RETRIABLE:
                    await connection.close()
                    raise
        except _RETRIABLE as error:
            raise TransientError(f"the database: {str(error).splitlines()[0]}") from error

    @asynccontextmanager
    async def alone(self, key: int) -> AsyncIterator[bool]:
        """Whether no other process is in such a block of that key, for as long as the database is connected:
        what is done there must be safe by two at once. `TransientError`."""
        async with self.transaction() as connection:
            # It holds no row, and may take hours.
            await connection.execute("SET LOCAL idle_in_transaction_session_timeout = 0")
            found = await connection.execute("SELECT pg_try_advisory_xact_lock(%s)", (key,))
            row = await found.fetchone()
            yield row is not None and bool(row[0])


_CONFIGURE: Final = "SELECT pg_is_in_recovery(), set_config('idle_in_transaction_session_timeout', %s, false)"


async def _configure(idle: float, connection: AsyncConnection) -> None:
    """Raises unless the server takes writes."""
    row = await (await connection.execute(_CONFIGURE, (f"{1000 * idle:.0f}ms",))).fetchone()
    if row is None or row[0]:
        raise psycopg.OperationalError("the server is a standby")

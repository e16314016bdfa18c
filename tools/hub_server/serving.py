"""Serving a hub: its parts, the work beside requests, and an end that no device notices.

The end (SIGTERM, SIGINT): `/ready` says no, and who waits for commits is let go within `drain_seconds`;
answers close their connections; then nothing new is accepted, what is under way is answered, and fragments
that are on their way are waited for. A second signal cuts that off. A process that is killed loses nothing:
what was acknowledged is on the nodes and in the database.
"""

from __future__ import annotations

import contextlib
import signal
import socket
from collections.abc import Iterator
from typing import Final

import anyio
import uvicorn
from starlette.applications import Starlette

from backend.errors import UsageError
from backend.hub import (
    Accounts,
    CommitTable,
    Directory,
    Edge,
    Heads,
    Housekeeping,
    Hub,
    HubMetrics,
    Imports,
    Pepper,
    Presences,
    PresenceTable,
    Quotas,
    Readiness,
    RequestRates,
    app,
    guarded,
    hub_file,
    listener_at,
)
from backend.system import Group, plain_task_group
from tools.hub_server.opening import HubFolder, HubParts, opened
from tools.terminal import say

ANSWER_SECONDS: Final = 30
"""After the end has begun, for requests that are under way."""
SETTLE_SECONDS: Final = 10.0
"""And for fragments beyond write quorum."""
KEEP_ALIVE_SECONDS: Final = 60


class Server(uvicorn.Server):
    """One that leaves signals alone."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


async def serve(folder: HubFolder, listen: str, metrics_listen: str) -> None:
    """Serve until a signal. `UsageError`: an address cannot be had; `RollbackError`: the database was
    restored, also while it is served; `UnavailableError`: too few nodes answer to know that; else as of
    `opened`."""
    listener = _listener(listen)
    metrics_listener = _listener(metrics_listen) if metrics_listen else None
    async with opened(folder) as parts:
        await parts.age.begin()
        await _Process(parts).run(listener, metrics_listener)
        parts.group.cancel_scope.deadline = anyio.current_time() + SETTLE_SECONDS


class _Process:
    """The parts of a process that serves."""

    def __init__(self, parts: HubParts) -> None:
        file, database = parts.folder.file, parts.database
        self._age = parts.age
        self._limits = file.limits
        self._heads = Heads(database)
        self._presences = Presences(PresenceTable(database))
        self._readiness = Readiness(database, parts.nodes, file.profile)
        self._care = Housekeeping(
            database,
            parts.packs,
            parts.blocks,
            lambda: self._readiness.away,
            file.limits.retention_seconds,
        )
        self._metrics = HubMetrics()
        self._watch()
        pepper = Pepper(parts.folder.secret(file.pepper_file))
        commits = CommitTable(database)
        application = app(
            Hub(
                Directory(database),
                commits,
                parts.table,
                parts.blocks,
                self._heads,
                Accounts(database, pepper, is_open=file.is_sign_up_open),
                Quotas(database),
                RequestRates(),
                Imports(database, commits),
                self._presences,
            )
        )
        application.router.routes[:0] = self._readiness.routes()
        edge = Edge(application, self._metrics, lambda: self._readiness.is_ending, self._limits.body_rate)
        self._server = Server(
            uvicorn.Config(
                edge,
                http=guarded(self._limits.head_seconds),
                ws="none",
                lifespan="off",
                log_config=None,
                access_log=False,
                limit_concurrency=self._limits.connections,
                timeout_keep_alive=KEEP_ALIVE_SECONDS,
                timeout_graceful_shutdown=ANSWER_SECONDS,
                server_header=False,
            )
        )

    def _watch(self) -> None:
        watch, ready, done = self._metrics.watch, self._readiness, self._care.done
        watch("ready", "1 if this process should be sent requests", lambda: not ready.faults)
        watch("nodes_away", "nodes that do not answer", lambda: len(ready.away))
        watch("lacking_packs", "packs that lack fragments, after the last round here", lambda: done.lacking)
        watch("repaired_packs", "packs that this process has made whole", lambda: done.repaired)
        watch("deleted_blocks", "blocks that this process has deleted", lambda: done.deleted)
        watch("moved_commits", "commits that this process has moved into packs", lambda: done.moved)
        watch("rewritten_packs", "thin packs that this process has rewritten", lambda: done.rewritten)
        watch(
            "rewritten_bytes", "bytes that this process has moved out of them", lambda: done.rewritten_bytes
        )
        watch("emptied_bytes", "bytes of rewritten packs that are kept for dumps", lambda: done.emptied_bytes)
        watch("stray_packs", "packs on nodes that nobody has entered", lambda: done.strays)
        watch("removed_fragments", "fragments of those that this process removed", lambda: done.removed)
        watch("polls", "polls that wait", lambda: self._heads.polls)

    async def run(self, listener: socket.socket, metrics_listener: socket.socket | None) -> None:
        """Serve until a signal."""
        await self._readiness.look()
        async with plain_task_group() as group:
            for part in (self._heads, self._presences, self._readiness, self._care, self._age):
                group.start_soon(part.run)
            if metrics_listener is not None:
                group.start_soon(self._serve_metrics, metrics_listener)
            group.start_soon(self._obey_signals, group)
            say(f"serving at http://{_name(listener)}")
            await self._server.serve([listener])
            group.cancel_scope.cancel()

    async def _serve_metrics(self, listener: socket.socket) -> None:
        shown = Starlette(routes=self._metrics.routes())
        config = uvicorn.Config(shown, ws="none", lifespan="off", log_config=None, access_log=False)
        say(f"metrics at http://{_name(listener)}/metrics")
        await Server(config).serve([listener])

    async def _obey_signals(self, group: Group) -> None:
        with anyio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as received:
            async for _ in received:
                if self._readiness.is_ending:
                    self._server.should_exit = self._server.force_exit = True
                else:
                    self._readiness.end()
                    group.start_soon(self._drain)

    async def _drain(self) -> None:
        self._heads.time.end(self._limits.drain_seconds)
        await anyio.sleep(self._limits.drain_seconds)
        self._server.should_exit = True


def _listener(address: str) -> socket.socket:
    host, port = hub_file.host_and_port(address)
    try:
        family, *_, where = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        return listener_at(str(where[0]), int(where[1]), family)
    except OSError as error:
        raise UsageError(f"{address}: {error.strerror or error}") from None


def _name(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"

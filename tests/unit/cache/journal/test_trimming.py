"""Letting go of the journal: what it stands on is durable first."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
import trio

from cache.namespace import Namespace
from tests.drives import make_file, opened
from tests.memory_upstream import MemoryUpstream


async def test_the_namespace_is_written_down_by_one_at_a_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody who makes room, beside the publisher: the second checkpoint would do nothing."""
    checkpoint, running = Namespace.checkpoint, threading.Lock()

    def alone(namespace: Namespace) -> int | None:
        assert running.acquire(blocking=False)
        try:
            return checkpoint(namespace)
        finally:
            running.release()

    async with opened(tmp_path / "here", MemoryUpstream()) as drive:
        await make_file(drive, b"file", b"content")
        monkeypatch.setattr(Namespace, "checkpoint", alone)
        async with trio.open_nursery() as nursery:
            for _ in range(10):
                nursery.start_soon(drive.trimming.relieve)
        assert drive.ledger.positions.durable == drive.ledger.journal.end

"""The blocks that a namespace needs, gone through one page after the other."""

from __future__ import annotations

from pathlib import Path

from cache.retention import NeededBlocks
from tests.drives import make_file, opened
from tests.memory_upstream import MemoryUpstream


async def test_blocks_that_are_gone_through_for_hours_keep_nobody_from_writing_down(tmp_path: Path) -> None:
    """Regression: the read of them was a reader of the namespace as long as a drive was copied, so that the
    journal could let go of nothing, and filled."""
    async with opened(tmp_path, MemoryUpstream()) as drive:
        await make_file(drive, b"f", b"content" * 1000)
        await drive.sync()
        drive.ledger.save()
        needed = NeededBlocks(drive.ledger.namespace.path, [b"k" * 32])
        await make_file(drive, b"later", b"later" * 1000)
        drive.ledger.save()
        assert drive.ledger.namespace.checkpoint() == drive.ledger.journal.end
        found = [block for page in iter(lambda: needed.some(1), []) for block in page]
        assert len(found) == 2
        assert found == sorted(found)
        needed.close()

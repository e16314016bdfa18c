"""Whether the log goes on from what this device has seen.

A store may be put back to an older state, and a hub may lie. So a statement about the log counts only if the
log shows it: else it is told to nobody, and no device waits on the strength of it without a pause. Any
thread.
"""

from __future__ import annotations

from backend.errors import CorruptError, RollbackError
from backend.upstream import CommitLog, Head


def refuse_rollback(theirs: Head, ours: Head) -> None:
    """`RollbackError` if a log that ends with `theirs` cannot hold `ours`, which this device has seen."""
    if theirs != ours and theirs.number <= ours.number:
        raise RollbackError(
            f"the drive's log ends with commit {theirs.number}, but this device has seen commit "
            f"{ours.number} of another history; nothing was changed"
        )


async def require_growth(log: CommitLog, before: Head, now: Head) -> None:
    """The log was said to go on after `before`, and was followed to `now`. `RollbackError` or `CorruptError`
    if it shows nothing after that; and what asking it raises."""
    if now.number == before.number:
        refuse_rollback(await log.head(), now)
        raise CorruptError(
            f"the log is said to go on after commit {now.number}, and shows no commit that does"
        )

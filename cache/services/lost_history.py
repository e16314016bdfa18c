"""The state of a device whose hub lost commits and went on without them, brought in anew: all that the lost
commits and this device changed counts as changes of this device on the newest commit, as in a rebase
(docs/conflicts.md).

Only a person's word leads here (`drivefs accept-restore`). A hub that lies could else have its devices take
an older state for the newest. Invariants:
1. `require_whole` changes nothing, and is asked before the state is set aside: a retained commit that both
   histories have, every block that the lost commits name, and every key epoch are there. Bytes that the
   journal has need no block (`gone_of_unfinished`).
2. The state that is brought in stays set aside as it was.

Event-loop thread only; nobody but the caller uses the drive.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from backend.errors import BlocksMissingError, CorruptError, UsageError
from backend.upstream import BlockId, Commit, CommitLog, Head, Upstream
from cache.attributes import AttributeChange
from cache.blocks import BlockCache, Content
from cache.drive import Drive
from cache.local import StaleState
from cache.namespace import Namespace
from cache.rebase import Device, Resolved, changes_since, take_up_fork
from cache.sync import Follower

PART: Final = 4 << 20
AT_ONCE: Final = 256
"""Operations that one record of the journal has."""


async def has_lost(log: CommitLog, known: Head) -> bool:
    """Whether the log has not that commit, which was seen: else a mount goes on."""
    if not known.number:
        return False
    return [digest for _, digest in await log.commits_after(known.number - 1, 1)] != [known.hash]


async def gone_of_unfinished(upstream: Upstream, state: StaleState) -> frozenset[BlockId]:
    """The blocks of commits that were not appended which are not stored any more: `StaleState.replay` is told
    of them, and has their bytes from the journal."""
    return frozenset(await upstream.blocks.missing(state.unfinished_blocks()))


async def common_point(log: CommitLog, namespace: Namespace) -> int:
    """The newest retained commit of the namespace that the log has. `UsageError`: there is none. They are
    chained: who has one has all before it. It may be older than the newest that both have: what both changed
    after it counts as changed by each."""
    hashes, end = namespace.points.hashes(), (await log.head()).number
    numbers = sorted(number for number in hashes if number <= end)
    low, high = 0, len(numbers)
    while low < high:
        middle = (low + high) // 2
        found = await log.commits_after(numbers[middle] - 1, 1)
        if found and found[0][1] == hashes[numbers[middle]]:
            low = middle + 1
        else:
            high = middle
    if not low:
        raise UsageError(
            "no commit that this machine still shows is in the hub's log: it cannot be seen what was lost"
        )
    return numbers[low - 1]


async def require_whole(upstream: Upstream, namespace: Namespace) -> int:
    """The common point. `UsageError`: the lost commits cannot be brought in; `BlocksMissingError`: a block
    that they name is not at the hub."""
    base = await common_point(upstream.log, namespace)
    epochs, head = namespace.epochs, namespace.head().number
    if len(epochs.until(head)) != len(epochs.until(base)):
        raise UsageError(
            f"a key epoch began after commit {base}, and the hub lost it: what was stored under it cannot be "
            "brought in; mount with -o ro, and copy what is newer"
        )
    changes = changes_since(namespace.synced_connection(), base)
    named = {BlockId(extent.block) for pair in changes.extents.values() for extent in pair.after}
    if missing := await upstream.blocks.missing(named):
        raise BlocksMissingError(
            f"{len(missing)} of {len(named)} blocks that were stored after commit {base} are not at the hub: "
            "drivefs-hub check --after-restore finds those that its nodes have; nothing was brought in",
            tuple(missing),
        )
    return base


@dataclass(frozen=True, slots=True)
class LostHistory:
    """See the module. `drive` runs, and is of a new device. `scratch` and `kept` are the state that was set
    aside, each a copy of its own; the first one is changed."""

    drive: Drive
    upstream: Upstream
    scratch: StaleState
    kept: StaleState

    async def bring(self, blocks: BlockCache) -> Resolved:
        """Have all of it on the newest commit, and published. `blocks`: reads what the hub has. Raises what
        `require_whole`, the log, the journal and the publisher raise."""
        base = await require_whole(self.upstream, self.scratch.namespace)
        dirty = self.scratch.dirty()
        commits = await self._commits_after(base)
        device = Device(dirty, _nobody_holds, self.drive.publisher.identity.host)
        resolved = self._resolved(base, commits, device)
        for start in range(0, len(resolved.operations), AT_ONCE):
            self.drive.ledger.accept_all(resolved.operations[start : start + AT_ONCE])
        content = self.kept.content_of(blocks)
        for inode in sorted(dirty):
            await self._write(inode, resolved.moved.get(inode, inode), content)
        await self.drive.sync()
        return resolved

    async def _commits_after(self, base: int) -> list[tuple[Commit, bytes]]:
        """Those up to the drive's newest; nothing of the drive is unpublished then."""
        while True:
            await self.drive.sync()
            head, found = self.drive.ledger.head, list[tuple[Commit, bytes]]()
            while len(found) < head.number - base:
                more = await self.upstream.log.commits_after(base + len(found))
                if not more:
                    raise CorruptError(f"the hub's log ends before commit {head.number}, which it has shown")
                found += more
            if self.drive.ledger.head == head and not self.drive.ledger.unpublished:
                return found[: head.number - base]

    def _resolved(self, base: int, commits: list[tuple[Commit, bytes]], device: Device) -> Resolved:
        namespace, ring = self.scratch.namespace, self.drive.publisher.identity.ring

        def follow() -> None:
            for _ in Follower(namespace, ring).apply_all(commits):
                continue

        number: Callable[[], int] = self.drive.ledger.namespace.allocate_inode
        return take_up_fork(namespace, base, follow, device, number)

    async def _write(self, inode: int, target: int, content: Content) -> None:
        """The whole content of a file of which some was in the journal only. Target 0: it has no reader."""
        row = self.kept.namespace.inode(inode)
        if not target or row is None or self.drive.ledger.namespace.inode(target) is None:
            return
        size = self.kept.size(row)
        for offset in range(0, size, PART):
            end = min(offset + PART, size)
            await self.drive.write(target, offset, await content.read(inode, offset, end, size))
        await self.drive.set_attributes(target, AttributeChange(size=size, mtime_ns=row.mtime_ns))
        await self.drive.settle(target)


def _nobody_holds(_inode: int) -> bool:
    return False

"""The whole check of a drive at a hub, by a machine that is a device of its account.

The log is lived again, as by the check of a drive on nodes. Each block that it names is asked for at the hub,
and with `data` read and opened. Nothing at the hub is changed, but as by each read: a block that does not
authenticate is called wrong, so that the hub takes another place of it. Its packs the hub's operator checks
(`drivefs-hub check`).
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection, Sequence
from pathlib import Path
from typing import Final

import trio

from backend.errors import CorruptError, FormatError, NotFoundError
from backend.findings import Findings
from backend.system import each
from backend.upstream import BlockId, Head, Upstream
from cache.client import Client
from cache.publish import SnapshotRoot
from cache.retention import LostRange, lost_files
from cache.sync import check_log
from tools.check.check_report import summarised
from tools.check.check_state import StateCheck, StateSource, breaches_of
from tools.host.progress import Progress
from tools.hub.opening import DriveAtHub, reader_at_hub, upstream_at_hub
from tools.quantities import counted

_ASKED_AT_ONCE: Final = 1000
_READ_AT_ONCE: Final = 8


class HubCheck:
    """One run. `work` is an empty private folder, `state` the drive's state folder, if there is one."""

    def __init__(
        self,
        drive: DriveAtHub,
        state: Path,
        work: Path,
        findings: Findings,
        progress: Progress,
        *,
        data: bool,
        mend: bool,
    ) -> None:
        self._drive = drive
        self._folder = state
        self._work = work
        self._findings = findings
        self._progress = progress
        self._data = data
        self._mend = mend
        self.lost: list[LostRange] = []
        """by path and version"""
        self.namespace_is_wrong = False
        """whether this machine's namespace has to be made anew, and can be"""
        self.summary = ""
        """one line: what was looked at"""

    async def run(self) -> None:
        """See the module. `AwayError`, `TransientError`: the hub does not answer, nothing is known."""
        async with upstream_at_hub(self._drive) as upstream:
            await self._check(upstream, reader_at_hub(self._drive, upstream))

    async def _check(self, upstream: Upstream, reader: Client) -> None:
        self._progress.step("commit log")
        head = await upstream.log.head()
        source = StateSource(upstream.log.commits_after, _leave, reader.snapshots, reader.blocks, reader.ring)
        state = StateCheck(source, self._folder, self._work, self._findings, self._progress)
        await state.run(head, await self._root(reader, state), broken=False)
        self._judge_log(head, state)
        self._judge_namespaces(state)
        for problem in state.snapshot_problems:
            self._findings.add("left", f"snapshot: {problem}")
        blocks = await self._check_blocks(upstream, reader, state)
        read = " read" if self._data else ""
        self.summary = f"{counted(head.number, 'commit')}, {counted(blocks, 'block')}{read}"

    async def _root(self, reader: Client, state: StateCheck) -> SnapshotRoot | None:
        try:
            return await reader.snapshots.newest()
        except (CorruptError, FormatError) as error:
            state.snapshot_problems.append(str(error))
            return None

    def _judge_log(self, head: Head, state: StateCheck) -> None:
        if state.newest is None:
            self._findings.add("lost", f"the log cannot be read up to commit {head.number}, its newest")
        elif head.number and check_log.head_of(state.newest) != head:
            self._findings.add("lost", f"commit {head.number} of the log is another than the hub says")

    def _judge_namespaces(self, state: StateCheck) -> None:
        """The state that the log gives, and this machine's."""
        for text in breaches_of(state.newest, True) if state.newest is not None else ():
            self._findings.add("left", f"namespace: {text}")
        if state.namespace_problems:
            self.namespace_is_wrong = self._mend and state.newest is not None and not state.log_is_older
            what = "; ".join(state.namespace_problems)
            self._findings.add(
                "mended" if self.namespace_is_wrong else "left", f"this machine's namespace: {what}"
            )

    async def _check_blocks(self, upstream: Upstream, reader: Client, state: StateCheck) -> int:
        """List the uses of blocks that lack, or cannot be read; the number of all blocks."""
        paths = [*filter(None, (state.newest, None if self.namespace_is_wrong else state.cached()))]
        named: set[bytes] = set()
        for path in paths:
            named |= await trio.to_thread.run_sync(lost_files.named_blocks, str(path))
        bad = named - {*await self._stored(upstream, named)}
        if self._data:
            bad |= {block async for block in self._unreadable(reader, sorted(named - bad))}
        await self._list(paths, bad)
        return len(named)

    async def _stored(self, upstream: Upstream, named: Collection[bytes]) -> list[BlockId]:
        self._progress.step("blocks")
        found: list[BlockId] = []
        for page in _pages(sorted(named), _ASKED_AT_ONCE):
            found += await upstream.housekeeping.sizes([BlockId(block) for block in page])
            self._progress.update(len(found), len(named))
        return found

    async def _unreadable(self, reader: Client, blocks: Sequence[bytes]) -> AsyncIterator[bytes]:
        self._progress.step("blocks, all read")
        done = 0
        for page in _pages(blocks, _READ_AT_ONCE):
            bad: list[bytes] = []

            async def look(block: bytes, bad: list[bytes] = bad) -> None:
                if not await _is_right(reader, block):
                    bad.append(block)

            await each(look, page)
            done += len(page)
            self._progress.update(done, len(blocks))
            for block in bad:
                yield block

    async def _list(self, paths: Sequence[Path], bad: set[bytes]) -> None:
        found: dict[LostRange, None] = {}
        for path in paths if bad else ():
            found |= dict.fromkeys(await trio.to_thread.run_sync(lost_files.lost_ranges, str(path), bad))
        self.lost = list(found)
        for line in summarised(self.lost, nodes_are_away=False):
            self._findings.add("lost", line)


async def _leave(_commit: Head) -> None:
    """The copies of commits are the hub's."""


async def _is_right(reader: Client, block: bytes) -> bool:
    """Whether the block can be read, as a file is, and is what its id says."""
    try:
        return reader.codec.block_id(await reader.blocks.get(block)) == block
    except (CorruptError, FormatError, NotFoundError):
        return False


def _pages(blocks: Sequence[bytes], size: int) -> list[Sequence[bytes]]:
    return [blocks[start : start + size] for start in range(0, len(blocks), size)]

"""The states of a drive that must agree: the log lived again, the snapshot, and this machine's own namespace.

Nothing is changed here but what `look_after` changes. Problems are collected in `snapshot_problems` and
`namespace_problems`: only the whole check can say which of these states may be made anew.
"""

from __future__ import annotations

import shutil
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import trio

from backend.errors import (
    CorruptError,
    DriveError,
    FormatError,
    NotFoundError,
    RollbackError,
    UnavailableError,
)
from backend.findings import Findings
from backend.keys import KeyRing
from backend.system import at_rest
from backend.upstream import Commit, Head
from cache.blocks import BlockCache
from cache.local import NAMESPACE_FILE
from cache.namespace import check_namespace
from cache.publish import SnapshotRoot, SnapshotStore, snapshot
from cache.sync import LogReplay, check_log
from tools.host.progress import Progress


@dataclass(frozen=True, slots=True)
class StateSource:
    """Where the states come from. `commits_after`: of the log, as of `CommitLog`. `look_after` sees after
    the copies of each commit that was read."""

    commits_after: Callable[[int], Awaitable[Sequence[tuple[Commit, bytes]]]]
    look_after: Callable[[Head], Awaitable[None]]
    snapshots: SnapshotStore
    blocks: BlockCache
    ring: KeyRing


class StateCheck:
    """One run. `work` is a private folder for databases; `state_folder` this machine's, if it has one."""

    def __init__(
        self, source: StateSource, state_folder: Path, work: Path, findings: Findings, progress: Progress
    ) -> None:
        self._source = source
        self._state_folder = state_folder
        self._work = work
        self._findings = findings
        self._progress = progress
        self._states: dict[int, Path] = {}
        self._hashes: dict[int, bytes] = {}
        self._head: Head | None = None
        self.log_is_older = False
        """whether a commit after the newest of the log is known: it cannot give again what there was"""
        self.snapshot_problems: list[str] = []
        self.namespace_problems: list[str] = []

    @property
    def newest(self) -> Path | None:
        """The state that the whole log gives, as a database; None if the log could not be lived to its
        end."""
        return None if self._head is None else self._states.get(self._head.number)

    async def run(self, head: Head | None, root: SnapshotRoot | None, *, broken: bool) -> None:
        """Live the log up to `head` (None: it cannot be read), from its start or, if its chain is
        `broken`, from the snapshot; compare the others with it. `root` is the snapshot's that can be used,
        if any."""
        self._head = head
        cached = self._cached_head()
        self._tell_if_older("the snapshot is of", None if root is None else root.head)
        self._tell_if_older("this machine has seen", cached)
        restored = await self._restore(root) if root else None
        await self._replay(root, restored, cached, broken)
        if root is not None and restored is not None:
            self.snapshot_problems += await self._differences(restored, root.head)
        if cached is not None:
            self.namespace_problems += await self._check_cached(cached)

    def _tell_if_older(self, who: str, known: Head | None) -> None:
        if self._head is None or known is None or known.number <= self._head.number:
            return
        self.log_is_older = True
        self._findings.add(
            "left",
            f"{who} commit {known.number}, but the log ends with commit {self._head.number}: it was put back "
            "to an older state",
        )

    def cached(self) -> Path | None:
        """A copy of this machine's namespace, made once; None if it has none."""
        source, target = self._state_folder / NAMESPACE_FILE, self._work / f"copy-{NAMESPACE_FILE}"
        if not source.exists():
            return None
        return target if target.exists() else copy_database(source, target)

    def _cached_head(self) -> Head | None:
        path = self.cached()
        if at_rest.is_damaged(str(self._state_folder / NAMESPACE_FILE)):
            self.namespace_problems.append("it has changed since it was closed")
        try:
            return None if path is None else check_log.head_of(path)
        except (DriveError, ValueError) as error:
            self.namespace_problems.append(str(error))
            return None

    async def _restore(self, root: SnapshotRoot) -> Path | None:
        path = self._work / "snapshot.db"
        try:
            await self._source.snapshots.get(root, path, self._source.blocks)
            await trio.to_thread.run_sync(snapshot.verify_hostile, str(path))
        except (CorruptError, FormatError, NotFoundError, UnavailableError) as error:
            self.snapshot_problems.append(f"that of commit {root.head.number} cannot be read: {error}")
            return None
        return path

    async def _replay(
        self, root: SnapshotRoot | None, restored: Path | None, cached: Head | None, broken: bool
    ) -> None:
        """Apply all commits that there are, and keep the states that something is compared with."""
        if self._head is None or (broken and (root is None or restored is None)):
            return
        self._progress.step("commits")
        path, start = self._work / "replay.db", 0
        if broken and root is not None and restored is not None:
            start = root.head.number
            await trio.to_thread.run_sync(shutil.copyfile, restored, path)
        stops = {self._head.number, *(head.number for head in (root and root.head, cached) if head)}
        replay = LogReplay(path, self._source.ring)
        try:
            await self._keep(replay, stops)
            while batch := await self._source.commits_after(start):
                for commit, commit_hash in batch:
                    await self._take(replay, commit, commit_hash)
                    await self._keep(replay, stops)
                    start = commit.number
                    self._progress.update(start, self._head.number)
        except (CorruptError, FormatError, RollbackError) as error:
            self._findings.add("lost", str(error))
        finally:
            replay.close()

    async def _take(self, replay: LogReplay, commit: Commit, commit_hash: bytes) -> None:
        await self._source.look_after(Head(commit.number, commit_hash))
        replay.apply(commit, commit_hash)
        await trio.lowlevel.checkpoint()

    async def _keep(self, replay: LogReplay, stops: set[int]) -> None:
        number = replay.head.number
        if number in stops:
            target = self._work / f"state-{number}.db"
            await replay.export(target)
            self._states[number], self._hashes[number] = target, replay.head.hash

    async def _differences(self, path: Path, head: Head) -> list[str]:
        """The differences of a state of the namespace from what the log says, in one line; nothing if the log
        cannot be lived so far, which is told already."""
        right = self._states.get(head.number)
        if right is None:
            return []
        if head.number and self._hashes[head.number] != head.hash:
            return [f"it is of another commit {head.number} than the log's"]
        wrong = await trio.to_thread.run_sync(check_log.differences, right, path)
        return [f"that of commit {head.number} is not what the log says: {'; '.join(wrong)}"] if wrong else []

    async def _check_cached(self, cached: Head) -> list[str]:
        """This machine's namespace: its own rules, then against the log as of its newest commit."""
        self._progress.step("this machine's namespace")
        path, target = self.cached(), self._work / "cached.db"
        if path is None:
            return []
        if self._head is not None and cached.number > self._head.number:
            return []
        try:
            broken = await trio.to_thread.run_sync(breaches_of, path, False)
            if broken:
                return ["; ".join(broken)]
            await check_log.export_as_of(path, target, cached.number)
            return await self._differences(target, cached)
        except (CorruptError, FormatError, NotFoundError) as error:
            return [str(error)]


def breaches_of(path: Path, published: bool) -> list[str]:
    """The rules that a namespace breaks, one line each. Blocks."""
    found = check_namespace(str(path), published=published)
    return [f"{breach.text}{f' (inode {breach.inode})' if breach.inode else ''}" for breach in found]


def copy_database(source: Path, target: Path) -> Path:
    """SQLite writes beside a database even to read it, so a copy is looked at; `target`. Blocks."""
    for suffix in ("", "-wal"):
        beside = source.with_name(source.name + suffix)
        if beside.exists():
            shutil.copyfile(beside, target.with_name(target.name + suffix))
    return target

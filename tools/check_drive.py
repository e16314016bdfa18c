"""The whole check of an unmounted drive: what `fsck.drivefs` does once it has the keys.

Invariants:
1. With `mend` the drive's lease is held from the first write to the last, and a lease that is lost ends the run.
   Without, nothing is written outside the work folder.
2. Nothing is forgotten: what cannot be rebuilt stays as it is and is listed. What is replaced on this machine
   (its namespace database) is kept aside, and only if the commit log can give it again.
3. The order: log, index, copies, fragments, namespace, references, then what depends on them (a new
   snapshot, the namespace). A run that was ended at any point is repeated from the start.
"""

from __future__ import annotations

import logging
import os
import shutil
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

import trio

from backend.block_index import BlockIndex
from backend.block_store import BlockStore
from backend.check_index import IndexCheck
from backend.check_objects import ObjectCheck
from backend.check_store import StoreCheck
from backend.commit_log import CommitLog, commit_key
from backend.crypto import plain_hash
from backend.erasure import Profile, code_for
from backend.errors import CorruptError, DriveError, FencedError, FormatError, NotFoundError, UnavailableError
from backend.findings import Findings
from backend.lease import Lease
from backend.local_upstream import ROOTS, LocalUpstream
from backend.node import Node
from backend.object_format import Copy
from backend.pack_format import PackEntry, decode_pack_index
from backend.pack_store import PackStore
from backend.process_identity import this_process
from backend.replicated_objects import ReplicatedObjects, ranking_of
from backend.upstream import BlockId, Commit, Head
from cache import check_log, lost_files, snapshot
from cache.block_cache import BlockCache
from cache.block_codec import BlockCodec
from cache.check_log import LogReplay
from cache.check_namespace import check_namespace
from cache.chunking import Chunker
from cache.lost_files import LostRange
from cache.opening import DEVICE
from cache.publisher import CommitIdentity
from cache.snapshot_store import ROOT_NAME, SnapshotRoot, SnapshotStore
from tools.compose import INDEX_FILE, UnlockedDrive, cluster_map, open_nodes
from tools.progress import Progress

NAMESPACE_FILE: Final = "namespace.db"
_SNAPSHOT_KEY: Final = ROOTS + ROOT_NAME
_CACHE: Final = 32 << 20

log = logging.getLogger(__name__)


class DriveCheck:
    """One run. `work` is an empty private folder, in `cache_folder` if that exists."""

    def __init__(self, drive: UnlockedDrive, cache_folder: Path, work: Path, findings: Findings,
                 progress: Progress, *, mend: bool, data: bool) -> None:
        file, keys = drive.file, drive.keys
        profile, cluster = Profile.parse(file.profile), cluster_map(file)
        copies = profile.m + 1
        self._drive = drive
        self._cache_folder = cache_folder
        self._work = work
        self._findings = findings
        self._progress = progress
        self._mend = mend
        self._data = data
        self._nodes: dict[str, Node] = open_nodes(drive.folder, file)
        self._ranking = ranking_of(cluster, copies)
        self._objects = ReplicatedObjects(self._nodes, self._ranking, copies, file.id)
        self._copies = ObjectCheck(self._objects, self._nodes, self._ranking, file.id, findings, mend=mend)
        self._lease = Lease(self._nodes, file.id, this_process()) if mend else None
        self._log = CommitLog(self._objects)
        self._index = BlockIndex(str(work / INDEX_FILE), file.id)
        code = code_for(profile)
        self._blocks = BlockStore(self._nodes, code, cluster, file.id, keys.pack, self._index)
        self._packs = PackStore(self._nodes, code, cluster, file.id, lambda _pack, _index: None)
        self._codec = BlockCodec(file.id, keys.block_id, keys.block)
        self._upstream = LocalUpstream(self._blocks, self._log, self._objects, self._lease)
        self._snapshots = SnapshotStore(
            self._upstream, self._codec, Chunker(keys.chunker), file.id, keys.root)
        self._cached_blocks = BlockCache(self._upstream, self._codec, _CACHE, trio.CapacityLimiter(2))
        self._identity = CommitIdentity(file.id, DEVICE, keys.commit)
        self._away: list[str] = []
        self._states: dict[int, Path] = {}
        self._hashes: dict[int, bytes] = {}
        self._head: Head | None = None
        self._is_broken = False
        self.lost: list[LostRange] = []
        """what is lost, by path and version"""
        self.namespace_is_wrong = False
        """whether this machine's namespace has to be made anew, and can be"""
        self.summary = ""
        """one line: what was looked at"""

    async def run(self) -> None:
        """See the module. `LeaseHeldError`, `UnavailableError`, `FencedError`; local failures."""
        try:
            await self._tell_away()
            await self._copies.check_lease()
            if self._lease is None:
                await self._check()
            else:
                await self._check_with_lease(self._lease)
        finally:
            with trio.CancelScope(shield=True):
                await self._blocks.close()

    async def _check_with_lease(self, lease: Lease) -> None:
        await lease.acquire()
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(lease.run)
                nursery.start_soon(_end_when_lost, lease)
                await self._check()
                nursery.cancel_scope.cancel()
        finally:
            with trio.CancelScope(shield=True):
                await lease.release()

    async def _tell_away(self) -> None:
        for node in self._nodes.values():
            try:
                await node.check()
            except DriveError as error:
                self._away.append(node.name)
                self._findings.add("left", str(error))

    async def _check(self) -> None:
        root = await self._open_log()
        await self._make_index()
        await self._compare_index()
        store = await self._check_store()
        snapshot_is_good = await self._check_namespaces(root)
        self._check_references(store)
        if self._mend and root is not None and not snapshot_is_good:
            await self._make_snapshot()
        self.summary = self._summarised(store)

    # The log, and the copies of small objects

    async def _open_log(self) -> SnapshotRoot | None:
        """Verify the chain; the newest snapshot's root. If the chain is broken, go on from the snapshot."""
        self._progress.step("commit log")
        await self._check_roots()
        root = await self._newest_root()
        try:
            self._head = await self._log.open()
        except (CorruptError, FormatError) as error:
            self._findings.add("lost", str(error))
            self._is_broken = True
            if root is not None and root.head.number:
                await self._open_from(root.head)
        return root

    async def _open_from(self, head: Head) -> None:
        try:
            self._head = await self._log.open(trusted=head)
        except (CorruptError, FormatError) as error:
            self._findings.add("lost", str(error))

    async def _check_roots(self) -> None:
        for key in sorted((await self._objects.keys(ROOTS)).holders):
            if key != _SNAPSHOT_KEY or await self._is_readable(key):
                await self._copies.check(key, lambda _copy: True)

    async def _is_readable(self, key: str) -> bool:
        return bool((await self._objects.find_all(key)).good)

    async def _newest_root(self) -> SnapshotRoot | None:
        """The newest root; one of commit 0 stands for a root that is there and cannot be used."""
        try:
            root = await self._snapshots.newest()
        except (CorruptError, FormatError) as error:
            self._say_snapshot(str(error))
            return SnapshotRoot(Head(0, b""), 0, b"", ())
        if root is None and (await self._objects.keys(ROOTS)).holders.get(_SNAPSHOT_KEY):
            self._say_snapshot("no copy of the snapshot's root authenticates")
            return SnapshotRoot(Head(0, b""), 0, b"", ())
        return root

    def _say_snapshot(self, what: str) -> None:
        """A snapshot that is wrong is made anew, unless nodes are away that may have it."""
        self._findings.add("mended" if self._mend and not self._away else "left", f"snapshot: {what}")

    # Packs and the index

    async def _make_index(self) -> None:
        self._progress.step("pack indexes")
        report = await self._blocks.reconcile(self._progress.update)
        for pack_id in report.unreadable:
            self._findings.add("lost", f"pack {pack_id}: its index cannot be read")
        if report.incomplete:
            self._findings.add("note", f"{report.incomplete} packs have fewer fragments than can be decoded: "
                               "left by writes that never finished, unless blocks are missing below")

    async def _compare_index(self) -> None:
        """This machine's index against the packs; one that is wrong is replaced by the fresh one's content."""
        path = self._cache_folder / INDEX_FILE
        if not path.exists():
            return
        self._progress.step("block index")
        source = self._copy_of(path) if not self._mend else path
        try:
            kept = BlockIndex(str(source), self._drive.file.id)
            try:
                check = IndexCheck(kept, self._index, self._packs.reader, self._drive.file.id,
                                   self._drive.keys.pack)
                wrong = await check.differences()
            finally:
                kept.close()
        except (CorruptError, FormatError) as error:
            wrong = [str(error)]
        if not wrong:
            return
        if self._mend and not self._away:
            for suffix in ("", "-wal", "-shm"):
                path.with_name(path.name + suffix).unlink(missing_ok=True)
        what = f"block index: {'; '.join(wrong)}"
        self._findings.add("mended" if self._mend and not self._away else "left", what)

    def _copy_of(self, path: Path) -> Path:
        """SQLite writes beside a database even to read it, so a copy is looked at."""
        target = self._work / f"copy-{path.name}"
        for suffix in ("", "-wal"):
            source = path.with_name(path.name + suffix)
            if source.exists():
                target.with_name(target.name + suffix).write_bytes(source.read_bytes())
        return target

    async def _check_store(self) -> StoreCheck:
        self._progress.step("fragments, all read" if self._data else "fragments")
        store = StoreCheck(
            self._packs,
            self._index,
            self._findings,
            mend=self._mend,
            verify=self._verify if self._data else None,
            read_index=self._read_index if self._data else None,
        )
        await store.run(self._progress.update)
        return store

    def _verify(self, block: BlockId, sealed: bytes) -> None:
        if self._codec.block_id(self._codec.open(block, sealed)) != block:
            raise CorruptError("a block's content is not what its id says")

    def _read_index(self, pack_id: bytes, whole: bytes) -> list[PackEntry]:
        return decode_pack_index(self._drive.file.id, pack_id, self._drive.keys.pack, whole)

    # The namespace: the log lived again, and what must equal it

    async def _check_namespaces(self, root: SnapshotRoot | None) -> bool:
        """Whether the snapshot, if there is one, is what the log says."""
        cached = self._cached_head()
        usable = root if root is not None and root.head.number else None
        restored = await self._restore(usable) if usable else None
        await self._replay(usable, restored, cached)
        snapshot_is_good = root is None
        if usable is not None and restored is not None:
            snapshot_is_good = await self._compare("snapshot", restored, usable.head)
        if cached is not None:
            await self._check_cached(cached)
        return snapshot_is_good

    def _cached_head(self) -> Head | None:
        path = self._cache_folder / NAMESPACE_FILE
        if not path.exists():
            return None
        try:
            return check_log.head_of(self._cached())[0]
        except (CorruptError, FormatError, NotFoundError, DriveError, ValueError) as error:
            self._condemn(str(error))
            return None

    def _cached(self) -> Path:
        """A copy of this machine's namespace, made once."""
        target = self._work / f"copy-{NAMESPACE_FILE}"
        return target if target.exists() else self._copy_of(self._cache_folder / NAMESPACE_FILE)

    def _condemn(self, what: str) -> None:
        """This machine's namespace is wrong; if the log is whole it is made anew from that."""
        self.namespace_is_wrong = self._mend and not self._away and not self._is_broken
        self._findings.add("mended" if self.namespace_is_wrong else "left", f"this machine's namespace: {what}")

    async def _restore(self, root: SnapshotRoot) -> Path | None:
        path = self._work / "snapshot.db"
        try:
            await self._snapshots.get(root, path, self._cached_blocks)
            await trio.to_thread.run_sync(snapshot.verify_hostile, str(path))
        except (CorruptError, FormatError, NotFoundError, UnavailableError) as error:
            self._say_snapshot(f"that of commit {root.head.number} cannot be read: {error}")
            return None
        return path

    async def _replay(self, root: SnapshotRoot | None, restored: Path | None, cached: Head | None) -> None:
        """Apply all commits that there are, and keep the states that something is compared with."""
        if self._head is None:
            return
        self._progress.step("commits")
        path = self._work / "replay.db"
        start = 0
        if self._is_broken:
            if root is None or restored is None:
                return
            start = root.head.number
            await trio.to_thread.run_sync(shutil.copyfile, restored, path)
        stops = {self._head.number, *(head.number for head in (root and root.head, cached) if head)}
        replay = LogReplay(path, self._identity, DEVICE)
        try:
            await self._keep(replay, stops)
            while batch := await self._log.commits_after(start):
                for commit, commit_hash in batch:
                    await self._take(replay, commit, commit_hash)
                    await self._keep(replay, stops)
                    start = commit.number
                    self._progress.update(start, self._head.number)
        except (CorruptError, FormatError) as error:
            self._findings.add("lost", str(error))
        finally:
            replay.close()

    async def _take(self, replay: LogReplay, commit: Commit, commit_hash: bytes) -> None:
        def is_right(copy: Copy) -> bool:
            return plain_hash(copy.data) == commit_hash

        await self._copies.check(commit_key(commit.number), is_right)
        replay.apply(commit, commit_hash)
        await trio.lowlevel.checkpoint()

    async def _keep(self, replay: LogReplay, stops: set[int]) -> None:
        number = replay.head.number
        if number in stops:
            target = self._work / f"state-{number}.db"
            await replay.export(target)
            self._states[number], self._hashes[number] = target, replay.head.hash

    async def _compare(self, what: str, path: Path, head: Head) -> bool:
        """Whether a state of the namespace is what the log says; told if not."""
        right = self._states.get(head.number)
        if right is None:
            return False  # the log is broken before it, which is told already
        if head.number and self._hashes[head.number] != head.hash:
            wrong = [f"it is of another commit {head.number} than the log's"]
        else:
            wrong = await trio.to_thread.run_sync(check_log.differences, right, path)
        if wrong and what == "snapshot":
            self._say_snapshot(f"that of commit {head.number} is not what the log says: {'; '.join(wrong)}")
        elif wrong:
            self._condemn(f"it is not what the log says: {'; '.join(wrong)}")
        return not wrong

    async def _check_cached(self, cached: Head) -> None:
        """This machine's namespace: its own rules, then against the log as of its newest commit."""
        self._progress.step("this machine's namespace")
        if self._head is not None and cached.number > self._head.number:
            self._findings.add("left", f"this machine has seen commit {cached.number}, but the log ends with "
                               f"commit {self._head.number}: nodes were put back to an older state")
            return
        path, target = self._cached(), self._work / "cached.db"
        try:
            broken = await trio.to_thread.run_sync(_told, path)
            if broken:
                self._condemn("; ".join(broken))
                return
            await check_log.export_as_of(path, target, cached.number)
            await self._compare("namespace", target, cached)
        except (CorruptError, FormatError, NotFoundError) as error:
            self._condemn(str(error))

    # References, and what is lost

    def _check_references(self, store: StoreCheck) -> None:
        """Every block that a version names is in a pack that can be read; the rest is listed."""
        self._progress.step("references")
        paths = [self._states[self._head.number]] if self._head and self._head.number in self._states else []
        for path in paths:
            for breach in check_namespace(str(path), published=True):
                self._findings.add("left", f"namespace: {breach.text}{_inode(breach.inode)}")
        if (self._cache_folder / NAMESPACE_FILE).exists() and not self.namespace_is_wrong:
            paths.append(self._cached())
        found: dict[LostRange, None] = {}
        for path in paths:
            try:
                missing = lost_files.missing_blocks(
                    str(path), lambda block: self._has(BlockId(block), store)
                )
                found |= dict.fromkeys(lost_files.lost_ranges(str(path), missing) if missing else ())
            except DriveError as error:
                log.info("references of %s cannot be read: %s", path, error)
        self.lost = list(found)
        for line in summarised(self.lost):
            self._findings.add("left" if self._away else "lost", line)

    def _has(self, block: BlockId, store: StoreCheck) -> bool:
        return self._index.has(block) and block not in store.unreadable

    async def _make_snapshot(self) -> None:
        """A new snapshot in the place of one that is wrong."""
        if self._away:
            return
        await self._copies.delete(_SNAPSHOT_KEY)
        head = self._head
        if head is None or not head.number or head.number not in self._states:
            return
        self._progress.step("a new snapshot")
        async with trio.open_nursery() as nursery:
            await nursery.start(self._blocks.run)
            await self._snapshots.put(self._states[head.number], head)
            nursery.cancel_scope.cancel()

    def _summarised(self, store: StoreCheck) -> str:
        sums = self._index.statistics()
        commits = self._head.number if self._head else 0
        read = f", {store.checked_bytes >> 20} MiB read" if self._data else ""
        return f"{commits} commits, {sums.packs} packs, {sums.blocks} blocks{read}"


async def _end_when_lost(lease: Lease) -> None:
    await lease.lost.wait()
    raise FencedError("the drive was taken over by another mount; the check ends here")


def _told(path: Path) -> list[str]:
    return [f"{breach.text}{_inode(breach.inode)}" for breach in check_namespace(str(path), published=False)]


def _inode(inode: int) -> str:
    return f" (inode {inode})" if inode else ""


def summarised(lost: Sequence[LostRange]) -> list[str]:
    """One line for each file and version."""
    files: dict[tuple[str, int, str, int | None], int] = {}
    for each in lost:
        key = (each.path, each.first_commit, each.first_time, each.end_commit)
        files[key] = files.get(key, 0) + each.length
    return [
        f"{path}: {length} bytes of the version of {moment or 'now'} (commit {first}"
        f"{'' if end is None else f' to {end - 1}'}) are lost"
        for (path, first, moment, end), length in files.items()
    ]


def set_namespace_aside(cache_folder: Path) -> Path:
    """Keep a namespace database that is wrong in `lost/`, so that the next opening makes a new one from log and
    journal; where it is. Blocks."""
    folder = cache_folder / "lost"
    folder.mkdir(mode=0o700, exist_ok=True)
    kept = folder / f"namespace-{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}.db"
    for suffix in ("-shm", "-wal", ""):
        source = cache_folder / (NAMESPACE_FILE + suffix)
        if source.exists():
            os.rename(source, kept.with_name(kept.name + suffix))
    return kept


def counts(findings: Findings) -> Mapping[str, int]:
    """How many findings there are of each kind, for the last line."""
    return {state: findings.count(state) for state in ("mended", "left", "lost")}

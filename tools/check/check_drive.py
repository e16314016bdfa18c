"""The whole check of an unmounted drive: what `fsck.drivefs` does once it has the keys.

Invariants:
1. With `mend` the drive's lease is held from the first write to the last, and a lease that is lost ends
   the run. Without, nothing is written outside the work folder.
2. Nothing is forgotten: what cannot be rebuilt stays as it is and is listed. What is replaced on this machine
   (its namespace database) is kept aside, and only if the commit log can give it again.
3. The order: the copies of the drive file, log, index, copies, fragments, namespace, references, then what
   depends on them (a new snapshot, the namespace). A run that was ended at any point is repeated from the
   start.
"""

from __future__ import annotations

import logging
from functools import partial
from pathlib import Path
from typing import Final

import trio

from backend.blocks import BlockIndex, PackedBlockStore, statistics_of
from backend.buffer import Buffer
from backend.care import ObjectCheck, StoreCheck
from backend.cluster import holding, require_surveyed
from backend.commits import (
    Lease,
    LeaseVotes,
    ReplicatedCommitLog,
    commit_key,
)
from backend.errors import CorruptError, DriveError, UnknownEpochError
from backend.findings import Findings
from backend.local import LocalUpstream, SessionWriter
from backend.nodes import Node
from backend.packs import PackEntry
from backend.system import each, plain_hash
from backend.upstream import BlockId, Head
from cache.retention import LostRange, lost_files
from cache.sync import learn_ahead
from tools.check.check_commits import SNAPSHOT_KEY, CommitCheck
from tools.check.check_copies import check_copies
from tools.check.check_report import summarised
from tools.check.check_state import StateCheck, StateSource, breaches_of
from tools.check.kept_index import KeptIndex
from tools.closing import closed_at_end
from tools.compose import (
    INDEX_FILE,
    TOOL_LEASE_PATIENCE,
    UnlockedDrive,
    block_store,
    client,
    lease_on,
    object_ranking,
    open_index,
    pack_store,
    small_objects,
)
from tools.drive_nodes import TOOL_PATIENCE, open_nodes, patient, voting
from tools.host.places import Folders
from tools.host.progress import Progress
from tools.quantities import counted
from tools.terminal import say

_CACHE: Final = 32 << 20

log = logging.getLogger(__name__)


class DriveCheck:
    """One run. `work` is an empty private folder, in this machine's state folder if there is one."""

    def __init__(
        self,
        drive: UnlockedDrive,
        own: Folders,
        work: Path,
        findings: Findings,
        progress: Progress,
        *,
        mend: bool,
        data: bool,
    ) -> None:
        file = drive.file
        self._drive = drive
        self._work = work
        self._findings = findings
        self._progress = progress
        self._mend = mend
        self._data = data
        nodes = open_nodes(drive.folder, file)
        self._nodes: dict[str, Node] = patient(nodes, TOOL_PATIENCE)
        self._ranking = object_ranking(file)
        self._objects = small_objects(drive, self._nodes)
        self._copies = ObjectCheck(self._objects, self._nodes, self._ranking, findings, mend=mend)
        leasing = patient(voting(nodes, file), TOOL_LEASE_PATIENCE)
        self._lease = None
        if mend:
            self._lease = lease_on(nodes, drive, say, is_patient=True)
        self._writer = SessionWriter(self._lease)
        self._votes = LeaseVotes(leasing, file.id, drive.keys.lease)
        asked = partial(self._votes.claim, TOOL_LEASE_PATIENCE)
        claims = asked if self._lease is None else self._lease.claimed
        self._log = ReplicatedCommitLog(self._objects, claims=claims)
        self._index = open_index(work / INDEX_FILE, file)
        self._blocks = self._store_on(self._index)
        self._packs = pack_store(drive, self._nodes)
        self._upstream = LocalUpstream(self._blocks, self._log, self._objects, self._writer)
        reader = client(drive, self._upstream, _CACHE)
        self._codec, self._snapshots, self._ring = reader.codec, reader.snapshots, reader.ring
        source = StateSource(
            self._log.commits_after, self._look_after, self._snapshots, reader.blocks, reader.ring
        )
        self._kept_index = KeptIndex(drive, own.cache, self._index, self._packs, self._store_on)
        self._commits = CommitCheck(self._log, self._copies, self._objects, self._snapshots, findings)
        self._state = StateCheck(source, own.state, work, findings, progress)
        self._away: list[str] = []
        self._named: set[bytes] = set()
        self._knows_epochs = False
        self.lost: list[LostRange] = []
        """what is lost, or cannot be read while nodes are away, by path and version"""
        self.namespace_is_wrong = False
        """whether this machine's namespace has to be made anew, and can be"""
        self.summary = ""
        """one line: what was looked at"""

    async def run(self) -> None:
        """See the module. `LeaseHeldError`, `UnavailableError`, `FencedError`; local failures."""
        async with closed_at_end(self._blocks):
            await self._tell_away()
            await self._copies.check_lease(self._votes)
            if self._lease is None:
                await self._check()
            else:
                await self._check_with_lease(self._lease)

    async def _check_with_lease(self, lease: Lease) -> None:
        async with holding(lease, partial(require_surveyed, self._drive.folder, self._drive.file)):
            await self._check()

    async def _tell_away(self) -> None:
        """All are asked at once: of those that hang, each may take a minute."""
        away: dict[str, DriveError] = {}

        async def look(node: Node) -> None:
            try:
                await node.check()
            except DriveError as error:
                away[node.name] = error

        await each(look, self._nodes.values())
        self._away = [name for name in self._nodes if name in away]
        self._findings.nodes_are_away = bool(away)
        for name in self._away:
            self._findings.add("left", str(away[name]))

    async def _check(self) -> None:
        await self._check_copies()
        self._progress.step("commit log")
        root = await self._commits.run()
        self._state.snapshot_problems += self._commits.snapshot_problems
        await self._make_index()
        store = await self._check_store()
        await self._state.run(self._commits.head, root, broken=self._commits.is_broken)
        self._judge_namespaces()
        self._check_references(store)
        await self._compare_index(set(root.blocks) if root is not None else set())
        await self._judge_snapshot()
        if self._mend:
            await self._kept_index.keep_what_is_broken()
        self.summary = await self._summarised(store)

    async def _check_copies(self) -> None:
        look = partial(check_copies, self._drive.folder, self._drive.file, mend=self._mend)
        for finding in await trio.to_thread.run_sync(look):
            self._findings.add(finding.state, finding.text)

    async def _look_after(self, commit: Head) -> None:
        """The copies of a commit."""
        await self._copies.check(commit_key(commit.number), lambda copy: plain_hash(copy.data) == commit.hash)

    # Packs and the index

    async def _make_index(self) -> None:
        self._progress.step("pack indexes")
        report = await self._blocks.reconcile(self._progress.update)
        for pack_id in report.unreadable:
            self._findings.add("lost", f"pack {pack_id}: its index cannot be read")
        if report.incomplete:
            self._findings.add(
                "note",
                f"{report.incomplete} packs have fewer fragments than can be decoded: "
                "left by writes that never finished, unless blocks are missing below",
            )

    async def _compare_index(self, needed: set[bytes]) -> None:
        """This machine's index against the packs; one that is wrong is replaced by the fresh one's
        content."""
        if not self._kept_index.exists:
            return
        self._progress.step("block index")
        copy = None if self._mend else self._work / "copy-blocks.db"
        wrong = await self._kept_index.differences(self._named | needed, copy)
        if not wrong:
            return
        is_mended = self._mend and not self._away
        if is_mended:
            self._kept_index.remove()
        self._findings.add("mended" if is_mended else "left", f"block index: {'; '.join(wrong)}")

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
        if self._data and not self._commits.is_broken:
            await self._learn_epochs()
        await store.run(self._progress.update)
        return store

    async def _learn_epochs(self) -> None:
        """Those of all blocks; the snapshot's root, if there is one, names those up to its commit only. A
        commit that begins one wrongly is damage, of which the check of the state tells."""
        head = self._commits.head
        try:
            await learn_ahead(self._ring, self._upstream.log, 0, 0 if head is None else head.number)
        except CorruptError as error:
            log.info("not all key epochs are known: %s", error)
        else:
            self._knows_epochs = True

    def _verify(self, block: BlockId, sealed: Buffer) -> None:
        try:
            plaintext = self._codec.open(block, sealed)
        except UnknownEpochError:
            if not self._knows_epochs:  # the key may have been in what is lost of the log
                return
            raise
        if self._codec.block_id(plaintext) != block:
            raise CorruptError("a block's content is not what its id says")

    def _read_index(self, pack_id: bytes, whole: bytes) -> list[PackEntry]:
        return self._packs.codec.index_of(pack_id, whole)

    # References, and what is lost

    @property
    def _can_make_anew(self) -> bool:
        """Whether what depends on the log may be replaced: only from a log that is whole and not older than
        what is known, with all nodes there."""
        log_is_whole = not self._commits.is_broken and not self._state.log_is_older
        return self._mend and not self._away and log_is_whole and self._state.newest is not None

    def _judge_namespaces(self) -> None:
        """The state that the log gives, and this machine's."""
        if self._state.newest is not None:
            for text in breaches_of(self._state.newest, True):
                self._findings.add("left", f"namespace: {text}")
        if self._state.namespace_problems:
            self.namespace_is_wrong = self._can_make_anew
            what = "; ".join(self._state.namespace_problems)
            self._findings.add(
                "mended" if self.namespace_is_wrong else "left", f"this machine's namespace: {what}"
            )

    def _check_references(self, store: StoreCheck) -> None:
        """Every block that a version names is in a pack that can be read; the rest is listed."""
        self._progress.step("references")
        cached = None if self.namespace_is_wrong else self._state.cached()
        found: dict[LostRange, None] = {}
        for path in filter(None, (self._state.newest, cached)):
            try:
                named = lost_files.named_blocks(str(path))
                missing = {block for block in named if not self._has(BlockId(block), store)}
                self._named |= named
                found |= dict.fromkeys(lost_files.lost_ranges(str(path), missing) if missing else ())
            except DriveError as error:
                log.info("references of %s cannot be read: %s", path, error)
        self.lost = list(found)
        for line in summarised(self.lost, nodes_are_away=bool(self._away)):
            self._findings.add("lost", line)

    def _has(self, block: BlockId, store: StoreCheck) -> bool:
        if self._data:  # every block was read
            return self._index.locate(block) is not None and block not in store.unreadable
        return self._index.has(block)

    async def _judge_snapshot(self) -> None:
        """One that is wrong makes room for a new one, if the log is there to make it from."""
        if not self._state.snapshot_problems:
            return
        if self._can_make_anew:
            await self._make_snapshot()
        what = "; ".join(self._state.snapshot_problems)
        self._findings.add("mended" if self._can_make_anew else "left", f"snapshot: {what}")

    async def _make_snapshot(self) -> None:
        await self._copies.delete(SNAPSHOT_KEY)
        head = self._commits.head
        if head is None or not head.number or self._state.newest is None:
            return
        self._progress.step("a new snapshot")
        async with trio.open_nursery() as nursery:
            await nursery.start(self._blocks.run)
            await self._snapshots.put(self._state.newest, head)
            nursery.cancel_scope.cancel()
        await self._kept_index.tell_of_new_packs()

    def _store_on(self, index: BlockIndex) -> PackedBlockStore:
        return block_store(self._drive, self._nodes, index, self._writer)

    async def _summarised(self, store: StoreCheck) -> str:
        sums = await statistics_of(self._index.packs)
        commits = self._commits.head.number if self._commits.head else 0
        read = f", {store.checked_bytes >> 20} MiB read" if self._data else ""
        stored = f"{counted(sums.packs, 'pack')}, {counted(sums.blocks, 'block')}"
        return f"{counted(commits, 'commit')}, {stored}{read}"

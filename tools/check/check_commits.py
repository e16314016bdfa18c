"""The check of the commit log, and of the copies of the small objects: commits and roots."""

from __future__ import annotations

from typing import Final

from backend.care import ObjectCheck
from backend.commits import FOLDER, ROOTS, ReplicatedCommitLog, ReplicatedObjects, number_of
from backend.errors import CorruptError, FormatError, RollbackError
from backend.findings import Findings
from backend.upstream import Head
from cache.publish import ROOT_NAME, SnapshotRoot, SnapshotStore

SNAPSHOT_KEY: Final = ROOTS + ROOT_NAME


class CommitCheck:
    """Its results: `head`, the newest commit; `is_broken`, whether the chain is; `snapshot_problems`, what
    is wrong with the snapshot's root, one line each."""

    def __init__(
        self,
        log: ReplicatedCommitLog,
        copies: ObjectCheck,
        objects: ReplicatedObjects,
        snapshots: SnapshotStore,
        findings: Findings,
    ) -> None:
        self._log = log
        self._copies = copies
        self._objects = objects
        self._snapshots = snapshots
        self._findings = findings
        self.head: Head | None = None
        self.is_broken = False
        self.snapshot_problems: list[str] = []

    async def run(self) -> SnapshotRoot | None:
        """Verify the chain; the newest snapshot's root. If the chain is broken, go on from the snapshot."""
        try:
            self.head = await self._log.open()
        except (CorruptError, FormatError) as error:
            self._findings.add("lost", str(error))
            self.is_broken = True
        await self._check_strays()
        await self._check_roots()
        root = await self._newest_root()
        if self.is_broken and root is not None:
            await self._open_from(root.head)
        return root

    async def _open_from(self, head: Head) -> None:
        try:
            self.head = await self._log.open(trusted=head)
        except RollbackError:
            self._findings.add(
                "left",
                f"the snapshot is of commit {head.number}, and the log does not have it: nodes were put back "
                "to an older state",
            )
        except (CorruptError, FormatError) as error:
            self._findings.add("lost", str(error))

    async def _check_strays(self) -> None:
        """Judge what a node put where the log or a root would be."""
        head = self.head.number if self.head else None
        if head is not None:
            await self._copies.check_strays(FOLDER, lambda key: 0 < (number_of(key) or 0) <= head)
        await self._copies.check_strays(ROOTS, lambda key: key == SNAPSHOT_KEY)

    async def _check_roots(self) -> None:
        for key in sorted((await self._objects.keys(ROOTS)).holders):
            if key != SNAPSHOT_KEY or await self._is_readable(key):
                await self._copies.check(key, lambda _copy: True)

    async def _is_readable(self, key: str) -> bool:
        return bool((await self._objects.find_all(key)).good)

    async def _newest_root(self) -> SnapshotRoot | None:
        """The newest root that can be used."""
        try:
            root = await self._snapshots.newest()
        except (CorruptError, FormatError) as error:
            self.snapshot_problems.append(str(error))
            return None
        if root is None and (await self._objects.keys(ROOTS)).holders.get(SNAPSHOT_KEY):
            self.snapshot_problems.append("no copy of its root authenticates")
        return root

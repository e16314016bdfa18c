"""The rebaser: brings a drive to the newest commit of a log that other devices write too.

Invariants:
1. A commit is ours only if it says what the pending one says, and is of this device, of its next sequence and
   of the time that the journal has for it: then it counts as published, and is no change by others. Another
   commit of this device was made by a copy of its state: nothing is rebased on it, except as another device,
   with other numbers for all inodes that are not published.
2. Nothing is pending when `run` returns, and what was not published belongs to the open commit.
3. Listeners are told after the new state is there, onlookers in the same turn, and people by a notice, also
   where the disk then refuses to sync. A kill before it takes the notice, never a copy.

One call at a time. Event-loop thread only.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Final

import trio

from backend.commits import encode_commit
from backend.errors import DriveError, FencedError, TransientError
from backend.upstream import BLOCK_ID_SIZE, Commit, Head, Upstream
from cache.contact import FIRST_BACKOFF, MAX_BACKOFF, Contact
from cache.errors import FileSystemError
from cache.journal import Ledger, Rebasing, Trimming, rebase, show_published, sync_rebase
from cache.namespace import readable_folder_path
from cache.notices import MOST, Kind, Notices, noted_path
from cache.publish import is_same_commit, require_growth
from cache.rebase import Changed, Decision, Resolved, Row
from cache.sync.changes import AttributesChanged, Broadcast, Change, ContentChanged, NameChanged, Replaced
from cache.sync.follower import Follower

log = logging.getLogger(__name__)

STEP: Final = 4 << 10
"""Bytes of commits' payloads that are applied without a pause, unless one commit is larger."""
MANY: Final = 32
"""Commits that are applied without a pause."""
AT_ONCE: Final = 64 << 20
"""Bytes of commits after which no more are asked for before these are applied. Who has no key can make
commits without end, which nobody but the follower finds wrong."""
_SILENT: Final = frozenset(
    {Row.SAME, Row.FOLDERS_MERGED, Row.FIELD, Row.TIMES, Row.SAVE_RENAME, Row.RENAME_SAVE}
)
"""Rows that nobody has to hear of: both sides have their wish, or the later one of a field."""


class CopiedStateError(FencedError):
    """Somebody else writes the drive as this device, from a copy of its state."""


class Rebaser:
    """See the module. `device`, `host`: of this device. `held`: whether somebody has an inode open.
    `read_only`: nothing waits to be published, and nothing is journaled."""

    def __init__(
        self,
        ledger: Ledger,
        trimming: Trimming,
        follower: Follower,
        upstream: Upstream,
        device: int,
        host: bytes,
        changes: Broadcast,
        held: Callable[[int], bool],
        notices: Notices,
        *,
        read_only: bool = False,
    ) -> None:
        self._bring: Final = show_published if read_only else rebase
        self._ledger = ledger
        self._trimming = trimming
        self._follower = follower
        self._upstream = upstream
        self._device = device
        self._host = host
        self._changes = changes
        self._held = held
        self._notices = notices

    async def run(self) -> None:
        """Apply the commits that the drive lacks, and have what is not published go on from there. Raises
        what the upstream, the journal and the follower raise."""
        await sync_rebase(self._ledger)  # of the call before, whose sync was refused
        is_all = False
        while not is_all:
            commits, is_all = await self._lacking()
            self._take_ours(commits)
            await self._take(commits)

    async def run_as(self, device: int) -> None:
        """As `run`, of the state of a copy, after `CopiedStateError`: all commits that it lacks were made by
        others, and what it has not published is that of `device`, which it becomes. Nobody has a file
        open. The caller saves the namespace."""
        is_all = False
        while not is_all:
            commits, is_all = await self._lacking()
            await self._take(commits, device)

    def _take_ours(self, commits: list[tuple[Commit, bytes]]) -> None:
        """The first of those may be the pending one. `CopiedStateError` if others made one as this device."""
        if commits and self._is_ours(commits[0][0]):
            commit, commit_hash = commits.pop(0)
            self._ledger.published(Head(commit.number, commit_hash))
            self._follower.learn_epochs()
        if self._device and any(self._is_of_a_copy(commit) for commit, _ in commits):
            raise CopiedStateError(
                f"another copy of this machine's state has written the drive as device {self._device}: mount "
                "again, as another device"
            )

    async def _take(self, commits: list[tuple[Commit, bytes]], becomes: int | None = None) -> None:
        lacking = deque(commits)
        while lacking:
            await self._go_on(self._step(lacking), becomes)
            await self._trimming.after_follow()
        for commit, _ in commits:
            await self._upstream.housekeeping.revive(commit.added)

    def _step(self, lacking: deque[tuple[Commit, bytes]]) -> list[tuple[Commit, bytes]]:
        """The commits to be applied without a pause, taken from the first of those. Where something is not
        published here that is all of them: each step costs as much as there is of it."""
        step = [lacking.popleft()]
        size = len(step[0][0].payload)
        while lacking and (self._ledger.unpublished or size + len(lacking[0][0].payload) <= STEP):
            step.append(lacking.popleft())
            size += len(step[-1][0].payload)
        return step

    async def _go_on(self, commits: list[tuple[Commit, bytes]], becomes: int | None) -> None:
        """Apply these, and have what is not published go on from there, as that of device `becomes`."""
        base = self._ledger.head.number
        shown: list[Resolved] = []

        def show(resolved: Resolved) -> None:
            shown.append(resolved)
            self._show(base, resolved)

        rebasing = Rebasing(
            lambda: [(commit.number, encode_commit(commit)) for commit, _ in commits],
            lambda namespace: self._follower.of(namespace).apply_all(commits),
            self._held,
            self._host,
            self._before,
            show,
            becomes,
            becomes is None and self._is_large(commits),
        )
        try:
            await self._bring(self._ledger, rebasing)
        finally:  # also if the sync was refused: the state has changed, and no later rebase knows of it
            with trio.CancelScope(shield=True):
                await trio.lowlevel.checkpoint()
                for resolved in shown:
                    self._say(resolved, base)
                await self._notices.store()

    async def _lacking(self) -> tuple[list[tuple[Commit, bytes]], bool]:
        """Commits that the drive lacks, and whether these are all that there are."""
        found: list[tuple[Commit, bytes]] = []
        number, size = self._ledger.head.number, 0
        while page := await self._upstream.log.commits_after(number):
            found += page
            number = page[-1][0].number
            size += sum(_size(commit) for commit, _ in page)
            if size > AT_ONCE:
                return found, False
        return found, True

    def _is_ours(self, commit: Commit) -> bool:
        pending = self._ledger.pending
        if pending is None or commit.device != self._device or commit.time_ns != pending.time_ns:
            return False
        if commit.sequence != self._ledger.namespace.devices.sequence_of(self._device) + 1:
            return False
        operations = self._follower.encoded_operations(commit)
        return is_same_commit(pending, operations, self._ledger.head, commit)

    def _is_of_a_copy(self, commit: Commit) -> bool:
        """Whether it is of this device, though not made here. To name it needs no key: what it has not signed
        the follower will find damaged, and the device stays what it is."""
        if commit.device != self._device:
            return False
        row = self._ledger.namespace.devices.of(self._device)
        return row is None or self._follower.is_signed(commit, row.key)

    def _is_large(self, commits: list[tuple[Commit, bytes]]) -> bool:
        """Whether to apply these without a pause would hold up calls."""
        size = sum(len(commit.payload) for commit, _ in commits) + self._ledger.operation_bytes
        return size > STEP or len(commits) > MANY

    def _before(self) -> None:
        for onlooker in self._changes.onlookers:
            onlooker.before()

    def _show(self, base: int, resolved: Resolved) -> None:
        replaced = Replaced(base, resolved.changed.replaced, resolved.changed.became)
        for onlooker in self._changes.onlookers:
            onlooker.after(replaced)
        # At once: whoever sees the new state may ask whether all doors were told of it (`Coherence`).
        self._changes.announce(_changes(resolved.changed))

    def _say(self, resolved: Resolved, base: int) -> None:
        said = [decision for decision in resolved.decisions if decision.row not in _SILENT][-MOST:]
        paths = self._paths({decision.key[0] for decision in said if decision.key is not None})
        self._notices.add(Kind.CONFLICT, [(_path(each, paths), each.row.value) for each in said], base)

    def _paths(self, folders: set[int]) -> dict[int, bytes | None]:
        namespace = self._ledger.namespace
        readable = partial(readable_folder_path, namespace.path, namespace.synced_connection)
        return {folder: readable(folder) for folder in folders}


def _path(decision: Decision, folders: dict[int, bytes | None]) -> str:
    if decision.key is None:
        return ""
    return noted_path(folders[decision.key[0]], decision.key[1])


class Following:
    """Live following: others' commits are applied soon after they are published, and after the upstream was
    away. `follow`: by the publisher."""

    def __init__(
        self, ledger: Ledger, upstream: Upstream, contact: Contact, follow: Callable[[], Awaitable[None]]
    ) -> None:
        self._ledger = ledger
        self._upstream = upstream
        self._contact = contact
        self._follow = follow

    async def run(self) -> None:
        """For ever; errors are tried again, except that a fenced publisher follows nothing more. The contact
        must be running."""
        backoff = FIRST_BACKOFF
        while True:
            try:
                await self._contact.there()
                await self._follow()
                while await self._follow_next():
                    backoff = FIRST_BACKOFF
                continue
            except FencedError:
                return
            except (DriveError, FileSystemError, OSError) as error:
                log.info("others' commits cannot be followed now: %s", error)
                if isinstance(error, TransientError):
                    self._contact.doubt()
            await self._contact.pause(backoff)
            backoff = min(2 * backoff, MAX_BACKOFF)

    async def _follow_next(self) -> bool:
        """Wait for the next commit, and follow. False: the contact is lost."""
        before = self._ledger.head
        with self._contact.listening() as listening:
            await self._upstream.log.wait_for_change(before.number)
        if listening.cancelled_caught:
            return False
        await self._follow()
        await require_growth(self._upstream.log, before, self._ledger.head)
        return True


def _size(commit: Commit) -> int:
    """About the bytes of it."""
    references = len(commit.added) + len(commit.dropped)
    return len(commit.payload) + len(commit.authority) + BLOCK_ID_SIZE * references


def _changes(changed: Changed) -> list[Change]:
    names = [NameChanged(parent, name) for parent, name in sorted(changed.names)]
    contents = [ContentChanged(inode) for inode in sorted(changed.contents)]
    return [*names, *contents, *(AttributesChanged(i) for i in sorted(changed.inodes - changed.contents))]

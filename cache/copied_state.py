"""A copied state: the opening of a state folder whose device somebody else is, with changes that are not
published (a restored home, a cloned machine).

Invariants:
1. The folder becomes a new device, which the log knows, before anything of it gets another number. Until the
   REBASED record (`cache.journal.rebasing`) says the new numbers, it is what it was: a process that is killed
   before that finds the copy again, and goes on with the device that it had made.
2. What is rebased where the folder is about to be another device gets numbers of that one only: the journal
   may have such numbers already, and the original gives its own.
3. Nothing that is published gets another number. What is not published is never compared with the original's
   inodes of the same numbers.
4. What the original published of the changes that both have is not changed by it again, as far as the rebase
   sees that it is the same.

Event-loop thread only; nobody else uses the drive.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager

import trio

from backend.upstream import Upstream
from cache.enrolment import Enrolment
from cache.local import LocalState
from cache.sync import CopiedStateError, Follower, Rebaser


class CopiedState:
    """Of one opening, after `CopiedStateError`. `enrolment` is given what follows, and is of a copy."""

    def __init__(
        self,
        local: LocalState,
        upstream: Upstream,
        follower: Follower,
        rebaser: Rebaser,
        enrolment: Callable[[Callable[[], Awaitable[None]]], Enrolment],
    ) -> None:
        self._local = local
        self._upstream = upstream
        self._follower = follower
        self._rebaser = rebaser
        self._enrolment = enrolment(self._follow)

    async def rebase(self) -> None:
        """As `Rebaser.run`, of the opening. `CopiedStateError` also if an earlier process was killed when the
        folder was about to be another device: `go_on`."""
        namespace, number = self._local.namespace, self._local.device_in_file()
        # With a cut on its way the journal is that of the device that it was, all of it.
        if self._local.ledger.pending is None and number not in (0, namespace.device):
            raise CopiedStateError(
                f"{self._local.folder} is about to be device {number} of the drive, and not "
                f"{namespace.device} any more"
            )
        await self._rebaser.run()

    async def go_on(self) -> None:
        """As a new device, from the newest commit. Raises what the enrolment and the rebaser raise: the next
        opening begins anew."""
        before = self._local.namespace.device
        with self._published():
            await self._follow()
            identity = await self._enrolment.enrolled()
        await self._rebaser.run_as(identity.number)
        self._local.note(
            f"{self._local.folder} is device {identity.number} of the drive now, and not {before} any more: "
            "another copy of it went on as that, or its key was lost. What was not stored goes on as its own"
        )

    @contextmanager
    def _published(self) -> Iterator[None]:
        """The namespace is that of the log, without what is unpublished, and as before after it."""
        ledger, namespace, known = self._local.ledger, self._local.namespace, {*self._follower.makers}
        savepoint = namespace.savepoint()
        try:
            namespace.undo(ledger.head.number)
            yield
        finally:
            self._follower.makers = known
            ledger.roll_back(savepoint)

    async def _follow(self) -> None:
        """Apply the commits that the namespace lacks; nothing is saved."""
        while commits := await self._upstream.log.commits_after(self._local.ledger.head.number):
            for _ in self._follower.apply_all(commits):
                await trio.lowlevel.checkpoint()

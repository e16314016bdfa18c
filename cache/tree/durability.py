"""Durability: fsync and sync, and the errors that tell what they left out.

Event-loop thread only.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from contextlib import suppress
from typing import Final

import trio

from backend.errors import AwayError, FencedError
from backend.upstream import Upstream
from cache.errors import DriveFullError, JournalLostError, UnreadableError
from cache.journal import Ledger
from cache.publish import Publisher
from cache.retention import paths_of

log = logging.getLogger(__name__)

PATIENCE: Final = 10.0
"""Seconds without any progress after which `redundancy` no longer waits."""
CONFIRM_INTERVAL: Final = 1.0
NAMED: Final = 10
"""So many files are named in a message."""


class Durability:
    """See the module."""

    def __init__(self, ledger: Ledger, publisher: Publisher, upstream: Upstream, *, read_only: bool) -> None:
        self._ledger = ledger
        self._publisher = publisher
        self._upstream = upstream
        self._read_only = read_only

    async def fsync(self, inode: int, *, alone: bool = False) -> None:
        """Everything accepted so far, of this file and all others, survives a power cut. `alone`: as of
        `Journal.sync`.
        `InputOutputError` if the disk did not take it. Where the journal is lost the nodes have it then.
        `FencedError`: what is in the journal will never be published."""
        self._ledger.dirty.sync(inode)
        try:
            await self._ledger.journal.sync(alone=alone)
        except JournalLostError:
            await self.sync()
        await self._confirm_writer()

    async def _confirm_writer(self) -> None:
        try:
            await self._upstream.confirm_writer()
        except FencedError as error:
            await self._publisher.fence(error)
            raise

    async def run(self) -> None:
        """Find out soon that another session has taken over; ends then."""
        with suppress(FencedError):
            while True:
                await trio.sleep(CONFIRM_INTERVAL)
                await self._confirm_writer()

    async def sync(self) -> None:
        """Everything accepted so far is stored and published. Raises what stopped it. `DriveFullError`: all
        but files for which the nodes have no room; `UnreadableError`: all but others that are set apart.
        `AwayError`: nothing is published, and what the journal has is published later."""
        if not self._read_only:
            try:
                await self._publisher.sync()
            except AwayError as error:
                raise AwayError(f"not published, it waits in the journal: {error}") from error
        apart = await self.set_apart()
        if apart:
            is_full = self._ledger.set_apart.lack_of_room() is not None
            raise (DriveFullError if is_full else UnreadableError)(_without(apart))

    async def set_apart(self) -> dict[str, str]:
        """The reasons why files are not published, by path (`cache.journal.set_apart`)."""
        reasons = self._publisher.set_apart()
        if not reasons:
            return {}
        self._ledger.save()
        paths = await trio.to_thread.run_sync(paths_of, self._ledger.namespace.path, reasons.keys())
        return {paths[inode]: reason for inode, reason in reasons.items()}

    @property
    def is_only_here(self) -> bool:
        """Whether something was accepted that is neither on the nodes nor in a journal that can be found."""
        return not self._read_only and not self._ledger.custody.check() and self._ledger.unpublished

    async def redundancy(self) -> str:
        """Wait until what is stored has all the redundancy that the profile promises, as long as that goes
        on; a line for people if it has less. A hub that is away has taken what is published, and gives it the
        rest itself."""
        if self._read_only:
            return ""
        try:
            short = await self._upstream.housekeeping.redundancy(PATIENCE)
        except AwayError as error:
            log.info("nobody says how redundant the stored data is: %s", error)
            return ""
        if not short.packs:
            return ""
        packs = "1 pack lacks" if short.packs == 1 else f"{short.packs} packs lack"
        where = f" on {', '.join(short.nodes)}" if short.nodes else ""
        return (
            f"not yet with the redundancy that was promised: {packs} fragments{where}; "
            "a mount of the drive writes what is not there when it can"
        )


def _without(apart: Mapping[str, str]) -> str:
    """The error of a sync that left these files out."""
    files = "; ".join(f"{path} ({reason})" for path, reason in list(apart.items())[:NAMED])
    more = f"; and {len(apart) - NAMED} more" if len(apart) > NAMED else ""
    if len(apart) == 1:
        return (
            f"all is stored but 1 file: {files}; it stays in the journal and is tried again; deleting it "
            "ends that"
        )
    return (
        f"all is stored but {len(apart)} files: {files}{more}; they stay in the journal and are tried again; "
        "deleting them ends that"
    )

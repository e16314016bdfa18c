"""The common parts of the request handlers of one mount: the drive, its past, and what is open."""

from __future__ import annotations

from typing import Final

import pyfuse3
from pyfuse3 import EntryAttributes, RequestContext

from cache.attributes import Attributes
from cache.drive import Drive
from cache.errors import ExistsError, ReadOnlyFileSystemError
from cache.services import Found, VersionsView
from cache.tree import LISTS
from mountfs.callers import Callers
from mountfs.conversions import entry_reply, past_reply
from mountfs.kernel_times import KernelTimes
from mountfs.large_writes import LargeWrites
from mountfs.node_drive import NodeDrive
from mountfs.open_folders import OpenFolders
from mountfs.privileges import Writers

_ATTRIBUTE_CLASSES: Final = (b"user.", b"trusted.", b"security.")


class HandlerBase(pyfuse3.Operations):
    """`access_times`: keep them (relatime). `access_lists`: the kernel enforces POSIX ACLs and leaves the
    umask to us; without, they are refused, for to keep one that nobody obeys would lie. `coherent_opens`:
    others' commits are asked for before a file is opened, and where a name is not there."""

    def __init__(
        self,
        drive: Drive | NodeDrive,
        control_path: bytes,
        *,
        access_times: bool,
        access_lists: bool = False,
        coherent_opens: bool = False,
        view: VersionsView,
    ) -> None:
        super().__init__()
        self.enable_acl = access_lists
        self._attribute_classes = (*_ATTRIBUTE_CLASSES, *(LISTS if access_lists else ()))
        self._attribute_classes_of_users = tuple(set(self._attribute_classes) - {b"trusted."})
        self._drive = drive
        self._view = view
        self._past = self._view.first
        self._versions_name = self._view.name
        self._control_path = control_path
        self._access_times = access_times
        self._coherent_opens = coherent_opens
        self._writers = Writers()
        self._times = KernelTimes()
        self.folders = OpenFolders()
        self.large_writes = LargeWrites()
        self.callers = Callers()

    def opened_for_writing(self) -> list[int]:
        """The files that are open so."""
        return self._writers.opened_now()

    def _held(self, attributes: Attributes) -> EntryAttributes:
        self._drive.hold(attributes.inode)
        return entry_reply(attributes)

    def _held_past(self, found: Found) -> EntryAttributes:
        self._view.hold(found)
        return past_reply(found)

    def _check_live(self, inode: int) -> None:
        """`ReadOnlyFileSystemError` for what belongs to the past."""
        if inode >= self._past:
            raise ReadOnlyFileSystemError("the past cannot be changed")

    def _check_new(self, parent: int, name: bytes) -> None:
        """The name may be made there, as far as the past is concerned."""
        self._check_live(parent)
        if name == self._versions_name:
            raise ExistsError("the hidden directory has this name")

    def _check_old(self, parent: int, name: bytes) -> None:
        """The name may be taken away there."""
        self._check_live(parent)
        if name == self._versions_name:
            raise ReadOnlyFileSystemError("the past cannot be changed")

    def _touch(self, inode: int) -> None:
        if self._access_times:
            self._drive.touch(inode)

    async def _make_node(
        self, parent: int, name: bytes, mode: int, rdev: int, ctx: RequestContext
    ) -> Attributes:
        """Without POSIX ACLs the kernel has applied the umask, and nothing is inherited."""
        umask = ctx.umask if self.enable_acl else None
        return await self._drive.make_node(parent, name, mode, rdev, ctx.uid, ctx.gid, umask)

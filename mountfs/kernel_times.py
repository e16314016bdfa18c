"""The times that the kernel shows of files that are open for writing, as far as it has told them.

With the write-back cache the kernel owns the modification and the change time of a regular file from the
moment it knows the inode (fs/fuse/inode.c, `fuse_get_cache_mask`). It stamps a write when a program makes it,
and tells the time (`fuse_flush_times`) at close(2), at fsync(2) and whenever else it writes the inode back,
unless the stamp is the one that it told before: its clock goes in steps. The content itself comes when it
likes, before or after. So when a WRITE comes nobody can say which time the kernel shows: the drive takes its
own for it, since content that is newer than its time would be missed by every backup. When the last
descriptor that can write is closed everything has been told, and what was told last is what stat(2) shows: it
is set then, if it is not so already.

Invariants:
1. While no descriptor can write, the drive's times of a file are those that the kernel shows, if it knows it.
2. While one can, so are the times here, but for those that the kernel has not told yet.
"""

from __future__ import annotations

from pyfuse3 import SetattrFields

from cache.attributes import AttributeChange, Attributes


class KernelTimes:
    """See the module. Event-loop thread only."""

    def __init__(self) -> None:
        self._told: dict[int, tuple[int, int]] = {}

    def opened(self, before: Attributes) -> None:
        """The file, of these attributes, was opened for writing."""
        self._told.setdefault(before.inode, (before.mtime_ns, before.ctime_ns))

    def told(self, change: AttributeChange, after: Attributes) -> None:
        """The kernel made a change, after which the file's attributes are these."""
        told = self._told.get(after.inode)
        if told is not None:
            mtime_ns = told[0] if change.mtime_ns is None else after.mtime_ns
            ctime_ns = told[1] if change.ctime_ns is None else after.ctime_ns
            self._told[after.inode] = mtime_ns, ctime_ns

    def told_both(self, after: Attributes) -> None:
        """The kernel made a change of both times (`only_times`), after which the attributes are these."""
        if after.inode in self._told:
            self._told[after.inode] = after.mtime_ns, after.ctime_ns

    def closed(self, inode: int) -> tuple[int, int]:
        """The last descriptor that can write was closed: (modification time, change time)."""
        return self._told.pop(inode)


def only_times(fields: SetattrFields) -> bool:
    """Whether the kernel states its own two times of a file and nothing else."""
    return (
        fields.update_mtime
        and fields.update_ctime
        and not (fields.update_size or fields.update_atime or fields.update_mode)
        and not (fields.update_uid or fields.update_gid)
    )

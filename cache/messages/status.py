"""The status of a mounted drive (`drivefs status`, `GET /status`); its numbers are the metrics."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields

from backend.health import NodeChange, ScrubStatus
from backend.upstream import StoreStatus


@dataclass(frozen=True, slots=True)
class FileSetApart:
    """A file whose content cannot be read from the journal, so that it cannot be stored; and why."""

    path: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class DiskCacheStatus:
    """The sealed blocks on this machine's disk."""

    limit: int
    bytes: int
    hits: int
    misses: int


@dataclass(frozen=True, slots=True, kw_only=True)
class KeepingStatus:
    """The folders that are kept on this machine: `bytes` of blocks are named in them, `here` of them are on
    its disk."""

    folders: int
    bytes: int
    here: int
    problem: str
    """why the rest is not here, in one line; empty: nothing hinders"""


@dataclass(frozen=True, slots=True, kw_only=True)
class AwayStatus:
    """The upstream does not answer: since when (nanoseconds since 1970), and why, in one line."""

    since_ns: int
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class WaitingStatus:
    """What was accepted here and is not published: operations and writes, their bytes, and when the oldest of
    them was made (nanoseconds since 1970; 0: not known)."""

    changes: int
    bytes: int
    since_ns: int


@dataclass(frozen=True, slots=True, kw_only=True)
class DriveStatus:
    """What is accepted, not yet stored, not yet published; the store. Counts and bytes; docs/metrics.md says
    what each number means."""

    read_only: bool
    fenced: bool
    problem: str
    """what is wrong, in one line; empty: nothing"""
    journal_lost: bool
    set_aside: int
    notices: int
    """of this machine, of the last thirty days: `drivefs notices`"""
    set_apart: tuple[FileSetApart, ...]
    commit: int
    published: bool
    pending_commit: int | None
    commit_interval: float
    away: AwayStatus | None
    """None: the upstream answers, as far as is known"""
    waiting: WaitingStatus | None
    """None: nothing waits"""
    open_operations: int
    dirty_files: int
    dirty_bytes: int
    journal_bytes: int
    journal_limit: int
    files: int
    directories: int
    file_bytes: int
    sealed_bytes: int
    new_bytes: int
    new_stored_bytes: int
    cache_bytes: int
    cache_hits: int
    cache_misses: int
    disk_cache: DiskCacheStatus | None
    """None: there is none"""
    keeping: KeepingStatus | None
    """None: there is no disk cache"""
    scrub: ScrubStatus | None
    """None: the drive is open for reading only"""
    node_change: NodeChange | None
    """of this mount; None: there was none"""
    store: StoreStatus | None
    """None: not known yet"""


@dataclass(frozen=True, slots=True, kw_only=True)
class MountStatus(DriveStatus):
    """The drive's, and what this mount of it is."""

    versions_dir: str
    """the name of the hidden directory, percent-encoded; empty: there is none"""
    folders: Mapping[str, str]
    """those that the drive has on this machine, by what they are for"""
    hub: str = ""
    """the address of the hub that has the drive; empty: it is on nodes of its own"""

    @classmethod
    def of(
        cls, drive: DriveStatus, *, versions_dir: str, folders: Mapping[str, str], hub: str = ""
    ) -> MountStatus:
        """With what the drive says."""
        own = {field.name: getattr(drive, field.name) for field in fields(DriveStatus)}
        return cls(**own, versions_dir=versions_dir, folders=folders, hub=hub)

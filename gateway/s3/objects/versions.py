"""Versions of objects: those that are not the newest, and delete markers, are files in the system folder.

Invariants:
1. The newest version of a key is the file at the key's path, which the mount shows. Where there is no such
   file, the newest version is the first one in the key's folder, a delete marker. If the first one is no
   delete marker, the mount removed the file: the door shows a marker that nobody wrote (`implied_marker`).
2. The names of a key's versions are in the order of time, the newest first.
3. At most one version of a key is the null version.

What is planned is of one moment, as in `gateway.s3.objects.names`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from stat import S_IFREG
from typing import Final

from cache.drive import Drive
from cache.namespace import Create
from cache.tree import CLAIM
from gateway.s3.key_paths import path_of
from gateway.s3.objects.names import FILE_MODE, Batch, Found, Names, Step
from gateway.s3.objects.record import Record, encode
from gateway.s3.objects.states import States
from gateway.s3.objects.system_folder import NAME, VERSIONS, SystemFolder, bucket_name
from gateway.s3.objects.types import NULL_VERSION, Bucket
from gateway.s3.objects.walk import VERSION_NAME

_LAST: Final = (1 << 64) - 1
_FIRST_PAGE, _PAGE = 2, 250
"""Names of versions that are read at once: mostly the newest is wanted."""


@dataclass(frozen=True, slots=True)
class Version:
    """A file in the folder of a key."""

    folder: int
    name: bytes
    inode: int
    record: Record

    @property
    def moment(self) -> int:
        """By which versions are ordered; nanoseconds, mostly of the clock."""
        return _moment(self.name[len(VERSION_NAME) :])


@dataclass(frozen=True, slots=True)
class ImpliedMarker:
    """A delete marker that nobody wrote. When the file was removed is not known: after the version before."""

    version_id: str
    moment: int


class Versions:
    """See the module."""

    def __init__(self, drive: Drive, names: Names, states: States, system: SystemFolder) -> None:
        self._drive = drive
        self._namespace = drive.ledger.namespace
        self._names = names
        self._states = states
        self._system = system

    # Finding

    def of_key(self, bucket: int, key: bytes, after: bytes = b"") -> Iterator[Version]:
        """The newest first, behind the name `after` (`name_of`); lazily."""
        folder, _ = self._folder(bucket, key)
        return iter(()) if folder is None else self.in_folder(folder, after)

    def in_folder(self, folder: int, after: bytes = b"") -> Iterator[Version]:
        """Of one key's folder; of many versions only those are read that are asked for."""
        start, size = after + b"\0" if after else VERSION_NAME, _FIRST_PAGE
        while page := self._namespace.entries_by_name(folder, start, VERSION_NAME + b"\xff", size):
            for row in page:
                inode = self._namespace.inode(row.inode)
                if inode is not None and inode.is_regular and _is_id(row.name[len(VERSION_NAME) :]):
                    yield Version(folder, row.name, row.inode, self._states.record(row.inode))
            start, size = page[-1].name + b"\0", _PAGE

    def implied_marker(self, bucket: int, key: bytes) -> ImpliedMarker | None:
        """The delete marker that stands for the file, which is not there, if the mount removed it."""
        newest = next(self.of_key(bucket, key), None)
        if newest is None or newest.record.is_delete_marker:
            return None
        moment = newest.moment + 1
        return ImpliedMarker(f"{_LAST - moment:016x}{0:016x}", moment)

    def name_of(self, bucket: int, key: bytes, version_id: str) -> bytes:
        """The name that the version has among those of its key, or had; empty if that is not known."""
        text = version_id.encode(errors="replace")
        if _is_id(text):
            return VERSION_NAME + text
        version = self.find(bucket, key, version_id)
        return b"" if version is None else version.name

    def find(self, bucket: int, key: bytes, version_id: str) -> Version | None:
        """The version of that id, if it is not the newest."""
        wanted = "" if version_id == NULL_VERSION else version_id
        text = wanted.encode(errors="replace")
        folder, _ = self._folder(bucket, key)
        row = None if folder is None else self._names.child(folder, VERSION_NAME + text)
        if folder is not None and row is not None and row.is_regular and _is_id(text):
            record = self._states.record(row.inode)
            if record.version_id == wanted:
                return Version(folder, VERSION_NAME + text, row.inode, record)
        return next((each for each in self.of_key(bucket, key) if each.record.version_id == wanted), None)

    def _folder(self, bucket: int, key: bytes) -> tuple[int | None, tuple[Step, ...]]:
        directory, trail = self._system.root, []
        for name in (NAME, VERSIONS, bucket_name(bucket), *path_of(key)):
            row = self._names.child(directory, name)
            if row is None or not row.is_directory:
                return None, ()
            trail.append((directory, name, row.inode))
            directory = row.inode
        return directory, tuple(trail[1:])

    # Planning

    def new_id(self, bucket: int, key: bytes, current: Found | None) -> str:
        """Of a version that is newer than all of the key."""
        least = self._least(bucket, key) if current is None else self._moment(bucket, key, current) + 1
        return self._id(max(self._drive.ledger.environment.wall_clock(), least))

    def _least(self, bucket: int, key: bytes) -> int:
        """The first moment behind those of the versions that are in the key's folder."""
        newest = next(self.of_key(bucket, key), None)
        return 0 if newest is None else newest.moment + 1

    def _moment(self, bucket: int, key: bytes, current: Found) -> int:
        """Of the newest version: as its id says, or, as the null version has none, behind the others."""
        record = self._states.record(current.inode, is_folder=current.is_folder)
        said = _moment(record.version_id.encode()) if record.version_id else record.modified_ns
        return max(said, self._least(bucket, key))

    def _id(self, moment: int) -> str:
        return f"{_LAST - moment:016x}{self._drive.ledger.environment.random_bytes(8).hex()}"

    def displace(self, batch: Batch, bucket: Bucket, key: bytes, current: Found | None) -> None:
        """The newest version makes room for another one: it becomes an older one, or goes as the null version
        does when versioning is suspended."""
        suspended = bucket.versioning == "Suspended"
        if current is not None:
            record = self._states.record(current.inode, is_folder=current.is_folder)
            if suspended and not record.version_id:
                self._names.remove(batch, current, prune=False)
            else:
                self._keep(batch, bucket.inode, key, current, record)
        if suspended:
            null = self.find(bucket.inode, key, NULL_VERSION)
            if null is not None:
                batch.unlink(null.folder, null.name, null.inode)

    def _keep(self, batch: Batch, bucket: int, key: bytes, current: Found, record: Record) -> None:
        folder = self._make_folder(batch, bucket, key)
        name = VERSION_NAME + record.version_id.encode()
        if not _is_id(record.version_id.encode()) or self._names.child(folder, name) is not None:
            name = VERSION_NAME + self._id(self._moment(bucket, key, current)).encode()
        if current.is_folder:
            self._make(batch, folder, name, record)
            self._names.remove(batch, current, prune=False)
        else:
            batch.move(current.parent, current.name, current.inode, folder, name)

    def add_marker(self, batch: Batch, bucket: Bucket, key: bytes, version_id: str) -> None:
        """A delete marker becomes the newest version."""
        folder = self._make_folder(batch, bucket.inode, key)
        record = Record("", 0, batch.now, version_id, is_delete_marker=True)
        name = VERSION_NAME + (version_id or self._id_after(bucket.inode, key)).encode()
        self._make(batch, folder, name, record)

    def _id_after(self, bucket: int, key: bytes) -> str:
        return self.new_id(bucket, key, self._names.locate(bucket, key))

    def _make_folder(self, batch: Batch, bucket: int, key: bytes) -> int:
        top = self._system.inode()
        path = (VERSIONS, bucket_name(bucket), *path_of(key))
        known = batch.folders.get(path)
        if known is None:
            known = batch.folders[path] = self._names.folders(batch, top, path)[0]
        return known

    def _make(self, batch: Batch, folder: int, name: bytes, record: Record) -> None:
        inode, above = self._drive.allocate_number(), self._drive.live_row(self._system.root)
        mode = S_IFREG | FILE_MODE
        batch.operations.append(Create(folder, name, inode, mode, above.uid, above.gid, 0, b"", batch.now))
        batch.set_attribute(inode, CLAIM, encode(record))
        batch.names.append((folder, name))

    def promote(self, batch: Batch, bucket: int, key: bytes, gone: Version | None) -> None:
        """The newest version went (`gone`: it was a delete marker here): the next one becomes the newest, if
        it is no delete marker."""
        folder, trail = self._folder(bucket, key)
        if folder is None:
            return
        left = (each for each in self.in_folder(folder) if gone is None or each.name != gone.name)
        following = next(left, None)
        count = 0 if gone is None else 1
        if following is not None and not following.record.is_delete_marker:
            batch.unlink(folder, following.name, following.inode)
            self._names.put(batch, bucket, key, following.inode)
            count += 1
        if count:
            self._names.prune(batch, trail, VERSION_NAME, count)

    def remove(self, batch: Batch, bucket: int, key: bytes, version: Version) -> None:
        """A version that is not the newest goes."""
        batch.unlink(version.folder, version.name, version.inode)
        _, trail = self._folder(bucket, key)
        self._names.prune(batch, trail, version.name)


def _moment(version_id: bytes) -> int:
    try:
        return _LAST - int(version_id[:16], 16)
    except ValueError:
        return 0


def _is_id(text: bytes) -> bool:
    return len(text) == 32 and not text.strip(b"0123456789abcdef")

"""Listings of objects and versions. The contract of all calls is in `gateway.s3.objects.layer`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import groupby, islice
from typing import Final

import trio

from cache.drive import Drive
from gateway.s3.objects.bucket_folders import BucketFolders
from gateway.s3.objects.names import Names
from gateway.s3.objects.states import States, shown
from gateway.s3.objects.system_folder import VERSIONS, SystemFolder
from gateway.s3.objects.types import (
    NULL_VERSION,
    Bucket,
    Checksums,
    Listing,
    Metadata,
    ObjectInfo,
    VersionInfo,
    VersionListing,
)
from gateway.s3.objects.versions import Versions
from gateway.s3.objects.walk import Entry, Walk

MOST: Final = 1000
"""At most so many items are in one listing."""
_PAUSE: Final = 128
"""So many items are looked at before others are served."""


class Listings:
    """See the module."""

    def __init__(
        self,
        drive: Drive,
        names: Names,
        states: States,
        versions: Versions,
        buckets: BucketFolders,
        system: SystemFolder,
    ) -> None:
        self._drive = drive
        self._names = names
        self._states = states
        self._versions = versions
        self._buckets = buckets
        self._system = system
        self._live = Walk(drive, names)
        self._older = Walk(drive, names, of_versions=True)

    async def list_objects(
        self,
        bucket: str,
        *,
        prefix: bytes = b"",
        delimiter: bytes = b"",
        after: bytes = b"",
        limit: int = MOST,
    ) -> Listing:
        """The objects and rolled-up prefixes above `after` in the order of bytes, `limit` at most (0: none,
        not truncated). `after` is any string, or `Listing.next_after`: where it is itself a rolled-up prefix
        the whole prefix is passed over. Costs as much as what it returns."""
        of, most = self._buckets.bucket(bucket), min(limit, MOST)
        items: list[ObjectInfo | bytes] = []
        if most <= 0:
            return Listing((), truncated=False)
        rolled = Rolled(lambda start: self._live.keys(of.inode, prefix, start), prefix, delimiter)
        for count, met in enumerate(rolled.items(first_after(after, prefix, delimiter))):
            if len(items) == most:
                return Listing(tuple(items), truncated=True, next_after=_name_of(items[-1]))
            items.append(met if isinstance(met, bytes) else self._info(of, met))
            if count % _PAUSE == _PAUSE - 1:
                await trio.lowlevel.checkpoint()
        return Listing(tuple(items), truncated=False)

    def _info(self, bucket: Bucket, entry: Entry) -> ObjectInfo:
        return self._states.info(bucket, entry.key, entry.inode, is_folder=entry.is_folder)

    async def list_versions(
        self,
        bucket: str,
        *,
        prefix: bytes = b"",
        delimiter: bytes = b"",
        after_key: bytes = b"",
        after_version: str = "",
        limit: int = MOST,
    ) -> VersionListing:
        """As `list_objects`, of all versions and delete markers: by key, the newest first."""
        of, most = self._buckets.bucket(bucket), min(limit, MOST)
        items: list[VersionInfo | bytes] = []
        if most <= 0:
            return VersionListing((), truncated=False)
        start = after_key if after_version else first_after(after_key, prefix, delimiter)
        rolled = Rolled(lambda start: self._met(of, prefix, start), prefix, delimiter)
        for count, met in enumerate(rolled.items(start)):
            if isinstance(met, bytes):
                items.append(met)
            else:
                after = after_version if met.key == after_key else ""
                items += islice(self._versions_of(of, met.key, after), most + 1 - len(items))
            if len(items) > most:
                last = items[most - 1]
                version_id = "" if isinstance(last, bytes) else last.version_id
                return VersionListing(
                    tuple(items[:most]),
                    truncated=True,
                    next_key=last if isinstance(last, bytes) else last.key,
                    next_version_id=version_id,
                )
            if count % _PAUSE == _PAUSE - 1:
                await trio.lowlevel.checkpoint()
        return VersionListing(tuple(items), truncated=False)

    def _met(self, bucket: Bucket, prefix: bytes, start: bytes) -> Iterator[Entry]:
        """Every key that has a version, once."""
        older = self._system.of_bucket(VERSIONS, bucket.inode)
        streams = [self._live.keys(bucket.inode, prefix, start)]
        if older is not None:
            streams.append(self._older.keys(older, prefix, start))
        for _, entries in groupby(_merged(streams), key=lambda entry: entry.key):
            yield next(entries)

    def _versions_of(self, bucket: Bucket, key: bytes, after: str) -> Iterator[VersionInfo]:
        """The newest first, behind the version `after` if it is said; all, if that is gone and has no place
        by its id. As many versions are read as are taken."""
        newest = self._newest(bucket, key)
        is_newest = newest is not None and newest.version_id == after
        name = self._versions.name_of(bucket.inode, key, after) if after and not is_newest else b""
        if newest is not None and not is_newest and not name:
            yield newest
        marker = next(self._versions.of_key(bucket.inode, key), None) if newest is None else None
        for version in self._versions.of_key(bucket.inode, key, name):
            modified_ns = self._drive.attributes(version.inode).mtime_ns
            info = shown(bucket, key, version.record, modified_ns)
            is_latest = marker is not None and version.name == marker.name
            yield _line(info, info.version_id, is_latest=is_latest, is_marker=version.record.is_delete_marker)

    def _newest(self, bucket: Bucket, key: bytes) -> VersionInfo | None:
        """The newest version; None where it is a delete marker among the others."""
        found = self._names.locate(bucket.inode, key)
        if found is not None:
            info = self._info(bucket, Entry(key, found.inode, found.is_folder))
            return _line(info, info.version_id, is_latest=True)
        implied = self._versions.implied_marker(bucket.inode, key)
        if implied is None:
            return None
        marker = ObjectInfo(key, 0, "", implied.moment, Metadata(), Checksums())
        return _line(marker, implied.version_id, is_latest=True, is_marker=True)

    def is_empty(self, bucket: Bucket) -> bool:
        """Whether there is no object, version or delete marker."""
        return next(self._met(bucket, b"", b""), None) is None


class Rolled:
    """A listing in which keys with the delimiter behind the prefix are rolled up. `walk`: the entries from a
    key on."""

    def __init__(self, walk: Callable[[bytes], Iterator[Entry]], prefix: bytes, delimiter: bytes) -> None:
        self._walk = walk
        self._prefix = prefix
        self._delimiter = delimiter

    def items(self, start: bytes) -> Iterator[Entry | bytes]:
        """Entries, and prefixes in the place of what they stand for."""
        entries = self._walk(start)
        while (entry := next(entries, None)) is not None:
            rolled = rolled_up(entry.key, self._prefix, self._delimiter)
            if rolled is None:
                yield entry
                continue
            yield rolled
            entries = self._walk(behind(rolled))


def rolled_up(key: bytes, prefix: bytes, delimiter: bytes) -> bytes | None:
    """The common prefix that stands for the key, if one does."""
    if not delimiter:
        return None
    end = key.find(delimiter, len(prefix))
    return None if end < 0 else key[: end + len(delimiter)]


def behind(prefix: bytes) -> bytes:
    """The first string of bytes behind all that begin with a prefix, which is text."""
    return prefix[:-1] + bytes([prefix[-1] + 1])


def first_after(after: bytes, prefix: bytes, delimiter: bytes) -> bytes:
    """The beginning of a listing that goes on after a key, or after a prefix that was rolled up."""
    if not after:
        return b""
    if after.startswith(prefix) and rolled_up(after, prefix, delimiter) == after:
        return behind(after)
    return after + b"\0"


def _merged(streams: list[Iterator[Entry]]) -> Iterator[Entry]:
    heads = [(stream, next(stream, None)) for stream in streams]
    while waiting := [(entry.key, number) for number, (_, entry) in enumerate(heads) if entry is not None]:
        _, number = min(waiting)
        stream, entry = heads[number]
        assert entry is not None
        yield entry
        heads[number] = (stream, next(stream, None))


def _name_of(item: ObjectInfo | bytes) -> bytes:
    return item if isinstance(item, bytes) else item.key


def _line(info: ObjectInfo, version_id: str, *, is_latest: bool, is_marker: bool = False) -> VersionInfo:
    return VersionInfo(
        info.key,
        version_id or NULL_VERSION,
        is_latest,
        is_marker,
        info.size,
        info.etag,
        info.last_modified_ns,
        info.metadata.owner,
        info.metadata.storage_class,
        info.checksums,
    )

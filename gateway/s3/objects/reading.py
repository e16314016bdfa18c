"""Reading objects: what one is, its bytes, and its bytes as parts of others. The contract of all calls is in
`gateway.s3.objects.layer`."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass
from itertools import accumulate
from typing import Final

from cache.drive import Drive
from cache.errors import StaleError, UnreadableError
from cache.namespace import Operation
from cache.services import Join
from cache.tree import ContentWatch
from gateway.s3.objects.bucket_folders import BucketFolders
from gateway.s3.objects.errors import ChangedError, DeleteMarkerError, S3Error
from gateway.s3.objects.names import Names
from gateway.s3.objects.record import PARTS, decode_parts
from gateway.s3.objects.states import States, check_read, check_source
from gateway.s3.objects.types import (
    NULL_VERSION,
    UNCONDITIONAL,
    Bucket,
    Conditions,
    ObjectInfo,
    ObjectPart,
    Source,
)
from gateway.s3.objects.valid import valid_key
from gateway.s3.objects.versions import Version, Versions

PIECE: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class Place:
    """The inode that is a version, and whether it is a folder: a marker without a body."""

    inode: int
    is_folder: bool


@dataclass(frozen=True, slots=True)
class Joined:
    """An object whose bytes become (part of) another one's."""

    inode: int
    join: Join
    info: ObjectInfo
    watch: ContentWatch

    def operations(self, inode: int, now: int) -> list[Operation]:
        """As `Join.operations`. `S3Error` if the object was changed meanwhile, by another door."""
        if self.watch.changed:
            raise _changed()
        return self.join.operations(inode, now)


class Reading:
    """See the module."""

    def __init__(
        self, drive: Drive, names: Names, states: States, versions: Versions, buckets: BucketFolders
    ) -> None:
        self._drive = drive
        self._names = names
        self._states = states
        self._versions = versions
        self._buckets = buckets

    def find(self, bucket: Bucket, key: bytes, version_id: str | None) -> Place:
        """The version. `NoSuchKey`, `NoSuchVersion`, `DeleteMarkerError`."""
        valid_key(key)
        found = self._names.locate(bucket.inode, key)
        place = None if found is None else Place(found.inode, found.is_folder)
        if version_id is None:
            return place or self._newest_is_missing(bucket, key)
        if place is not None:
            record = self._states.record(place.inode, is_folder=place.is_folder)
            if (record.version_id or NULL_VERSION) == version_id:
                return place
        version = self._versions.find(bucket.inode, key, version_id)
        if version is None:
            implied = None if place is not None else self._versions.implied_marker(bucket.inode, key)
            if implied is not None and implied.version_id == version_id:
                raise DeleteMarkerError("MethodNotAllowed", version_id, implied.moment)
            raise S3Error("NoSuchVersion", "there is no such version of the object", _named(key))
        if version.record.is_delete_marker:
            raise self._is_marker("MethodNotAllowed", version)
        return Place(version.inode, False)

    def _newest_is_missing(self, bucket: Bucket, key: bytes) -> Place:
        if bucket.versioning:
            newest = next(self._versions.of_key(bucket.inode, key), None)
            if newest is not None and newest.record.is_delete_marker:
                raise self._is_marker("NoSuchKey", newest)
            implied = self._versions.implied_marker(bucket.inode, key)
            if implied is not None:
                raise DeleteMarkerError("NoSuchKey", implied.version_id, implied.moment)
        raise S3Error("NoSuchKey", "the object does not exist", _named(key))

    def _is_marker(self, code: str, version: Version) -> DeleteMarkerError:
        modified_ns = self._drive.attributes(version.inode).mtime_ns
        return DeleteMarkerError(code, version.record.version_id or NULL_VERSION, modified_ns)

    def head(
        self,
        bucket: str,
        key: bytes,
        version_id: str | None = None,
        conditions: Conditions = UNCONDITIONAL,
    ) -> ObjectInfo:
        """`NoSuchKey`, `NoSuchVersion`, `DeleteMarkerError`, `PreconditionFailed`, `NotModifiedError`. The
        times of `conditions` and the object are compared in whole seconds."""
        of = self._buckets.bucket(bucket)
        return self._checked(of, key, self.find(of, key, version_id), conditions)

    def _checked(self, bucket: Bucket, key: bytes, place: Place, conditions: Conditions) -> ObjectInfo:
        info = self._states.info(bucket, key, place.inode, is_folder=place.is_folder)
        check_read(conditions, info)
        return info

    def open(
        self,
        bucket: str,
        key: bytes,
        version_id: str | None = None,
        conditions: Conditions = UNCONDITIONAL,
    ) -> OpenObject:
        """As `head`; the caller closes what it gets."""
        of = self._buckets.bucket(bucket)
        place = self.find(of, key, version_id)
        info = self._checked(of, key, place, conditions)
        return OpenObject(self._drive, place.inode, info, self._parts(place, info))

    def _parts(self, place: Place, info: ObjectInfo) -> list[ObjectPart]:
        value = self._names.attribute(place.inode, PARTS) if info.parts else None
        return [] if value is None else decode_parts(value)

    def parts(
        self, bucket: str, key: bytes, version_id: str | None, after: int, limit: int
    ) -> tuple[list[ObjectPart], bool]:
        """The parts with numbers over `after` that a multipart object was joined of, `limit` at most;
        whether there are more."""
        of = self._buckets.bucket(bucket)
        place = self.find(of, key, version_id)
        info = self._states.info(of, key, place.inode, is_folder=place.is_folder)
        left = [part for part in self._parts(place, info) if part.number > after]
        return left[:limit], len(left) > limit

    @asynccontextmanager
    async def joined(
        self, source: Source, byte_range: tuple[int, int] | None = None
    ) -> AsyncIterator[Joined]:
        """The source's bytes [start, end), published. Before that: `PreconditionFailed` by its conditions,
        `InvalidRange` if the bytes are not inside it. `SlowDown`, `NoSuchKey`, `NoSuchVersion`,
        `DeleteMarkerError` if they become another's or nobody's meanwhile."""
        of = self._buckets.bucket(source.bucket)
        place = self.find(of, source.key, source.version_id)
        with ExitStack() as stack:
            self._drive.hold(place.inode)
            stack.callback(self._drive.release, place.inode)
            watch = stack.enter_context(self._drive.claims.watching(place.inode))
            info = self._states.info(of, source.key, place.inode, is_folder=place.is_folder)
            check_source(source.conditions, info)
            if source.etag and info.etag != source.etag:
                raise _changed()
            start, end = byte_range or (0, info.size)
            if byte_range is not None and not 0 <= start < end <= info.size:
                raise S3Error("InvalidRange", "the range is not inside the source")
            join = Join(self._drive)
            try:
                if not place.is_folder:
                    await join.add(place.inode, start, end)
            except UnreadableError:
                if self.find(of, source.key, source.version_id) != place:
                    raise _changed() from None
                raise
            yield Joined(place.inode, join, info, watch)


class OpenObject:
    """One state of an object's content, held until `close`: it may be replaced or deleted meanwhile."""

    def __init__(self, drive: Drive, inode: int, info: ObjectInfo, parts: list[ObjectPart]) -> None:
        self.info = info
        self._drive = drive
        self._inode = inode
        self._parts = parts
        self._stack = ExitStack()
        drive.hold(inode)
        self._stack.callback(drive.release, inode)
        self._watch = self._stack.enter_context(drive.claims.watching(inode))

    async def read(self, start: int, end: int) -> AsyncIterator[bytes | memoryview]:
        """The bytes [start, end), which lie inside the object, in pieces of at most 1 MiB. `ChangedError`: a
        write through the mount, or another device, changed the content since `open`; what was yielded is of
        the old one."""
        for position in range(start, end, PIECE):
            wanted = min(PIECE, end - position)
            try:
                piece = await self._drive.read(self._inode, position, wanted)
            except StaleError:  # another device removed it
                piece = b""
            if self._watch.changed or len(piece) != wanted:
                raise ChangedError("the object was changed while it was sent")
            yield piece

    def part(self, number: int) -> tuple[int, int] | None:
        """(start, end) of a part, counted from 1; None if there is no such part. An object that was put in
        one piece is its part 1."""
        if not self._parts:
            return (0, self.info.size) if number == 1 else None
        if not 1 <= number <= len(self._parts):
            return None
        ends = list(accumulate(part.size for part in self._parts[:number]))
        return ends[-1] - self._parts[number - 1].size, ends[-1]

    def close(self) -> None:
        """Let go of it. Idempotent."""
        self._stack.close()


def _changed() -> S3Error:
    return S3Error("SlowDown", "the source was changed while it was copied")


def _named(key: bytes) -> dict[str, str]:
    return {"Key": key.decode()}

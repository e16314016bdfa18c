"""Objects: putting, copying, deleting, and changing what is said of them. The contract of all calls is in
`gateway.s3.objects.layer`."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import replace

from cache.drive import Drive
from cache.tree import CLAIM
from gateway.s3.objects.bucket_folders import BucketFolders
from gateway.s3.objects.changing import Changing
from gateway.s3.objects.errors import S3Error
from gateway.s3.objects.names import Batch, Found, Names
from gateway.s3.objects.reading import Reading
from gateway.s3.objects.record import Record, decode, encode
from gateway.s3.objects.staging import Staging
from gateway.s3.objects.states import States, check_write, shown, shown_version
from gateway.s3.objects.system_folder import SystemFolder
from gateway.s3.objects.types import (
    UNCONDITIONAL,
    Bucket,
    Checksums,
    Conditions,
    Deleted,
    Finish,
    Metadata,
    ObjectInfo,
    Source,
    ToDelete,
)
from gateway.s3.objects.valid import valid_key
from gateway.s3.objects.versions import Version, Versions


class StoredObjects:
    """See the module."""

    def __init__(
        self,
        drive: Drive,
        names: Names,
        states: States,
        versions: Versions,
        buckets: BucketFolders,
        system: SystemFolder,
        staging: Staging,
        changing: Changing,
        reading: Reading,
    ) -> None:
        self._drive = drive
        self._names = names
        self._states = states
        self._versions = versions
        self._buckets = buckets
        self._system = system
        self._staging = staging
        self._changing = changing
        self._reading = reading

    async def put(
        self,
        bucket: str,
        key: bytes,
        body: AsyncIterator[bytes | memoryview],
        size: int | None,
        metadata: Metadata,
        finish: Finish,
        conditions: Conditions = UNCONDITIONAL,
    ) -> ObjectInfo:
        """Store `body`, which must have `size` bytes (None: not known before; else `IncompleteBody`, also for
        more). `finish` may refuse. `PreconditionFailed` by the conditions, with `if_match` `NoSuchKey` if
        there is no object. `body` is closed by the caller; memory stays flat."""
        valid_key(key)
        folder = self._buckets.bucket(bucket).inode
        await self._system.make()
        async with self._staging.file(folder) as inode:
            received = await self._staging.receive(inode, body, size)
            checksums = finish(received.md5)
            record = Record(received.md5, received.size, 0, metadata=metadata, checksums=checksums)
            return await self._changing.accept(
                lambda batch: self.place(batch, bucket, key, inode, record, conditions)
            )

    def place(
        self,
        batch: Batch,
        bucket_name: str,
        key: bytes,
        inode: int,
        record: Record,
        conditions: Conditions,
    ) -> ObjectInfo:
        """Plan that the nameless file `inode` becomes the newest version of the object. Without bytes of its
        own yet, it has those that the batch joins."""
        bucket = self._buckets.bucket(bucket_name)
        current = self._names.locate(bucket.inode, key)
        if conditions != UNCONDITIONAL:
            check_write(conditions, None if current is None else self._info(bucket, key, current))
        version_id = self._make_way(batch, bucket, key, current)
        record = replace(record, version_id=version_id, modified_ns=batch.now)
        if record.size == 0 and key.endswith(b"/"):
            self._names.put_marker(batch, bucket.inode, key, encode(record))
            modified_ns = batch.now
        else:
            batch.set_attribute(inode, CLAIM, encode(record))
            self._names.put(batch, bucket.inode, key, inode)
            is_joined = record.size != self._drive.size(inode)
            modified_ns = batch.now if is_joined else self._drive.attributes(inode).mtime_ns
        return shown(bucket, key, record, modified_ns)

    def _make_way(self, batch: Batch, bucket: Bucket, key: bytes, current: Found | None) -> str:
        """The present version goes where it belongs; the id of the one that comes."""
        version_id = ""
        if bucket.versioning == "Enabled":
            version_id = self._versions.new_id(bucket.inode, key, current)
        if bucket.versioning:
            self._versions.displace(batch, bucket, key, current)
        elif current is not None:
            self._names.remove(batch, current, prune=False)
        return version_id

    def _info(self, bucket: Bucket, key: bytes, found: Found) -> ObjectInfo:
        return self._states.info(bucket, key, found.inode, is_folder=found.is_folder)

    # Deleting

    async def delete(
        self,
        bucket: str,
        key: bytes,
        version_id: str | None = None,
        conditions: Conditions = UNCONDITIONAL,
    ) -> Deleted:
        """Idempotent: no error for a key that is not there. `PreconditionFailed`, also of a delete marker
        that is the newest version, and `NoSuchKey` with `if_match` on nothing."""
        result = await self._delete(bucket, ToDelete(key, version_id, conditions))
        await self._changing.make_durable()
        return result

    async def delete_many(self, bucket: str, items: Sequence[ToDelete]) -> list[Deleted | S3Error]:
        """Each as `delete` does, in a batch of its own; all are made durable at once. In the order of
        `items`. Where the drive refuses one (`FileSystemError`), those before it are gone."""
        self._buckets.bucket(bucket)
        results: list[Deleted | S3Error] = []
        for item in items:
            try:
                results.append(await self._delete(bucket, item))
            except S3Error as error:
                results.append(error)
        await self._changing.make_durable()
        return results

    async def _delete(self, bucket: str, item: ToDelete) -> Deleted:
        valid_key(item.key)
        if self._buckets.bucket(bucket).versioning and item.version_id is None:
            await self._system.make()
        return await self._changing.accept_soon(
            lambda batch: self._plan_deletion(batch, self._buckets.bucket(bucket), item), frees=True
        )

    def _plan_deletion(self, batch: Batch, bucket: Bucket, item: ToDelete) -> Deleted:
        if item.version_id is not None:
            return self._plan_removal(batch, bucket, item, item.version_id)
        current = self._names.locate(bucket.inode, item.key)
        info = self._marker(bucket, item) if current is None else self._info(bucket, item.key, current)
        check_write(item.conditions, info)
        if bucket.versioning:
            return self._plan_delete_marker(batch, bucket, item.key, current)
        if current is not None:
            self._names.remove(batch, current)
        return Deleted(item.key)

    def _marker(self, bucket: Bucket, item: ToDelete) -> ObjectInfo | None:
        """The delete marker that is the newest version, if conditions are decided of it. It has no ETag:
        whoever deletes one state of the object does not delete another one."""
        if not bucket.versioning or item.conditions == UNCONDITIONAL:
            return None
        newest = next(self._versions.of_key(bucket.inode, item.key), None)
        if newest is None:
            return None
        record = newest.record if newest.record.is_delete_marker else Record("", 0, newest.moment)
        return shown(bucket, item.key, record, record.modified_ns)

    def _plan_delete_marker(self, batch: Batch, bucket: Bucket, key: bytes, current: Found | None) -> Deleted:
        version_id = self._make_way(batch, bucket, key, current)
        self._versions.add_marker(batch, bucket, key, version_id)
        if current is not None:
            self._prune(batch, current)
        return Deleted(key, shown_version(bucket, version_id), delete_marker=True)

    def _prune(self, batch: Batch, current: Found) -> None:
        """After the newest version has left its place."""
        if current.is_folder:
            self._names.prune_folder(batch, current)
        else:
            self._names.prune(batch, current.trail, current.name)

    def _plan_removal(self, batch: Batch, bucket: Bucket, item: ToDelete, version_id: str) -> Deleted:
        """One version goes for good."""
        key = item.key
        current = self._names.locate(bucket.inode, key)
        if current is not None:
            info = self._info(bucket, key, current)
            if (info.version_id or "null") == version_id:
                check_write(item.conditions, info)
                self._remove_newest(batch, bucket, key, current)
                return Deleted(key, version_id if bucket.versioning else "")
        version = self._versions.find(bucket.inode, key, version_id)
        if version is None:
            is_implied = current is None and self._remove_implied(batch, bucket, key, version_id)
            return Deleted(key, version_id if bucket.versioning else "", is_implied)
        check_write(item.conditions, self._states.info(bucket, key, version.inode))
        self._remove_older(batch, bucket, key, version, is_newest=current is None)
        return Deleted(key, version_id, version.record.is_delete_marker)

    def _remove_implied(self, batch: Batch, bucket: Bucket, key: bytes, version_id: str) -> bool:
        """Whether it is the delete marker that stands for a removal by the mount; it goes, as others do."""
        implied = self._versions.implied_marker(bucket.inode, key)
        if implied is None or implied.version_id != version_id:
            return False
        self._versions.promote(batch, bucket.inode, key, None)
        return True

    def _remove_newest(self, batch: Batch, bucket: Bucket, key: bytes, current: Found) -> None:
        following = next(self._versions.of_key(bucket.inode, key), None)
        if following is None or following.record.is_delete_marker:
            self._names.remove(batch, current)
        else:
            self._names.remove(batch, current, prune=False)
            self._versions.promote(batch, bucket.inode, key, None)

    def _remove_older(
        self, batch: Batch, bucket: Bucket, key: bytes, version: Version, *, is_newest: bool
    ) -> None:
        newest = next(self._versions.of_key(bucket.inode, key), version)
        if is_newest and newest.name == version.name and version.record.is_delete_marker:
            batch.unlink(version.folder, version.name, version.inode)
            self._versions.promote(batch, bucket.inode, key, version)
        else:
            self._versions.remove(batch, bucket.inode, key, version)

    # Copying

    async def copy(
        self,
        source: Source,
        bucket: str,
        key: bytes,
        metadata: Metadata | None = None,
        tags: Mapping[str, str] | None = None,
        conditions: Conditions = UNCONDITIONAL,
        checksums: Checksums | None = None,
    ) -> tuple[ObjectInfo, str]:
        """A new object with the source's bytes, none of which is copied; and the source's version. `metadata`
        and `tags`: None takes the source's (its `acl` and `owner` never: they are `metadata`'s or empty).
        `checksums`: None takes the source's. An object onto itself is well; whether it may be is the
        caller's question. A multipart source becomes one piece, with the same ETag."""
        valid_key(key)
        folder = self._buckets.bucket(bucket).inode
        await self._system.make()
        async with self._reading.joined(source) as joined:
            found = joined.info
            said = replace(found.metadata, acl="", owner="") if metadata is None else metadata
            said = replace(said, tags=found.metadata.tags if tags is None else tags)
            kept = found.checksums if checksums is None else checksums
            record = Record(found.etag, joined.join.size, 0, metadata=said, checksums=kept)
            async with self._staging.file(folder) as inode:

                def plan(batch: Batch) -> ObjectInfo:
                    batch.operations += joined.operations(inode, batch.now)
                    return self.place(batch, bucket, key, inode, record, conditions)

                return await self._changing.accept(plan), found.version_id

    # Changing what is said of a version

    def tags(self, bucket: str, key: bytes, version_id: str | None = None) -> tuple[dict[str, str], str]:
        """The tags, and the version that has them."""
        info = self._reading.head(bucket, key, version_id)
        return dict(info.metadata.tags), info.version_id

    async def set_tags(
        self, bucket: str, key: bytes, tags: Mapping[str, str], version_id: str | None = None
    ) -> str:
        """Replace all tags; the version that has them. No new version, no new ETag, the same time."""
        return await self._set(bucket, key, version_id, lambda said: replace(said, tags=dict(tags)))

    async def set_acl(self, bucket: str, key: bytes, acl: str, version_id: str | None = None) -> str:
        """Replace `Metadata.acl` in the same way."""
        return await self._set(bucket, key, version_id, lambda said: replace(said, acl=acl))

    async def _set(
        self, bucket: str, key: bytes, version_id: str | None, change: Callable[[Metadata], Metadata]
    ) -> str:
        """Change the metadata of a version; its id. A void claim stays void: what it says of the bytes is not
        believed."""

        def plan(batch: Batch) -> str:
            of = self._buckets.bucket(bucket)
            place = self._reading.find(of, key, version_id)
            value, holds = self._drive.claims.claim(place.inode)
            shown = self._states.record(place.inode, is_folder=place.is_folder)
            record = shown if value is None or holds or place.is_folder else decode(value)
            record = replace(record, metadata=change(shown.metadata))
            batch.set_attribute(place.inode, CLAIM, encode(record))
            return shown_version(of, record.version_id)

        return await self._changing.accept(plan)

"""Multipart uploads: parts are files in the system folder until they are joined. Their numbers are 1 to
10,000 (`InvalidArgument`). The contract of all calls is in `gateway.s3.objects.layer`.

Invariants:
1. A part is there whole or not at all, and survives restarts.
2. Completing makes the object, and takes the upload with all its parts away, in one batch: nobody sees both
   or neither. None of the bytes is copied (`cache.services.Join`).
"""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import ExitStack

import trio

from cache.drive import Drive
from cache.errors import UnreadableError
from cache.services import Join
from gateway.s3.objects.begun_uploads import BegunUploads, joined_etag, last_named
from gateway.s3.objects.bucket_folders import BucketFolders
from gateway.s3.objects.changing import Changing
from gateway.s3.objects.errors import S3Error
from gateway.s3.objects.listing import MOST, behind, first_after, rolled_up
from gateway.s3.objects.names import Batch, Names
from gateway.s3.objects.reading import PIECE, Joined, Reading
from gateway.s3.objects.record import (
    PARTS,
    UPLOAD,
    Record,
    UploadRecord,
    decode,
    encode_parts,
    encode_upload,
)
from gateway.s3.objects.staging import Staging
from gateway.s3.objects.stored_objects import StoredObjects
from gateway.s3.objects.system_folder import UPLOADS, SystemFolder, bucket_name
from gateway.s3.objects.types import (
    UNCONDITIONAL,
    Bucket,
    Checksums,
    Conditions,
    Finish,
    Metadata,
    ObjectInfo,
    ObjectPart,
    Part,
    PartListing,
    PartToJoin,
    Source,
    Upload,
    UploadListing,
)
from gateway.s3.objects.valid import valid_key, valid_part_number


class PartUploads:
    """See the module."""

    def __init__(
        self,
        drive: Drive,
        names: Names,
        buckets: BucketFolders,
        system: SystemFolder,
        staging: Staging,
        changing: Changing,
        reading: Reading,
        objects: StoredObjects,
    ) -> None:
        self._drive = drive
        self._names = names
        self._begun = BegunUploads(drive, names, system)
        self._buckets = buckets
        self._system = system
        self._staging = staging
        self._changing = changing
        self._reading = reading
        self._objects = objects

    async def create_upload(
        self,
        bucket: str,
        key: bytes,
        metadata: Metadata,
        *,
        checksum_algorithm: str = "",
        checksum_kind: str = "",
    ) -> Upload:
        """Begin one. It outlives restarts."""
        valid_key(key)
        self._buckets.bucket(bucket)
        await self._system.make()
        environment = self._drive.ledger.environment
        upload_id, now = environment.random_bytes(16).hex(), environment.wall_clock()
        record = Record("", 0, now, metadata=metadata)
        value = encode_upload(UploadRecord(key, now, checksum_algorithm, checksum_kind, record))

        def plan(batch: Batch) -> None:
            of = self._buckets.bucket(bucket)
            path = (UPLOADS, bucket_name(of.inode), upload_id.encode())
            folder, _ = self._names.folders(batch, self._system.inode(), path)
            batch.set_attribute(folder, UPLOAD, value)

        await self._changing.accept(plan)
        return Upload(bucket, key, upload_id, now, metadata, checksum_algorithm, checksum_kind)

    def upload(self, bucket: str, key: bytes, upload_id: str) -> Upload:
        """`NoSuchUpload`."""
        return self._begun.found(self._buckets.bucket(bucket), key, upload_id)[0]

    # Parts

    async def put_part(
        self,
        bucket: str,
        key: bytes,
        upload_id: str,
        number: int,
        body: AsyncIterator[bytes | memoryview],
        size: int | None,
        finish: Finish,
    ) -> Part:
        """As `StoredObjects.put`; a part of the same number is replaced."""
        valid_part_number(number)
        of = self._buckets.bucket(bucket)
        self._begun.found(of, key, upload_id)
        async with self._staging.file(of.inode) as inode:
            received = await self._staging.receive(inode, body, size)
            record = Record(received.md5, received.size, 0, checksums=finish(received.md5))
            return await self._changing.accept(
                lambda batch: self._begun.place(batch, of, key, upload_id, number, inode, record)
            )

    async def copy_part(
        self,
        bucket: str,
        key: bytes,
        upload_id: str,
        number: int,
        source: Source,
        byte_range: tuple[int, int] | None = None,
    ) -> tuple[Part, str]:
        """A part of the source's bytes [start, end) (None: all), none of which is written again; and the
        source's version. `InvalidRange` outside the source."""
        valid_part_number(number)
        of = self._buckets.bucket(bucket)
        self._begun.found(of, key, upload_id)
        async with self._reading.joined(source, byte_range) as joined, self._staging.file(of.inode) as inode:
            etag = await self._md5(source, joined, byte_range)
            record = Record(etag, joined.join.size, 0)

            def plan(batch: Batch) -> Part:
                batch.operations += joined.operations(inode, batch.now)
                return self._begun.place(batch, of, key, upload_id, number, inode, record)

            return await self._changing.accept(plan), joined.info.version_id

    async def _md5(self, source: Source, joined: Joined, byte_range: tuple[int, int] | None) -> str:
        """Of the bytes that are taken: they are read for it, unless it is known."""
        start, end = byte_range or (0, joined.info.size)
        if (start, end) == (0, joined.info.size) and "-" not in joined.info.etag:
            return joined.info.etag
        digest = hashlib.md5(usedforsecurity=False)
        for position in range(start, end, PIECE):
            piece = await self._drive.read(joined.inode, position, min(PIECE, end - position))
            await trio.to_thread.run_sync(digest.update, piece)
        return digest.hexdigest()

    def parts_of(self, bucket: str, key: bytes, upload_id: str, after: int, limit: int) -> PartListing:
        """Those with numbers over `after`."""
        upload, folder = self._begun.found(self._buckets.bucket(bucket), key, upload_id)
        most = max(0, min(limit, MOST))
        found = self._begun.parts(folder, after, most + 1)
        parts, truncated = tuple(part for part, _ in found[:most]), len(found) > most > 0
        return PartListing(upload, parts, truncated, parts[-1].number if truncated else 0)

    def uploads(
        self,
        bucket: str,
        *,
        prefix: bytes = b"",
        delimiter: bytes = b"",
        after_key: bytes = b"",
        after_upload: str = "",
        limit: int = MOST,
    ) -> UploadListing:
        """By key, then by upload."""
        of, most = self._buckets.bucket(bucket), max(0, min(limit, MOST))
        items: list[Upload | bytes] = []
        begun = sorted(self._begun.begun(of), key=lambda upload: (upload.key, upload.upload_id))
        passed = b""
        for upload in begun:
            if after_upload:
                is_before = (upload.key, upload.upload_id) <= (after_key, after_upload)
            else:
                is_before = upload.key < first_after(after_key, prefix, delimiter)
            if is_before or not upload.key.startswith(prefix) or upload.key < passed:
                continue
            if len(items) == most:
                return _truncated(items) if most else UploadListing((), truncated=False)
            rolled = rolled_up(upload.key, prefix, delimiter)
            passed = behind(rolled) if rolled else b""
            items.append(rolled or upload)
        return UploadListing(tuple(items), truncated=False)

    # Ends

    async def complete(
        self,
        bucket: str,
        key: bytes,
        upload_id: str,
        parts: Sequence[PartToJoin],
        finish: Callable[[Sequence[Part]], Checksums],
        conditions: Conditions = UNCONDITIONAL,
    ) -> ObjectInfo:
        """Join the parts; none of their bytes is copied. `finish` gets them as they were stored, may refuse,
        and says the object's checksums. `InvalidPartOrder`, `InvalidPart`, `EntityTooSmall` (under 5 MiB
        and not the last), `MalformedXML` (no parts), `PreconditionFailed`. Again with the same parts: the
        same answer, as long as the object it made is the newest."""
        of = self._buckets.bucket(bucket)
        try:
            return await self._complete(of, key, upload_id, parts, finish, conditions)
        except S3Error as error:
            if error.code != "NoSuchUpload":
                raise
            made = self._made_before(of, key, upload_id, parts)
            if made is None:
                raise
            return made

    def _made_before(
        self, bucket: Bucket, key: bytes, upload_id: str, parts: Sequence[PartToJoin]
    ) -> ObjectInfo | None:
        """The object that the upload became, if it was completed with these parts."""
        try:
            place = self._reading.find(bucket, key, None)
        except S3Error:
            return None
        value, holds = self._drive.claims.claim(place.inode)
        if value is None or not holds or decode(value).upload_id != upload_id:
            return None
        info = self._reading.head(bucket.name, key)
        return info if info.etag == joined_etag([part.etag for part in last_named(parts)]) else None

    async def _complete(
        self,
        bucket: Bucket,
        key: bytes,
        upload_id: str,
        named: Sequence[PartToJoin],
        finish: Callable[[Sequence[Part]], Checksums],
        conditions: Conditions,
    ) -> ObjectInfo:
        upload, folder = self._begun.found(bucket, key, upload_id)
        found = self._begun.chosen(folder, named)
        parts = [part for part, _ in found]
        checksums = finish(parts)
        record = Record(
            joined_etag([part.etag for part in parts]),
            sum(part.size for part in parts),
            0,
            metadata=upload.metadata,
            checksums=checksums,
            parts=len(parts),
            upload_id=upload_id,
        )
        rows = encode_parts([_finished(part, checksums.kind) for part in parts])
        with ExitStack() as stack:
            join = Join(self._drive)
            for _, inode in found:
                self._drive.hold(inode)
                stack.callback(self._drive.release, inode)
            try:
                for _, inode in found:
                    await join.add(inode)
            except UnreadableError:
                self._unchanged(bucket, key, upload_id, named, found)
                raise
            async with self._staging.file(bucket.inode) as target:

                def plan(batch: Batch) -> ObjectInfo:
                    folder = self._unchanged(bucket, key, upload_id, named, found)
                    batch.operations += join.operations(target, batch.now)
                    batch.set_attribute(target, PARTS, rows)
                    info = self._objects.place(batch, bucket.name, key, target, record, conditions)
                    self._begun.remove(batch, bucket, upload_id, folder)
                    return info

                return await self._changing.accept(plan)

    def _unchanged(
        self,
        bucket: Bucket,
        key: bytes,
        upload_id: str,
        named: Sequence[PartToJoin],
        found: Sequence[tuple[Part, int]],
    ) -> int:
        """The upload's folder. `NoSuchUpload`, `InvalidPart` if its parts are not these any more."""
        _, folder = self._begun.found(bucket, key, upload_id)
        if self._begun.chosen(folder, named) != found:
            raise S3Error("InvalidPart", "a part was replaced meanwhile")
        return folder

    async def abort(self, bucket: str, key: bytes, upload_id: str) -> None:
        """Forget the upload with all its parts. `NoSuchUpload` the second time."""

        def plan(batch: Batch) -> None:
            of = self._buckets.bucket(bucket)
            _, folder = self._begun.found(of, key, upload_id)
            self._begun.remove(batch, of, upload_id, folder)

        await self._changing.accept(plan, frees=True)


def _finished(part: Part, kind: str) -> ObjectPart:
    """As the object keeps it: `kind` is that of the object's checksums."""
    return ObjectPart(part.number, part.size, Checksums(part.checksums.values, kind))


def _truncated(items: list[Upload | bytes]) -> UploadListing:
    last = items[-1]
    if isinstance(last, bytes):
        return UploadListing(tuple(items), truncated=True, next_key=last)
    return UploadListing(tuple(items), truncated=True, next_key=last.key, next_upload_id=last.upload_id)

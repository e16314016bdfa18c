"""The interface between the HTTP part of the S3 door and the objects on a drive.

Contracts of all calls:
- Event-loop thread only. A call that raises has changed nothing (`S3Error` for what the S3 API names, else
  what the drive raises: `FileSystemError`, `DriveError`); a cancelled one has changed nothing, or all.
- What a call changes is visible in one step to this door, to the mount and to every other door, and
  survives a power cut when the call returns.
- A read sees all that was answered before it began (read-after-write, list-after-write).
- `NoSuchBucket`, `NoSuchKey`, `NoSuchVersion`, `NoSuchUpload` where the thing is not there. Keys that S3 does
  not allow are `KeyTooLongError`, or `InvalidArgument` (no UTF-8, NUL, empty).
- Permissions, policies and quotas are the caller's business.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import Protocol

from gateway.s3.objects.errors import S3Error
from gateway.s3.objects.types import (
    UNCONDITIONAL,
    Bucket,
    Checksums,
    Conditions,
    Deleted,
    Finish,
    Listing,
    Metadata,
    ObjectInfo,
    ObjectPart,
    Part,
    PartListing,
    PartToJoin,
    Source,
    ToDelete,
    Upload,
    UploadListing,
    VersioningState,
    VersionListing,
)


class OpenObject(Protocol):
    """One state of an object's content, held until `close`: it may be replaced or deleted meanwhile."""

    info: ObjectInfo

    def read(self, start: int, end: int) -> AsyncIterator[bytes | memoryview]:
        """The bytes [start, end), which lie inside the object, in pieces of at most 1 MiB. `ChangedError`: a
        write through the mount changed the content since `open`; what was yielded is of the old one."""
        ...

    def part(self, number: int) -> tuple[int, int] | None:
        """(start, end) of a part, counted from 1; None if there is no such part. An object that was put in
        one piece is its part 1."""
        ...

    def close(self) -> None:
        """Let go of it. Idempotent."""
        ...


class Buckets(Protocol):
    """Buckets are the folders of the root whose name can be a bucket's (3 to 63 bytes, `a-z0-9.-`)."""

    def buckets(self) -> list[Bucket]:
        """All of them, by name."""
        ...

    def bucket(self, name: str) -> Bucket:
        """`NoSuchBucket`."""
        ...

    async def create_bucket(
        self, name: str, *, owner: str = "", location: str = "", settings: Mapping[str, bytes] | None = None
    ) -> Bucket:
        """`InvalidBucketName`; `BucketAlreadyOwnedByYou` (of the same owner), `BucketAlreadyExists`."""
        ...

    async def delete_bucket(self, name: str) -> None:
        """`BucketNotEmpty` while there is an object, a version, a delete marker, or a name of the mount that
        is too long for a key (the message says so). Empty folders in it go too; uploads that were begun are
        aborted."""
        ...

    def setting(self, name: str, setting: str) -> bytes | None:
        """A document that the door keeps with the bucket (`policy`, `public-access-block`, `tagging`,
        `ownership`, `acl`, ...): its bytes, or None."""
        ...

    async def set_setting(self, name: str, setting: str, value: bytes | None) -> None:
        """Keep the document, at most 64 KiB (None: forget it). Idempotent."""
        ...

    async def set_versioning(self, name: str, state: VersioningState) -> None:
        """Once there was versioning it can be suspended, and never be none again (`InvalidBucketState`)."""
        ...


class Objects(Protocol):
    """Objects of a bucket. `version_id` None is the newest version; `null` is a version like others."""

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
        ...

    def head(
        self,
        bucket: str,
        key: bytes,
        version_id: str | None = None,
        conditions: Conditions = UNCONDITIONAL,
    ) -> ObjectInfo:
        """`NoSuchKey`, `NoSuchVersion`, `DeleteMarkerError`, `PreconditionFailed`, `NotModifiedError`. The
        times of `conditions` and the object are compared in whole seconds."""
        ...

    def open(
        self,
        bucket: str,
        key: bytes,
        version_id: str | None = None,
        conditions: Conditions = UNCONDITIONAL,
    ) -> OpenObject:
        """As `head`; the caller closes what it gets."""
        ...

    def parts(
        self, bucket: str, key: bytes, version_id: str | None, after: int, limit: int
    ) -> tuple[list[ObjectPart], bool]:
        """The parts with numbers over `after` that a multipart object was joined of, `limit` at most;
        whether there are more."""
        ...

    async def delete(
        self,
        bucket: str,
        key: bytes,
        version_id: str | None = None,
        conditions: Conditions = UNCONDITIONAL,
    ) -> Deleted:
        """Idempotent: no error for a key that is not there. `PreconditionFailed`, and `NoSuchKey` with
        `if_match` on nothing."""
        ...

    async def delete_many(self, bucket: str, items: Sequence[ToDelete]) -> list[Deleted | S3Error]:
        """Each as `delete` does; those that can be in one batch, made durable at once. In the order of
        `items`."""
        ...

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
        ...

    def tags(self, bucket: str, key: bytes, version_id: str | None = None) -> tuple[dict[str, str], str]:
        """The tags, and the version that has them."""
        ...

    async def set_tags(
        self, bucket: str, key: bytes, tags: Mapping[str, str], version_id: str | None = None
    ) -> str:
        """Replace all tags; the version that has them. No new version, no new ETag, the same time."""
        ...

    async def set_acl(self, bucket: str, key: bytes, acl: str, version_id: str | None = None) -> str:
        """Replace `Metadata.acl` in the same way."""
        ...

    async def list_objects(
        self,
        bucket: str,
        *,
        prefix: bytes = b"",
        delimiter: bytes = b"",
        after: bytes = b"",
        limit: int = 1000,
    ) -> Listing:
        """The objects and rolled-up prefixes above `after` in the order of bytes, `limit` at most (0: none,
        not truncated). `after` is any string, or `Listing.next_after`: where it is itself a rolled-up prefix
        the whole prefix is passed over. Costs as much as what it returns."""
        ...

    async def list_versions(
        self,
        bucket: str,
        *,
        prefix: bytes = b"",
        delimiter: bytes = b"",
        after_key: bytes = b"",
        after_version: str = "",
        limit: int = 1000,
    ) -> VersionListing:
        """The same of all versions and delete markers, by key, the newest first."""
        ...


class Uploads(Protocol):
    """Multipart uploads. Parts have the numbers 1 to 10,000 (`InvalidArgument`)."""

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
        ...

    def upload(self, bucket: str, key: bytes, upload_id: str) -> Upload:
        """`NoSuchUpload`."""
        ...

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
        """As `Objects.put`; a part of the same number is replaced."""
        ...

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
        ...

    def parts_of(self, bucket: str, key: bytes, upload_id: str, after: int, limit: int) -> PartListing:
        """Those with numbers over `after`."""
        ...

    def uploads(
        self,
        bucket: str,
        *,
        prefix: bytes = b"",
        delimiter: bytes = b"",
        after_key: bytes = b"",
        after_upload: str = "",
        limit: int = 1000,
    ) -> UploadListing:
        """By key, then by upload."""
        ...

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
        same answer, as long as the object it made is there."""
        ...

    async def abort(self, bucket: str, key: bytes, upload_id: str) -> None:
        """Forget the upload with all its parts. `NoSuchUpload` the second time."""
        ...


class ObjectLayer(Buckets, Objects, Uploads, Protocol):
    """All of it."""

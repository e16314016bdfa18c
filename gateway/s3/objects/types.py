"""The objects of the S3 door as its layers speak of them: no HTTP, no XML.

Keys are bytes, UTF-8, 1 to 1,024 of them. ETags are without quotes. Times are nanoseconds since 1970; the S3
API shows whole seconds. Checksums are by the API's names (`CRC32`, `CRC32C`, `CRC64NVME`, `SHA1`, `SHA256`),
as the API's text (base64; of parts with `-N` behind it).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal

NULL_VERSION = "null"
"""The version of what was put while the bucket had no versioning, or had it suspended."""

VersioningState = Literal["", "Enabled", "Suspended"]


@dataclass(frozen=True, slots=True)
class Bucket:
    """`owner` and `location` are as `create_bucket` was told. A folder that the mount made has neither."""

    name: str
    inode: int
    created_ns: int
    owner: str = ""
    location: str = ""
    versioning: VersioningState = ""


@dataclass(frozen=True, slots=True)
class Metadata:
    """What a client says of an object beside its bytes. `headers`: `content-type`, `cache-control`,
    `content-disposition`, `content-encoding`, `content-language`, `expires`, by lower-case name. `user`: by
    the name behind `x-amz-meta-`. `acl` and `owner` are the door's own, kept as they are."""

    headers: Mapping[str, str] = field(default_factory=dict)
    user: Mapping[str, str] = field(default_factory=dict)
    tags: Mapping[str, str] = field(default_factory=dict)
    storage_class: str = ""
    acl: str = ""
    owner: str = ""


@dataclass(frozen=True, slots=True)
class Checksums:
    """`values` by algorithm; `kind` is `FULL_OBJECT` or `COMPOSITE`, empty without values."""

    values: Mapping[str, str] = field(default_factory=dict)
    kind: str = ""


Finish = Callable[[str], Checksums]
"""Called when all bytes are there, with the MD5 in hex, before anything is visible. It may refuse by raising
(`S3Error` of `BadDigest`, ...); what it returns is kept with the object."""


@dataclass(frozen=True, slots=True)
class Conditions:
    """Of a request on one object. ETags without quotes; `*` is any. None: not asked. For writes and deletions
    they are decided in the moment of the change, against what everybody else sees then."""

    if_match: tuple[str, ...] | None = None
    if_none_match: tuple[str, ...] | None = None
    if_modified_since_ns: int | None = None
    if_unmodified_since_ns: int | None = None
    size: int | None = None
    """of deletions: only if it has this size"""
    last_modified_ns: int | None = None
    """of deletions: only if it was modified in this second"""


UNCONDITIONAL = Conditions()


@dataclass(frozen=True, slots=True)
class ObjectInfo:
    """One version of an object. `version_id` is empty in a bucket that never had versioning. `parts`: so many
    it was joined of, 0 if it was put in one piece. What the mount wrote has an ETag of the form `<32 hex>-1`,
    empty metadata and no checksums."""

    key: bytes
    size: int
    etag: str
    last_modified_ns: int
    metadata: Metadata
    checksums: Checksums
    version_id: str = ""
    parts: int = 0


@dataclass(frozen=True, slots=True)
class ObjectPart:
    """A part of a finished multipart object."""

    number: int
    size: int
    checksums: Checksums


@dataclass(frozen=True, slots=True)
class VersionInfo:
    """A line of `list_versions`. Of a delete marker `etag` is empty and the size 0."""

    key: bytes
    version_id: str
    is_latest: bool
    is_delete_marker: bool
    size: int
    etag: str
    last_modified_ns: int
    owner: str
    storage_class: str
    checksums: Checksums


@dataclass(frozen=True, slots=True)
class Listing:
    """`items` in the order of UTF-8 bytes: objects, and rolled-up prefixes as bytes. `next_after`: give it as
    `after` to go on (empty at the end)."""

    items: tuple[ObjectInfo | bytes, ...]
    truncated: bool
    next_after: bytes = b""

    @property
    def objects(self) -> list[ObjectInfo]:
        return [item for item in self.items if isinstance(item, ObjectInfo)]

    @property
    def prefixes(self) -> list[bytes]:
        return [item for item in self.items if isinstance(item, bytes)]


@dataclass(frozen=True, slots=True)
class VersionListing:
    """As `Listing`; it goes on behind the version `next_version_id` of `next_key`."""

    items: tuple[VersionInfo | bytes, ...]
    truncated: bool
    next_key: bytes = b""
    next_version_id: str = ""


@dataclass(frozen=True, slots=True)
class ToDelete:
    """An item of `delete_many`. `version_id`: None deletes the key."""

    key: bytes
    version_id: str | None = None
    conditions: Conditions = UNCONDITIONAL


@dataclass(frozen=True, slots=True)
class Deleted:
    """What a deletion did. `delete_marker`: one was made, or the version that went was one; `version_id` is
    its, or that of the version that went; empty without versioning."""

    key: bytes
    version_id: str = ""
    delete_marker: bool = False


@dataclass(frozen=True, slots=True)
class Source:
    """An object to copy from. `version_id`: None is the newest. `etag`: of the state that is meant, as it
    was allowed to be copied; empty: any. Another one is `SlowDown`."""

    bucket: str
    key: bytes
    version_id: str | None = None
    conditions: Conditions = UNCONDITIONAL
    etag: str = ""


@dataclass(frozen=True, slots=True)
class Upload:
    """A multipart upload that was begun. `checksum_algorithm` and `checksum_kind` as the client said, or
    empty."""

    bucket: str
    key: bytes
    upload_id: str
    initiated_ns: int
    metadata: Metadata
    checksum_algorithm: str = ""
    checksum_kind: str = ""


@dataclass(frozen=True, slots=True)
class Part:
    """A part of an upload that is not complete."""

    number: int
    size: int
    etag: str
    last_modified_ns: int
    checksums: Checksums


@dataclass(frozen=True, slots=True)
class PartToJoin:
    """A part as the client names it in CompleteMultipartUpload."""

    number: int
    etag: str
    checksums: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class UploadListing:
    """`items`: uploads, and rolled-up prefixes as bytes."""

    items: tuple[Upload | bytes, ...]
    truncated: bool
    next_key: bytes = b""
    next_upload_id: str = ""


@dataclass(frozen=True, slots=True)
class PartListing:
    """`next_number`: give it as `after` to go on."""

    upload: Upload
    parts: tuple[Part, ...]
    truncated: bool
    next_number: int = 0

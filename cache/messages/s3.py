"""The calls about the S3 door: its access keys, uploads that are not complete, and doors that a running drive
opens."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from cache.messages.call import Call, Nothing


@dataclass(frozen=True, slots=True)
class S3KeyWanted:
    """`policy`: JSON, or empty."""

    user: str
    note: str
    policy: str


@dataclass(frozen=True, slots=True)
class S3KeyMade:
    """The one message that has a secret."""

    key_id: str
    secret: str
    user: str


@dataclass(frozen=True, slots=True)
class S3KeyShown:
    key_id: str
    user: str
    created_ns: int
    note: str
    policy: str


@dataclass(frozen=True, slots=True)
class S3Keys:
    keys: tuple[S3KeyShown, ...]


@dataclass(frozen=True, slots=True)
class S3KeyNamed:
    key_id: str


@dataclass(frozen=True, slots=True)
class S3PolicyWanted:
    key_id: str
    policy: str


@dataclass(frozen=True, slots=True)
class S3DoorWanted:
    """`listen`: HOST:PORT. `root`: a folder of the drive, from its root. `domains`: BUCKET.DOMAIN is a
    bucket. `external`: the host by which clients know the door, if a proxy changes it. `certificate`: with
    TLS."""

    listen: str
    root: str = ""
    region: str = "us-east-1"
    domains: tuple[str, ...] = ("localhost",)
    external: str = ""
    certificate: str = ""
    key: str = ""
    durability: str = "local"


@dataclass(frozen=True, slots=True)
class S3DoorOpened:
    """`addresses`: HOST:PORT."""

    addresses: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class S3Served:
    """`root`: the folder that is served, from the drive's root."""

    root: str


@dataclass(frozen=True, slots=True)
class S3UploadShown:
    """A multipart upload that is not complete. `bucket` is empty if it is gone. `touched_ns`: when it was
    begun, or its last part came; `kept`: so many seconds from then on."""

    bucket: str
    key: str
    upload_id: str
    begun_ns: int
    touched_ns: int
    kept: int
    parts: int
    size: int


@dataclass(frozen=True, slots=True)
class S3Uploads:
    uploads: tuple[S3UploadShown, ...]


@dataclass(frozen=True, slots=True)
class S3UploadNamed:
    root: str
    upload_id: str


@dataclass(frozen=True, slots=True)
class S3UploadsKept:
    """How long a bucket is to keep uploads to which nothing comes."""

    root: str
    bucket: str
    seconds: int


S3_KEY_ADD: Final = Call("s3-key-add", S3KeyWanted, S3KeyMade)
S3_KEYS: Final = Call("s3-keys", Nothing, S3Keys)
S3_KEY_REMOVE: Final = Call("s3-key-remove", S3KeyNamed, Nothing)
S3_KEY_POLICY: Final = Call("s3-key-policy", S3PolicyWanted, Nothing)
S3_SERVE: Final = Call("s3-serve", S3DoorWanted, S3DoorOpened)
S3_UPLOADS: Final = Call("s3-uploads", S3Served, S3Uploads)
S3_UPLOAD_ABORT: Final = Call("s3-upload-abort", S3UploadNamed, Nothing)
S3_UPLOAD_KEEP: Final = Call("s3-upload-keep", S3UploadsKept, Nothing)

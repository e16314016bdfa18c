"""The records that the S3 door keeps with inodes, as bytes: docs/format/s3_object.md.

Pure. `FormatError` for bytes that are no record; `S3Error` where what is to be encoded is too large.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import msgpack

from backend.errors import FormatError
from gateway.s3.objects.errors import S3Error
from gateway.s3.objects.types import Checksums, Metadata, ObjectPart, VersioningState

VERSION: Final = 1
MAX_RECORD: Final = 48 << 10
MAX_PARTS: Final = 10_000
_SMALL: Final = 1 << 10
"""Bytes of a record, so that `_REMEMBERED` of them take some megabytes as objects."""
_REMEMBERED: Final = 4096

IMPLIED: Final = b"drivefs.implied"
"""On a folder that a PUT made: it goes with the last object below it."""
BUCKET: Final = b"drivefs.s3.bucket"
SETTING: Final = b"drivefs.s3.setting."
UPLOAD: Final = b"drivefs.s3.upload"
PARTS: Final = b"drivefs.s3.parts"
SECRET: Final = b"drivefs.s3.secret"


@dataclass(frozen=True, slots=True)
class Record:
    """Of one version of an object, or of a part of an upload. `version_id` is empty for the null version.
    `size` and all about the bytes hold only together with them (`cache.tree.ContentClaims`). `modified_ns`
    is for markers, whose folder has a time of its own. `upload_id`: of the upload that made it."""

    etag: str
    size: int
    modified_ns: int
    version_id: str = ""
    is_delete_marker: bool = False
    metadata: Metadata = field(default_factory=Metadata)
    checksums: Checksums = field(default_factory=Checksums)
    parts: int = 0
    upload_id: str = ""


@dataclass(frozen=True, slots=True)
class BucketRecord:
    """Of a bucket, on its folder."""

    created_ns: int
    owner: str = ""
    location: str = ""
    versioning: VersioningState = ""


@dataclass(frozen=True, slots=True)
class UploadRecord:
    """Of an upload that was begun, on its folder. `metadata` is in a record of its own."""

    key: bytes
    initiated_ns: int
    checksum_algorithm: str
    checksum_kind: str
    record: Record


def encode(record: Record) -> bytes:
    """`S3Error` (`MetadataTooLarge`) if it is too large."""
    metadata, checksums = record.metadata, record.checksums
    encoded = _pack(
        [
            VERSION,
            record.etag,
            record.size,
            record.modified_ns,
            record.version_id,
            record.is_delete_marker,
            dict(metadata.headers),
            dict(metadata.user),
            dict(metadata.tags),
            metadata.storage_class,
            metadata.acl,
            metadata.owner,
            dict(checksums.values),
            checksums.kind,
            record.parts,
            record.upload_id,
        ]
    )
    if len(encoded) > MAX_RECORD:
        raise S3Error("MetadataTooLarge", "the metadata of the object are too large")
    _remember(encoded, record)
    return encoded


def decode(data: bytes) -> Record:
    """The record that `encode` made. Small ones that were made or asked for lately are remembered."""
    record = _lately.pop(data, None) or decoded(data)
    _remember(data, record)
    return record


_lately: Final[OrderedDict[bytes, Record]] = OrderedDict()
"""the one that was used last at the end"""


def _remember(data: bytes, record: Record) -> None:
    if len(data) > _SMALL:
        return
    _lately[data] = record
    if len(_lately) > _REMEMBERED:
        _lately.popitem(last=False)


def decoded(data: bytes) -> Record:
    """The same, of the bytes themselves."""
    items = _unpack(data, _RECORD)
    etag, size, modified_ns, version_id, is_delete_marker, *said, values, kind, parts, upload_id = items
    return Record(
        etag,
        size,
        modified_ns,
        version_id,
        is_delete_marker,
        Metadata(*said),
        Checksums(values, kind),
        parts,
        upload_id,
    )


def encode_bucket(record: BucketRecord) -> bytes:
    return _pack([VERSION, record.created_ns, record.owner, record.location, record.versioning])


def decode_bucket(data: bytes) -> BucketRecord:
    created_ns, owner, location, versioning = _unpack(data, (int, str, str, str))
    if versioning not in ("", "Enabled", "Suspended"):
        raise FormatError("a bucket's record has an unknown state of versioning")
    return BucketRecord(created_ns, owner, location, versioning)


def encode_upload(upload: UploadRecord) -> bytes:
    fields = [upload.key, upload.initiated_ns, upload.checksum_algorithm, upload.checksum_kind]
    return _pack([VERSION, *fields, encode(upload.record)])


def decode_upload(data: bytes) -> UploadRecord:
    key, initiated_ns, algorithm, kind, record = _unpack(data, (bytes, int, str, str, bytes))
    return UploadRecord(key, initiated_ns, algorithm, kind, decode(record))


def encode_parts(parts: Sequence[ObjectPart]) -> bytes:
    """The parts of a finished object; their checksums are all of one kind."""
    kind = parts[0].checksums.kind if parts else ""
    rows = [[part.number, part.size, dict(part.checksums.values)] for part in parts]
    return _pack([VERSION, kind, rows])


def decode_parts(data: bytes) -> list[ObjectPart]:
    kind, rows = _unpack(data, (str, list))
    if len(rows) > MAX_PARTS or not all(type(row) is list and len(row) == 3 for row in rows):
        raise FormatError("the record of an object's parts is none")
    for number, size, values in rows:
        if type(number) is not int or type(size) is not int or not _is_table(values):
            raise FormatError("the record of an object's parts has wrong fields")
    return [ObjectPart(number, size, Checksums(values, kind)) for number, size, values in rows]


_packer: Final = msgpack.Packer(use_bin_type=True)
_RECORD: Final = (str, int, int, str, bool, *(dict,) * 3, *(str,) * 3, dict, str, int, str)


def _pack(items: list[object]) -> bytes:
    return bytes(_packer.pack(items))


def _unpack(data: bytes, types: Sequence[type]) -> list[Any]:
    try:
        items = msgpack.unpackb(data, raw=False)
        if type(items) is not list or items[:1] != [VERSION]:
            raise ValueError(f"not of version {VERSION}")
        found = items[1:]
        if [*map(type, found)] != [*types]:
            raise ValueError("wrong fields")
        if not all(_is_table(item) for item in found if type(item) is dict and item):
            raise ValueError("a table of other things than text")
    except (ValueError, TypeError, msgpack.UnpackException) as error:
        raise FormatError(f"not a record of the S3 door: {error}") from None
    return found


def _is_table(item: object) -> bool:
    if type(item) is not dict:
        return False
    return all(type(name) is str and type(value) is str for name, value in item.items())

"""States of objects: what is known of an inode that is one, and whether conditions hold for it.

Event-loop thread, synchronous.
"""

from __future__ import annotations

import hashlib
from dataclasses import replace
from typing import Final

from cache.drive import Drive
from cache.namespace import InodeRow
from gateway.s3.objects.errors import NotModifiedError, S3Error
from gateway.s3.objects.record import Record, decode
from gateway.s3.objects.types import NULL_VERSION, Bucket, Checksums, Conditions, ObjectInfo

EMPTY_MD5: Final = hashlib.md5(usedforsecurity=False).hexdigest()
SECOND: Final = 10**9
ANY: Final = "*"


class States:
    """See the module. `secret`: the key of the ETags of files that the mount wrote."""

    def __init__(self, drive: Drive, secret: bytes) -> None:
        self._drive = drive
        self._secret = secret

    def record(self, inode: int, *, is_folder: bool = False) -> Record:
        """The record of an object that is there; made up where it has none or it does not hold any more."""
        value, holds = self._drive.claims.claim(inode)
        row = self._drive.live_row(inode)
        if is_folder:
            return decode(value) if value is not None else Record(EMPTY_MD5, 0, row.mtime_ns)
        size = self._drive.size(inode)
        record = Record("", size, row.mtime_ns) if value is None else decode(value)
        if holds and record.size == size:
            return record
        etag = self._etag(row, size)
        return replace(record, etag=etag, size=size, checksums=Checksums(), parts=0, upload_id="")

    def _etag(self, row: InodeRow, size: int) -> str:
        """A new one with each state of the content. It may change when the content is published, too."""
        file = self._drive.ledger.dirty.get(row.inode)
        top = None if file is None else file.top
        dirty = (0, 0) if top is None else (top.oldest, top.writes)
        mtime_ns = self._drive.attributes(row.inode).mtime_ns
        state = repr((row.inode, row.content_commit, size, mtime_ns, *dirty)).encode()
        return hashlib.blake2b(state, key=self._secret, digest_size=16).hexdigest() + "-1"

    def info(self, bucket: Bucket, key: bytes, inode: int, *, is_folder: bool = False) -> ObjectInfo:
        """As the door shows it."""
        record = self.record(inode, is_folder=is_folder)
        modified_ns = record.modified_ns if is_folder else self._drive.attributes(inode).mtime_ns
        return shown(bucket, key, record, modified_ns)


def shown(bucket: Bucket, key: bytes, record: Record, modified_ns: int) -> ObjectInfo:
    """The object as its record says it."""
    return ObjectInfo(
        key,
        record.size,
        record.etag,
        modified_ns,
        record.metadata,
        record.checksums,
        shown_version(bucket, record.version_id),
        record.parts,
    )


def shown_version(bucket: Bucket, version_id: str) -> str:
    """As the API names it: nothing in a bucket that never had versioning."""
    return (version_id or NULL_VERSION) if bucket.versioning else ""


def check_read(conditions: Conditions, info: ObjectInfo) -> None:
    """`PreconditionFailed`, `NotModifiedError`; the order of precedence is RFC 9110, 13.2.2."""
    modified = info.last_modified_ns // SECOND
    if conditions.if_match is not None:
        if not _matches(conditions.if_match, info):
            raise _failed("If-Match")
    elif conditions.if_unmodified_since_ns is not None and modified > _seconds(
        conditions.if_unmodified_since_ns
    ):
        raise _failed("If-Unmodified-Since")
    if conditions.if_none_match is not None:
        if _matches(conditions.if_none_match, info):
            raise NotModifiedError(info.etag, info.last_modified_ns)
    elif conditions.if_modified_since_ns is not None and modified <= _seconds(
        conditions.if_modified_since_ns
    ):
        raise NotModifiedError(info.etag, info.last_modified_ns)


def check_source(conditions: Conditions, info: ObjectInfo) -> None:
    """The same of the source of a copy, where all that does not hold is `PreconditionFailed`."""
    try:
        check_read(conditions, info)
    except NotModifiedError:
        raise _failed("x-amz-copy-source-if-none-match or -modified-since") from None


def check_write(conditions: Conditions, info: ObjectInfo | None) -> None:
    """Of writes and deletions. `info`: None if there is no object."""
    if info is None:
        if conditions.if_match is not None:
            raise S3Error("NoSuchKey", "there is no object that could match")
        return
    if conditions.if_match is not None and not _matches(conditions.if_match, info):
        raise _failed("If-Match")
    if conditions.if_none_match is not None and _matches(conditions.if_none_match, info):
        raise _failed("If-None-Match")
    if conditions.size is not None and conditions.size != info.size:
        raise _failed("x-amz-if-match-size")
    since = conditions.last_modified_ns
    if since is not None and _seconds(since) != info.last_modified_ns // SECOND:
        raise _failed("x-amz-if-match-last-modified-time")


def _matches(etags: tuple[str, ...], info: ObjectInfo) -> bool:
    return ANY in etags or info.etag in etags


def _seconds(time_ns: int) -> int:
    return time_ns // SECOND


def _failed(condition: str) -> S3Error:
    message = "At least one of the pre-conditions you specified did not hold"
    return S3Error("PreconditionFailed", message, {"Condition": condition})

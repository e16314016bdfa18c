"""Buckets: folders of the root with a name that a bucket may have (3 to 63 bytes, `a-z0-9.-`). The contract
of all calls is in `gateway.s3.objects.layer`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Final

from cache.drive import Drive
from gateway.s3.objects.changing import Changing
from gateway.s3.objects.errors import S3Error
from gateway.s3.objects.names import Batch, Names
from gateway.s3.objects.record import BUCKET, SETTING, BucketRecord, decode_bucket, encode_bucket
from gateway.s3.objects.types import Bucket, VersioningState

MAX_SETTING: Final = 64 << 10
_NAME: Final = re.compile(r"(?!\d+\.\d+\.\d+\.\d+$)[a-z0-9](?:[a-z0-9-]|\.(?!\.)){1,61}[a-z0-9]")
_SETTING_NAME: Final = re.compile(r"[a-z0-9-]{1,64}")


class BucketFolders:
    """See the module. `root`: the inode of the folder that is served."""

    def __init__(self, drive: Drive, names: Names, changing: Changing, root: int) -> None:
        self._drive = drive
        self._changing = changing
        self._names = names
        self._root = root

    def buckets(self) -> list[Bucket]:
        """All of them, by name."""
        found = self._drive.entries_by_name(self._root, b"0", b"{", -1)
        rows = [(row.name, row.inode) for row in found]
        each = (self._bucket(name.decode(errors="replace"), inode) for name, inode in rows)
        return [bucket for bucket in each if bucket is not None]

    def _bucket(self, name: str, inode: int) -> Bucket | None:
        row = self._drive.live_row(inode)
        if not row.is_directory or not is_bucket_name(name):
            return None
        return _shown(name, inode, row.btime_ns, self._names.attribute(inode, BUCKET))

    def bucket(self, name: str) -> Bucket:
        """`NoSuchBucket`."""
        row = self._names.child(self._root, name.encode()) if is_bucket_name(name) else None
        if row is None or not row.is_directory:
            raise S3Error("NoSuchBucket", "the bucket does not exist", {"BucketName": name})
        return _shown(name, row.inode, row.btime_ns, self._names.attribute(row.inode, BUCKET))

    async def create_bucket(
        self, name: str, *, owner: str = "", location: str = "", settings: Mapping[str, bytes] | None = None
    ) -> Bucket:
        """`InvalidBucketName`; `BucketAlreadyOwnedByYou` (of the same owner), `BucketAlreadyExists`; as
        `Names.served`."""
        if not is_bucket_name(name):
            raise S3Error("InvalidBucketName", "the name is no bucket's", {"BucketName": name})
        wall_ns = self._drive.ledger.environment.wall_clock()
        made = encode_bucket(BucketRecord(wall_ns, owner, location))

        def plan(batch: Batch) -> None:
            self._check_new(name, owner)
            above = self._names.served(self._root)
            inode = self._names.make_folder(batch, self._root, name.encode(), above)
            batch.set_attribute(inode, BUCKET, made)
            for setting, value in (settings or {}).items():
                batch.set_attribute(inode, _attribute(setting, value), value)

        await self._changing.accept(plan)
        return self.bucket(name)

    def _check_new(self, name: str, owner: str) -> None:
        row = self._names.child(self._root, name.encode())
        if row is None:
            return
        bucket = self._bucket(name, row.inode)
        code = "BucketAlreadyOwnedByYou" if bucket and bucket.owner == owner else "BucketAlreadyExists"
        raise S3Error(code, "the bucket exists", {"BucketName": name})

    def setting(self, name: str, setting: str) -> bytes | None:
        """A document that the door keeps with the bucket (`policy`, `public-access-block`, `tagging`,
        `ownership`, `acl`, ...): its bytes, or None."""
        return self._names.attribute(self.bucket(name).inode, _attribute(setting))

    async def set_setting(self, name: str, setting: str, value: bytes | None) -> None:
        """Keep the document, at most 64 KiB (None: forget it). Idempotent."""
        attribute = _attribute(setting, value or b"")

        def plan(batch: Batch) -> None:
            inode = self.bucket(name).inode
            if value is not None:
                batch.set_attribute(inode, attribute, value)
            elif self._names.attribute(inode, attribute) is not None:
                batch.remove_attribute(inode, attribute)

        await self._changing.accept(plan)

    async def set_versioning(self, name: str, state: VersioningState) -> None:
        """Once there was versioning it can be suspended, and never be none again (`InvalidBucketState`)."""

        def plan(batch: Batch) -> None:
            bucket = self.bucket(name)
            if bucket.versioning and not state:
                raise S3Error("InvalidBucketState", "versioning can be suspended, and not be none again")
            record = BucketRecord(bucket.created_ns, bucket.owner, bucket.location, state)
            batch.set_attribute(bucket.inode, BUCKET, encode_bucket(record))

        await self._changing.accept(plan)


@lru_cache(maxsize=1024)
def is_bucket_name(name: str) -> bool:
    """Whether S3 allows it: 3 to 63 of `a-z0-9.-`, no IPv4 address."""
    return 3 <= len(name) <= 63 and _NAME.fullmatch(name) is not None


@lru_cache(maxsize=1024)
def _shown(name: str, inode: int, made_ns: int, record: bytes | None) -> Bucket:
    """The bucket of a folder that was made then, and has this record."""
    made = BucketRecord(made_ns) if record is None else decode_bucket(record)
    return Bucket(name, inode, made.created_ns, made.owner, made.location, made.versioning)


def _attribute(setting: str, value: bytes = b"") -> bytes:
    if len(value) > MAX_SETTING:
        raise S3Error("EntityTooLarge", f"a document of a bucket has at most {MAX_SETTING} bytes")
    return _setting_name(setting)


@lru_cache(maxsize=64)
def _setting_name(setting: str) -> bytes:
    if _SETTING_NAME.fullmatch(setting) is None:
        raise S3Error("InvalidArgument", f"{setting!r} is no setting of a bucket")
    return SETTING + setting.encode()

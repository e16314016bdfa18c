"""The system folder: what the S3 door keeps beside the buckets, in the folder that it serves.

    .s3~system/versions/BUCKET/NAMES OF THE KEY/.s3~vID    older versions, and delete markers
    .s3~system/uploads/BUCKET/UPLOAD/NUMBER                parts of uploads that are not complete

BUCKET is the inode number of the bucket's folder in hex, so that renaming the folder keeps them. The mount
shows the folder (mode 0700) and may take from it: what is gone is gone, and nothing else depends on it.
"""

from __future__ import annotations

import re
from stat import S_IFDIR
from typing import Final

from cache.drive import Drive
from cache.namespace import Operation
from gateway.s3.objects.errors import S3Error
from gateway.s3.objects.names import Batch, Names
from gateway.s3.objects.record import SECRET

NAME: Final = b".s3~system"
VERSIONS: Final = b"versions"
UPLOADS: Final = b"uploads"
_MODE: Final = S_IFDIR | 0o700
_IS_BUCKET: Final = re.compile(rb"[1-9a-f][0-9a-f]{0,15}")


class SystemFolder:
    """See the module. `root`: the inode of the folder that the door serves."""

    def __init__(self, drive: Drive, names: Names, root: int) -> None:
        self._drive = drive
        self._names = names
        self.root = root

    async def make(self) -> int:
        """The folder, made if it is not there. Raises as `Names.served`."""
        row = self._names.child(self.root, NAME)
        if row is None:
            batch = Batch(self._drive.now())
            await self._drive.accept_together(lambda: self._making(batch))
            await self._drive.tell_of_names(batch.names, batch.unnamed)
        return self.inode()

    def _making(self, batch: Batch) -> list[Operation]:
        if self._names.child(self.root, NAME) is None:
            above = self._names.served(self.root)
            self._names.make_folder(batch, self.root, NAME, above, _MODE)
        return batch.operations

    def inode(self) -> int:
        """The folder, which was made. `S3Error` if the mount took it away, or has something else there."""
        row = self._names.child(self.root, NAME)
        if row is None or not row.is_directory:
            raise S3Error("SlowDown", "the folder .s3~system is missing")
        return row.inode

    def of_bucket(self, kind: bytes, bucket: int) -> int | None:
        """The folder of a bucket among those of a kind."""
        return self._at(NAME, kind, bucket_name(bucket))

    def _at(self, *names: bytes) -> int | None:
        inode = self.root
        for name in names:
            row = self._names.child(inode, name)
            if row is None or not row.is_directory:
                return None
            inode = row.inode
        return inode

    def buckets_with(self, kind: bytes) -> list[int]:
        """The buckets, there or gone, that have a folder of a kind."""
        above = self._at(NAME, kind)
        found = [] if above is None else self._drive.entries_by_name(above, b"", b"\xff", -1)
        return [int(row.name, 16) for row in found if _IS_BUCKET.fullmatch(row.name)]

    async def secret(self) -> bytes:
        """Random bytes that stay with the folder that is served."""
        if self._names.attribute(self.root, SECRET) is None:
            batch = Batch(self._drive.now())
            await self._drive.accept_together(lambda: self._making_secret(batch))
        found = self._names.attribute(self.root, SECRET)
        assert found is not None
        return found

    def _making_secret(self, batch: Batch) -> list[Operation]:
        if self._names.attribute(self.root, SECRET) is None:
            batch.set_attribute(self.root, SECRET, self._drive.ledger.environment.random_bytes(32))
        return batch.operations


def bucket_name(bucket: int) -> bytes:
    """The name of a bucket's folder here."""
    return b"%x" % bucket

"""Deleting buckets: only those in which nothing is left that a person would miss."""

from __future__ import annotations

from cache.drive import Drive
from gateway.s3.objects.begun_uploads import remove_all
from gateway.s3.objects.bucket_folders import BucketFolders
from gateway.s3.objects.changing import Changing
from gateway.s3.objects.errors import S3Error
from gateway.s3.objects.listing import Listings
from gateway.s3.objects.names import Batch
from gateway.s3.objects.system_folder import UPLOADS, VERSIONS, SystemFolder, bucket_name
from gateway.s3.objects.types import Bucket


class BucketRemoval:
    """See the module."""

    def __init__(
        self,
        drive: Drive,
        buckets: BucketFolders,
        system: SystemFolder,
        changing: Changing,
        listings: Listings,
    ) -> None:
        self._drive = drive
        self._buckets = buckets
        self._system = system
        self._changing = changing
        self._listings = listings

    async def delete_bucket(self, name: str) -> None:
        """`BucketNotEmpty` while there is an object, a version, a delete marker, or a name of the mount that
        no key can say, or that is no file (the message says so). Empty folders in it go too;
        uploads that were begun are aborted."""

        def plan(batch: Batch) -> None:
            bucket = self._buckets.bucket(name)
            self._check_empty(bucket)
            remove_all(self._drive, batch, bucket.inode)
            batch.unlink(self._system.root, name.encode(), bucket.inode)
            for kind in (VERSIONS, UPLOADS):
                self._forget(batch, kind, bucket)

        await self._changing.accept(plan, frees=True)

    def _check_empty(self, bucket: Bucket) -> None:
        if not self._listings.is_empty(bucket):
            raise S3Error("BucketNotEmpty", "the bucket is not empty", {"BucketName": bucket.name})
        left = self._files(bucket.inode)
        if left:
            raise S3Error(
                "BucketNotEmpty",
                f"the bucket holds {left} names of the mount that no key can name, or that are no files",
                {"BucketName": bucket.name},
            )

    def _files(self, folder: int) -> int:
        """The number of names below that are no folders."""
        count, waiting = 0, [folder]
        while waiting:
            for row in self._drive.entries_by_name(waiting.pop(), b"", b"\xff" * 256, -1):
                if self._drive.live_row(row.inode).is_directory:
                    waiting.append(row.inode)
                else:
                    count += 1
        return count

    def _forget(self, batch: Batch, kind: bytes, bucket: Bucket) -> None:
        folder = self._system.of_bucket(kind, bucket.inode)
        if folder is not None:
            above = self._drive.lookup(self._system.inode(), kind).inode
            remove_all(self._drive, batch, folder)
            batch.unlink(above, bucket_name(bucket.inode), folder)

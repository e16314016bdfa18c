"""Uploads that were begun and are not complete: a list of them in a folder that is served, and the end of
those that nobody goes on with.

Invariants:
1. An upload ends only if it was begun, and its last part came, longer ago than its bucket keeps uploads. That
   is decided in the moment in which it ends.
2. A clock that has jumped ends none (`RetentionKeeper.held_back`), nor does a device that lacks something of
   its hub's: parts may have come by another device.
3. An upload ends whole, with all its parts, or is left whole for the next sweep.

Event-loop thread only.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import trio

from backend.errors import DriveError, NotFoundError, UsageError
from cache.drive import Drive
from cache.errors import FileSystemError
from cache.namespace import ROOT_INODE
from gateway.s3.objects.begun_uploads import BegunUploads
from gateway.s3.objects.bucket_folders import BucketFolders
from gateway.s3.objects.changing import Changing
from gateway.s3.objects.errors import S3Error
from gateway.s3.objects.names import Batch, Names
from gateway.s3.objects.staging import Staging
from gateway.s3.objects.system_folder import UPLOADS, SystemFolder
from gateway.s3.objects.types import Bucket, Upload
from gateway.s3.objects.valid import MAX_PART_NUMBER

DAY: Final = 86400
KEPT: Final = 7 * DAY
"""Seconds, unless the bucket says otherwise."""
PERIOD: Final = 3600.0
"""Seconds between two sweeps."""
_KEEP: Final = "keep-uploads"
"""A setting of a bucket: seconds, as decimal digits."""
_SECOND: Final = 10**9

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class LeftUpload:
    """An upload and its folder. `bucket` has an empty name if the bucket is gone. `touched_ns`: when it was
    begun, or the last part came. `kept`: so many seconds from then on."""

    bucket: Bucket
    upload: Upload
    folder: int
    touched_ns: int
    kept: int

    def is_over(self, now_ns: int) -> bool:
        """Whether it is not kept any more."""
        return now_ns - self.touched_ns > self.kept * _SECOND


class UploadKeeper:
    """See the module. `root`: the inode of the folder that is served."""

    def __init__(self, drive: Drive, root: int = ROOT_INODE) -> None:
        self._drive = drive
        names = Names(drive)
        self._changing = Changing(drive, Staging(drive), "local")
        self._system = SystemFolder(drive, names, root)
        self._buckets = BucketFolders(drive, names, self._changing, root)
        self._begun = BegunUploads(drive, names, self._system)

    def left(self) -> list[LeftUpload]:
        """All of them, by bucket, key and upload."""
        return sorted(
            self._left(), key=lambda left: (left.bucket.name, left.upload.key, left.upload.upload_id)
        )

    def parts(self, left: LeftUpload) -> tuple[int, int]:
        """The number of its parts, and their bytes."""
        sizes = [part.size for part, _ in self._begun.parts(left.folder, 0, MAX_PART_NUMBER)]
        return len(sizes), sum(sizes)

    def _left(self) -> Iterator[LeftUpload]:
        named = {bucket.inode: bucket for bucket in self._buckets.buckets()}
        for inode in self._system.buckets_with(UPLOADS):
            bucket = named.get(inode) or Bucket("", inode, 0)
            for upload, folder in self._begun.folders(bucket):
                yield self._seen(bucket, upload, folder)

    def _seen(self, bucket: Bucket, upload: Upload, folder: int) -> LeftUpload:
        touched_ns = max(upload.initiated_ns, self._drive.live_row(folder).mtime_ns)
        return LeftUpload(bucket, upload, folder, touched_ns, self._kept(bucket))

    def _kept(self, bucket: Bucket) -> int:
        is_there = bool(bucket.name)  # the attributes of a folder that was removed may stay for a while
        value = self._buckets.setting(bucket.name, _KEEP) if is_there else None
        return KEPT if value is None else int(value)

    async def keep(self, bucket: str, seconds: int) -> None:
        """Let the bucket keep uploads for so long. `UsageError`; `S3Error` (`NoSuchBucket`)."""
        if seconds < DAY:
            raise UsageError("an upload is kept for a day at least")
        await self._buckets.set_setting(bucket, _KEEP, b"%d" % seconds)

    async def abort(self, upload_id: str) -> None:
        """End one, whatever keeps it. `NotFoundError`."""

        def plan(batch: Batch) -> None:
            found = next((left for left in self._left() if left.upload.upload_id == upload_id), None)
            if found is None:
                raise NotFoundError(f"there is no upload {upload_id} that is not complete")
            self._end(batch, found)

        await self._changing.accept(plan, frees=True)

    async def run(self) -> None:
        """Sweep at once, and every hour, for ever."""
        while True:
            try:
                await self.sweep()
            except (DriveError, FileSystemError, OSError, S3Error) as error:
                log.warning("uploads that were left are aborted later: %s", error)
            await trio.sleep(PERIOD)

    async def sweep(self) -> int:
        """End those that are over; how many. What it raises leaves the rest for the next sweep."""
        if reason := await self._held_back():
            log.info("no upload is aborted: %s", reason)
            return 0
        over = [left for left in self._left() if left.is_over(self._now())]
        ended = [left for left in over if await self._end_if_over(left)]
        if ended:
            await self._changing.make_durable()
        return len(ended)

    async def _held_back(self) -> str:
        """The reason why nothing is known to be over; empty if it can be."""
        if not await self._drive.reach_head(told=False):
            return "what the hub has is not all known here, and parts may have come by another device"
        return self._drive.retention.held_back()

    async def _end_if_over(self, left: LeftUpload) -> bool:
        """Whether it was still over, and is gone."""

        def plan(batch: Batch) -> bool:
            try:
                found = self._begun.found(left.bucket, left.upload.key, left.upload.upload_id)
            except S3Error:  # somebody ended it
                return False
            is_over = self._seen(left.bucket, *found).is_over(self._now())
            if is_over:
                self._end(batch, left)
            return is_over

        is_gone = await self._changing.accept_soon(plan, frees=True)
        if is_gone:
            days = (self._now() - left.touched_ns) // (DAY * _SECOND)
            bucket = left.bucket.name or "a bucket that is gone"
            log.info("an upload to %s was aborted: nothing came for %d days", bucket, days)
        return is_gone

    def _end(self, batch: Batch, left: LeftUpload) -> None:
        self._begun.remove(batch, left.bucket, left.upload.upload_id, left.folder)

    def _now(self) -> int:
        return self._drive.ledger.environment.wall_clock()

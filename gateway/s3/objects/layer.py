"""The object layer of a drive: its calls, put together of the parts that have them. The HTTP part of the S3
door knows nothing else of objects.

Contracts of all calls:
- Event-loop thread only. A call that raises has changed nothing (`S3Error` for what the S3 API names, else
  what the drive raises: `FileSystemError`, `DriveError`), unless the error is that the change could not be
  made durable: then it may stay. A cancelled one has changed nothing, or all.
- What a call changes is visible in one step to this door, to the mount and to every other door, and
  survives a power cut when the call returns.
- A read sees all that was answered before it began (read-after-write, list-after-write).
- `NoSuchBucket`, `NoSuchKey`, `NoSuchVersion`, `NoSuchUpload` where the thing is not there. Keys that S3 does
  not allow are `KeyTooLongError`, or `InvalidArgument` (no UTF-8, NUL, empty).
- `version_id` None is the newest version; `null` is a version like others.
- Permissions, policies and quotas are the caller's business.
"""

from __future__ import annotations

from cache.drive import Drive
from cache.namespace import ROOT_INODE
from gateway.s3.objects.bucket_folders import BucketFolders
from gateway.s3.objects.bucket_removal import BucketRemoval
from gateway.s3.objects.changing import Changing, Durability
from gateway.s3.objects.listing import Listings
from gateway.s3.objects.names import Names
from gateway.s3.objects.reading import Reading
from gateway.s3.objects.staging import Staging
from gateway.s3.objects.states import States
from gateway.s3.objects.stored_objects import StoredObjects
from gateway.s3.objects.system_folder import SystemFolder
from gateway.s3.objects.uploads import PartUploads
from gateway.s3.objects.versions import Versions


class ObjectLayer:
    """See the module. Calls are those of the parts, as they are: another function between would cost each
    call something."""

    def __init__(self, drive: Drive, root: int, secret: bytes, durability: Durability) -> None:
        names, staging = Names(drive), Staging(drive)
        changing = Changing(drive, staging, durability)
        states, system = States(drive, secret), SystemFolder(drive, names, root)
        versions = Versions(drive, names, states, system)
        buckets = BucketFolders(drive, names, changing, root)
        reading = Reading(drive, names, states, versions, buckets)
        listings = Listings(drive, names, states, versions, buckets, system)
        objects = StoredObjects(drive, names, states, versions, buckets, system, staging, changing, reading)
        uploads = PartUploads(drive, names, buckets, system, staging, changing, reading, objects)
        self.buckets, self.bucket = buckets.buckets, buckets.bucket
        self.create_bucket = buckets.create_bucket
        self.delete_bucket = BucketRemoval(drive, buckets, system, changing, listings).delete_bucket
        self.setting, self.set_setting = buckets.setting, buckets.set_setting
        self.set_versioning = buckets.set_versioning
        self.put, self.copy = objects.put, objects.copy
        self.head, self.open, self.parts = reading.head, reading.open, reading.parts
        self.delete, self.delete_many = objects.delete, objects.delete_many
        self.tags, self.set_tags, self.set_acl = objects.tags, objects.set_tags, objects.set_acl
        self.list_objects, self.list_versions = listings.list_objects, listings.list_versions
        self.create_upload, self.upload = uploads.create_upload, uploads.upload
        self.put_part, self.copy_part = uploads.put_part, uploads.copy_part
        self.parts_of, self.uploads = uploads.parts_of, uploads.uploads
        self.complete, self.abort = uploads.complete, uploads.abort


async def open_objects(
    drive: Drive, root: int = ROOT_INODE, *, durability: Durability = "local"
) -> ObjectLayer:
    """The layer of a drive that is running; the folder `root` holds the buckets. There may be several of one
    drive."""
    secret = await SystemFolder(drive, Names(drive), root).secret()
    return ObjectLayer(drive, root, secret, durability)

"""The S3 door."""

from gateway.s3.access_keys import AccessKey, AccessKeys, Sealing
from gateway.s3.call import Settings
from gateway.s3.door import S3Door
from gateway.s3.key_services import key_services
from gateway.s3.objects import ObjectLayer, UploadKeeper, open_objects
from gateway.s3.upload_services import upload_services

__all__ = [
    "AccessKey",
    "AccessKeys",
    "ObjectLayer",
    "S3Door",
    "Sealing",
    "Settings",
    "UploadKeeper",
    "key_services",
    "open_objects",
    "upload_services",
]

"""From a request to its operation: bucket and key by path or by host, the operation by method and query.
Pure.

| query of a bucket or key | operation |
|---|---|
| a subresource that is served | its own |
| one that is known, and always empty here | GET: as if never set; DELETE: nothing to do; PUT: 501 |
| one that is known otherwise | 501 `NotImplemented` |
| none | the operation of the method |

What changes an object or a bucket is asked for with no other parameters than its own, and those that begin
with `x-`: they say nothing (as in S3; `x-id` of the SDKs) or are signed headers (`X-Amz-...`). A client that
means an operation that is not known here does not get a plain PUT or DELETE.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final, NoReturn
from urllib.parse import unquote_to_bytes

from gateway.s3 import bucket_operations as buckets
from gateway.s3 import listing_operations as listings
from gateway.s3 import object_operations as objects
from gateway.s3 import upload_operations as uploads
from gateway.s3.actions import Action
from gateway.s3.answer import Answer, nothing, xml
from gateway.s3.call import Call, Settings
from gateway.s3.copy_operations import copy_object
from gateway.s3.objects import S3Error
from gateway.s3.request import Request
from gateway.s3.signature import refuse_version_2
from gateway.s3.xml_answers import document, element

Operation = Callable[[Call], Awaitable[Answer]]

_OF_BUCKETS: Final[dict[tuple[str, str], Operation]] = {
    ("GET", ""): listings.list_objects,
    ("GET", "list-type"): listings.list_objects_v2,
    ("GET", "versions"): listings.list_object_versions,
    ("GET", "uploads"): uploads.list_uploads,
    ("GET", "location"): buckets.get_location,
    ("GET", "versioning"): buckets.get_versioning,
    ("PUT", "versioning"): buckets.put_versioning,
    ("GET", "policy"): buckets.get_policy,
    ("PUT", "policy"): buckets.put_policy,
    ("DELETE", "policy"): buckets.delete_policy,
    ("GET", "policyStatus"): buckets.get_policy_status,
    ("GET", "publicAccessBlock"): buckets.get_blocks,
    ("PUT", "publicAccessBlock"): buckets.put_blocks,
    ("DELETE", "publicAccessBlock"): buckets.delete_blocks,
    ("GET", "ownershipControls"): buckets.get_ownership,
    ("PUT", "ownershipControls"): buckets.put_ownership,
    ("DELETE", "ownershipControls"): buckets.delete_ownership,
    ("GET", "tagging"): buckets.get_tagging,
    ("PUT", "tagging"): buckets.put_tagging,
    ("DELETE", "tagging"): buckets.delete_tagging,
    ("GET", "acl"): buckets.get_acl,
    ("PUT", "acl"): buckets.put_acl,
    ("GET", "encryption"): buckets.get_encryption,
    ("PUT", "encryption"): buckets.put_encryption,
    ("DELETE", "encryption"): buckets.delete_encryption,
    ("PUT", ""): buckets.create_bucket,
    ("DELETE", ""): buckets.delete_bucket,
    ("HEAD", ""): buckets.head_bucket,
    ("POST", "delete"): buckets.delete_objects,
}
_OF_OBJECTS: Final[dict[tuple[str, str], Operation]] = {
    ("GET", ""): objects.get_object,
    ("HEAD", ""): objects.head_object,
    ("PUT", ""): objects.put_object,
    ("DELETE", ""): objects.delete_object,
    ("GET", "tagging"): objects.get_object_tagging,
    ("PUT", "tagging"): objects.put_object_tagging,
    ("DELETE", "tagging"): objects.delete_object_tagging,
    ("GET", "acl"): objects.get_object_acl,
    ("PUT", "acl"): objects.put_object_acl,
    ("GET", "attributes"): objects.get_object_attributes,
    ("POST", "uploads"): uploads.create_upload,
    ("PUT", "uploadId"): uploads.put_part,
    ("GET", "uploadId"): uploads.list_parts,
    ("POST", "uploadId"): uploads.complete_upload,
    ("DELETE", "uploadId"): uploads.abort_upload,
}
_COPIES: Final[dict[Operation, Operation]] = {
    objects.put_object: copy_object,
    uploads.put_part: uploads.copy_part,
}
_PARAMETERS: Final[dict[Operation, str]] = {objects.delete_object: "versionId"}
"""The parameter that a plain change takes."""
_NEVER_SET: Final[dict[str, tuple[Action, Action, str, bytes]]] = {
    "cors": ("GetBucketCORS", "PutBucketCORS", "NoSuchCORSConfiguration", b""),
    "lifecycle": (
        "GetLifecycleConfiguration",
        "PutLifecycleConfiguration",
        "NoSuchLifecycleConfiguration",
        b"",
    ),
    "website": ("GetBucketWebsite", "PutBucketWebsite", "NoSuchWebsiteConfiguration", b""),
    "replication": (
        "GetReplicationConfiguration",
        "PutReplicationConfiguration",
        "ReplicationConfigurationNotFoundError",
        b"",
    ),
    "object-lock": (
        "GetBucketObjectLockConfiguration",
        "PutBucketObjectLockConfiguration",
        "ObjectLockConfigurationNotFoundError",
        b"",
    ),
    "legal-hold": ("GetObjectLegalHold", "PutObjectLegalHold", "NoSuchObjectLockConfiguration", b""),
    "retention": ("GetObjectRetention", "PutObjectRetention", "NoSuchObjectLockConfiguration", b""),
    "logging": ("GetBucketLogging", "PutBucketLogging", "", document("BucketLoggingStatus", "")),
    "notification": (
        "GetBucketNotification",
        "PutBucketNotification",
        "",
        document("NotificationConfiguration", ""),
    ),
    "accelerate": (
        "GetAccelerateConfiguration",
        "PutAccelerateConfiguration",
        "",
        document("AccelerateConfiguration", ""),
    ),
    "requestPayment": (
        "GetBucketRequestPayment",
        "PutBucketRequestPayment",
        "",
        document("RequestPaymentConfiguration", element("Payer", "BucketOwner")),
    ),
}
"""Settings that nothing here has: the actions that read and change one; the error, or the document, that says
so."""
_NOT_SERVED: Final = (
    "analytics",
    "intelligent-tiering",
    "inventory",
    "metrics",
    "metadataConfiguration",
    "metadataTable",
    "object-lambda",
    "renameObject",
    "restore",
    "select",
    "session",
    "torrent",
    "abac",
)
_NAMED_FIRST: Final = ("uploadId", "list-type")
"""Where these come with others (`encoding-type`, `partNumber`), they say the operation."""


def place_of(request: Request, settings: Settings) -> tuple[str, bytes]:
    """Bucket and key, either of which may be empty. `S3Error`."""
    if not request.raw_path.startswith(b"/"):
        raise S3Error("InvalidURI")
    host = request.header("host").rsplit(":", 1)[0].lower()
    for domain in settings.domains:
        if host.endswith(f".{domain}"):
            return host.removesuffix(f".{domain}"), unquote_to_bytes(request.raw_path[1:])
    bucket, _, key = request.raw_path[1:].partition(b"/")
    return unquote_to_bytes(bucket).decode("utf-8", "replace"), unquote_to_bytes(key)


def operation_of(request: Request, bucket: str, key: bytes) -> Operation:
    """`S3Error`: `InvalidArgument`, `MethodNotAllowed`, `NotImplemented`."""
    if not bucket:
        if request.method != "GET":
            raise S3Error("MethodNotAllowed")
        return listings.list_buckets
    table = _OF_OBJECTS if key else _OF_BUCKETS
    name = _subresource(request, table)
    if name in _NEVER_SET:
        return _never_set(request.method, name)
    found = table.get((request.method, name))
    if found is None:
        _refuse(request, name)
    if not name and request.method in ("PUT", "DELETE"):
        _check_plain(request, found)
    if "x-amz-copy-source" in request.headers:
        return _COPIES.get(found, found)
    return found


def _subresource(request: Request, table: dict[tuple[str, str], Operation]) -> str:
    query = request.query
    if not query:
        return ""
    for name in _NAMED_FIRST:
        if name in query:
            if name == "list-type" and query[name] != "2":
                raise S3Error("InvalidArgument", "list-type is 2, or not there.")
            return name
    known = {name for _, name in table if name}
    return next((name for name in query if name in known or name in _NEVER_SET or name in _NOT_SERVED), "")


def _check_plain(request: Request, operation: Operation) -> None:
    if "AWSAccessKeyId" in request.query:
        refuse_version_2()
    for name in request.query:
        if name != _PARAMETERS.get(operation) and not name.lower().startswith("x-"):
            raise S3Error("InvalidArgument", f"This operation does not accept the parameter {name}.")


def _refuse(request: Request, name: str) -> NoReturn:
    method = request.method
    if method == "OPTIONS":
        if "origin" not in request.headers:
            raise S3Error("BadRequest", "Insufficient information. Origin request header needed.")
        raise S3Error("AccessForbidden", "CORSResponse: CORS is not enabled for this bucket.")
    if name in _NOT_SERVED or method == "POST":
        raise S3Error("NotImplemented", f"{method} {f'of {name} ' if name else ''}is not served.")
    raise S3Error("MethodNotAllowed")


def _never_set(method: str, name: str) -> Operation:
    async def never_set(call: Call) -> Answer:
        reading, changing, code, empty = _NEVER_SET[name]
        call.require(reading if method == "GET" else changing)
        if call.key:
            call.layer.head(call.bucket, call.key)
        if method == "DELETE":
            return nothing()
        if method != "GET":
            raise S3Error("NotImplemented", f"The setting {name} is not served.")
        if code:
            raise S3Error(code)
        return xml(empty)

    return never_set

"""The actions that policies allow and deny, as far as the door asks about them.

Source: AWS, "Actions, resources, and condition keys for Amazon S3". Pure.
"""

from __future__ import annotations

from typing import Final, Literal, get_args

Action = Literal[
    "AbortMultipartUpload",
    "CreateBucket",
    "DeleteBucket",
    "DeleteBucketPolicy",
    "DeleteObject",
    "DeleteObjectTagging",
    "GetAccelerateConfiguration",
    "GetBucketAcl",
    "GetBucketCORS",
    "GetBucketLocation",
    "GetBucketLogging",
    "GetBucketNotification",
    "GetBucketObjectLockConfiguration",
    "GetBucketOwnershipControls",
    "GetBucketPolicy",
    "GetBucketPolicyStatus",
    "GetBucketPublicAccessBlock",
    "GetBucketRequestPayment",
    "GetBucketTagging",
    "GetBucketVersioning",
    "GetBucketWebsite",
    "GetEncryptionConfiguration",
    "GetLifecycleConfiguration",
    "GetObject",
    "GetObjectAcl",
    "GetObjectLegalHold",
    "GetObjectRetention",
    "GetObjectTagging",
    "GetReplicationConfiguration",
    "ListAllMyBuckets",
    "ListBucket",
    "ListBucketMultipartUploads",
    "ListBucketVersions",
    "ListMultipartUploadParts",
    "PutAccelerateConfiguration",
    "PutBucketAcl",
    "PutBucketCORS",
    "PutBucketLogging",
    "PutBucketNotification",
    "PutBucketObjectLockConfiguration",
    "PutBucketOwnershipControls",
    "PutBucketPolicy",
    "PutBucketPublicAccessBlock",
    "PutBucketRequestPayment",
    "PutBucketTagging",
    "PutBucketVersioning",
    "PutBucketWebsite",
    "PutEncryptionConfiguration",
    "PutLifecycleConfiguration",
    "PutObject",
    "PutObjectAcl",
    "PutObjectLegalHold",
    "PutObjectRetention",
    "PutObjectTagging",
    "PutReplicationConfiguration",
]
_OF_VERSIONS: Final[dict[str, str]] = {
    name: name.replace("Object", "ObjectVersion")
    for name in get_args(Action)
    if name.endswith(("Object", "ObjectAcl", "ObjectTagging")) and name != "PutObject"
}


def asked(action: Action, *, of_version: bool) -> str:
    """The action as policies name it. `of_version`: the request names a version, which is another action."""
    return f"s3:{_OF_VERSIONS[action] if of_version else action}"


KNOWN: Final = frozenset(f"s3:{name}".lower() for name in (*get_args(Action), *_OF_VERSIONS.values()))
"""All that is ever asked, in lower case."""

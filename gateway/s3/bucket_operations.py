"""The operations on a bucket, its settings among them; and the deletion of many objects."""

from __future__ import annotations

import re
from typing import Final

from gateway.s3 import acl, policy
from gateway.s3.access import BLOCKS, blocks_of, owner_of
from gateway.s3.answer import Answer, nothing, xml
from gateway.s3.call import Call, iso_time_ns
from gateway.s3.error_codes import MESSAGES
from gateway.s3.object_headers import check_served
from gateway.s3.object_operations import acl_of, check_acl, permission_to_delete, tagging, tags_in
from gateway.s3.objects import Conditions, Deleted, S3Error, ToDelete
from gateway.s3.request import whole_number
from gateway.s3.xml_answers import document, element, key_text, optional, truth
from gateway.s3.xml_requests import MAX_DOCUMENT, MAX_LIST, Node, malformed, parse

OWNERSHIPS: Final = ("BucketOwnerEnforced", "BucketOwnerPreferred", "ObjectWriter")
MOST_DELETED: Final = 1000
MOST_TAGS: Final = 50
_ELEMENTS_OF_ITEM: Final = 8
_NAME: Final = re.compile(r"(?=.{3,63}\Z)[a-z0-9]([a-z0-9-]*[a-z0-9])?(\.[a-z0-9]([a-z0-9-]*[a-z0-9])?)*")
_LOCATION: Final = re.compile("[!-~]{1,64}")
"""It is told in a header."""


async def create_bucket(call: Call) -> Answer:
    """CreateBucket."""
    call.access.require_own("CreateBucket", call.bucket)
    check_served(call.request)
    if call.request.header("x-amz-bucket-object-lock-enabled").lower() == "true":
        raise S3Error("NotImplemented", "Object lock is not served.")
    name = acl.asked(call.request, call.access.users) or acl.PRIVATE
    ownership = _ownership(call.request.header("x-amz-object-ownership") or "ObjectWriter")
    if ownership == "BucketOwnerEnforced" and name != acl.PRIVATE:
        raise S3Error("InvalidBucketAclWithObjectOwnership", "A bucket without ACLs cannot be given one.")
    settings = {} if name == acl.PRIVATE else {"acl": name.encode()}
    if settings:
        call.access.require_own("PutBucketAcl", call.bucket)
    if call.request.header("x-amz-object-ownership"):
        call.access.require_own("PutBucketOwnershipControls", call.bucket)
        settings["ownership"] = ownership.encode()
    location = _location(await call.document(MAX_DOCUMENT))
    if not _NAME.fullmatch(call.bucket):
        raise S3Error("InvalidBucketName")
    try:
        await call.layer.create_bucket(call.bucket, owner=call.user, location=location, settings=settings)
    except S3Error as error:
        if error.code != "BucketAlreadyOwnedByYou":
            raise
        _check_same(call, name)
    return nothing(200, {"location": f"/{call.bucket}"})


def _check_same(call: Call, name: str) -> None:
    """To make one's own bucket again changes nothing, and is well (as in us-east-1) if nothing should
    change."""
    listed = (call.layer.setting(call.bucket, "acl") or acl.PRIVATE.encode()).decode()
    if listed != name:
        raise S3Error("BucketAlreadyExists")


def _location(data: bytes) -> str:
    if not data:
        return ""
    found = parse(data, "CreateBucketConfiguration").value("LocationConstraint") or ""
    if found and not _LOCATION.fullmatch(found):
        raise S3Error("InvalidLocationConstraint")
    return found


async def delete_bucket(call: Call) -> Answer:
    """DeleteBucket."""
    call.require("DeleteBucket")
    await call.layer.delete_bucket(call.bucket)
    return nothing()


async def head_bucket(call: Call) -> Answer:
    """HeadBucket."""
    call.require("ListBucket", "READ")
    bucket = call.layer.bucket(call.bucket)
    return nothing(200, {"x-amz-bucket-region": bucket.location or call.settings.region})


async def get_location(call: Call) -> Answer:
    """GetBucketLocation."""
    call.require("GetBucketLocation")
    location = call.layer.bucket(call.bucket).location or call.settings.region
    return xml(document("LocationConstraint", "" if location == "us-east-1" else location))


async def get_versioning(call: Call) -> Answer:
    """GetBucketVersioning."""
    call.require("GetBucketVersioning")
    return xml(
        document("VersioningConfiguration", optional("Status", call.layer.bucket(call.bucket).versioning))
    )


async def put_versioning(call: Call) -> Answer:
    """PutBucketVersioning."""
    call.require("PutBucketVersioning")
    asked = parse(await call.document(MAX_DOCUMENT), "VersioningConfiguration")
    status = asked.value("Status")
    if (asked.value("MfaDelete") or "Disabled") != "Disabled":
        raise S3Error("NotImplemented", "MFA delete is not served.")
    if status == "Enabled":
        await call.layer.set_versioning(call.bucket, "Enabled")
    elif status == "Suspended":
        await call.layer.set_versioning(call.bucket, "Suspended")
    else:
        raise S3Error("IllegalVersioningConfigurationException", "The Versioning element must be specified")
    return nothing(200)


async def get_policy(call: Call) -> Answer:
    """GetBucketPolicy."""
    call.require("GetBucketPolicy")
    return Answer(200, {"content-type": "application/json"}, _setting(call, "policy", "NoSuchBucketPolicy"))


async def put_policy(call: Call) -> Answer:
    """PutBucketPolicy."""
    call.require("PutBucketPolicy")
    data = await call.document(policy.MAX_POLICY)
    parsed = policy.parse(data, call.bucket)
    if parsed.is_public and "BlockPublicPolicy" in blocks_of(call.layer, call.bucket):
        raise S3Error("AccessDenied", "The bucket's PublicAccessBlock takes no public policy.")
    await call.layer.set_setting(call.bucket, "policy", data)
    return nothing(204)


async def delete_policy(call: Call) -> Answer:
    """DeleteBucketPolicy."""
    call.require("DeleteBucketPolicy")
    await call.layer.set_setting(call.bucket, "policy", None)
    return nothing()


async def get_policy_status(call: Call) -> Answer:
    """GetBucketPolicyStatus: whether policy or access list let everybody do something."""
    call.require("GetBucketPolicyStatus")
    found = call.layer.setting(call.bucket, "policy")
    listed = (call.layer.setting(call.bucket, "acl") or b"").decode()
    blocks = blocks_of(call.layer, call.bucket)
    by_list = acl.is_public(listed) and "IgnorePublicAcls" not in blocks
    by_policy = found is not None and policy.of_bucket(found, call.bucket).is_public
    is_public = by_list or (by_policy and "RestrictPublicBuckets" not in blocks)
    return xml(document("PolicyStatus", element("IsPublic", truth(is_public))))


async def get_blocks(call: Call) -> Answer:
    """GetPublicAccessBlock."""
    call.require("GetBucketPublicAccessBlock")
    on = _setting(call, "public-access-block", "NoSuchPublicAccessBlockConfiguration").decode().split()
    listed = "".join(element(name, truth(name in on)) for name in BLOCKS)
    return xml(document("PublicAccessBlockConfiguration", listed))


async def put_blocks(call: Call) -> Answer:
    """PutPublicAccessBlock."""
    call.require("PutBucketPublicAccessBlock")
    asked = parse(await call.document(MAX_DOCUMENT), "PublicAccessBlockConfiguration")
    on = [name for name in BLOCKS if (asked.value(name) or "").lower() == "true"]
    await call.layer.set_setting(call.bucket, "public-access-block", " ".join(["set", *on]).encode())
    return nothing(200)


async def delete_blocks(call: Call) -> Answer:
    """DeletePublicAccessBlock."""
    call.require("PutBucketPublicAccessBlock")
    await call.layer.set_setting(call.bucket, "public-access-block", None)
    return nothing()


async def get_ownership(call: Call) -> Answer:
    """GetBucketOwnershipControls."""
    call.require("GetBucketOwnershipControls")
    found = _setting(call, "ownership", "OwnershipControlsNotFoundError").decode()
    return xml(document("OwnershipControls", f"<Rule>{element('ObjectOwnership', found)}</Rule>"))


async def put_ownership(call: Call) -> Answer:
    """PutBucketOwnershipControls."""
    call.require("PutBucketOwnershipControls")
    rule = parse(await call.document(MAX_DOCUMENT), "OwnershipControls").child("Rule")
    if rule is None:
        raise malformed()
    ownership = _ownership(rule.required("ObjectOwnership"))
    listed = call.layer.setting(call.bucket, "acl")
    if ownership == "BucketOwnerEnforced" and listed not in (None, acl.PRIVATE.encode()):
        raise S3Error("InvalidBucketAclWithObjectOwnership", "The bucket has an ACL that lets others in.")
    await call.layer.set_setting(call.bucket, "ownership", ownership.encode())
    return nothing(200)


async def delete_ownership(call: Call) -> Answer:
    """DeleteBucketOwnershipControls."""
    call.require("PutBucketOwnershipControls")
    await call.layer.set_setting(call.bucket, "ownership", None)
    return nothing()


def _ownership(name: str) -> str:
    if name not in OWNERSHIPS:
        raise S3Error("InvalidArgument", f"{name} is no ObjectOwnership.")
    return name


async def get_tagging(call: Call) -> Answer:
    """GetBucketTagging."""
    call.require("GetBucketTagging")
    return xml(_setting(call, "tagging", "NoSuchTagSet"))


async def put_tagging(call: Call) -> Answer:
    """PutBucketTagging."""
    call.require("PutBucketTagging")
    tags = tags_in(await call.document(MAX_DOCUMENT), MOST_TAGS)
    await call.layer.set_setting(call.bucket, "tagging", tagging(tags))
    return nothing(204)


async def delete_tagging(call: Call) -> Answer:
    """DeleteBucketTagging."""
    call.require("PutBucketTagging")
    await call.layer.set_setting(call.bucket, "tagging", None)
    return nothing()


async def get_acl(call: Call) -> Answer:
    """GetBucketAcl."""
    call.require("GetBucketAcl", "READ_ACP")
    owner = owner_of(call.layer.bucket(call.bucket))
    listed = (call.layer.setting(call.bucket, "acl") or acl.PRIVATE.encode()).decode()
    return xml(acl.shown(listed, owner, owner))


async def put_acl(call: Call) -> Answer:
    """PutBucketAcl."""
    call.require("PutBucketAcl", "WRITE_ACP")
    check_served(call.request)
    name = await acl_of(call)
    check_acl(call, name)
    await call.layer.set_setting(call.bucket, "acl", None if name == acl.PRIVATE else name.encode())
    return nothing(200)


async def get_encryption(call: Call) -> Answer:
    """GetBucketEncryption: everything on a drive is encrypted."""
    call.require("GetEncryptionConfiguration")
    call.layer.bucket(call.bucket)
    name = "ApplyServerSideEncryptionByDefault"
    rule = f"<{name}>{element('SSEAlgorithm', 'AES256')}</{name}>{element('BucketKeyEnabled', 'false')}"
    content = f"<Rule>{rule}</Rule>"
    return xml(document("ServerSideEncryptionConfiguration", content))


async def put_encryption(call: Call) -> Answer:
    """PutBucketEncryption: of what is so anyway."""
    call.require("PutEncryptionConfiguration")
    rule = parse(await call.document(MAX_DOCUMENT), "ServerSideEncryptionConfiguration").child("Rule")
    asked = None if rule is None else rule.child("ApplyServerSideEncryptionByDefault")
    if asked is None or asked.value("SSEAlgorithm") != "AES256":
        raise S3Error("NotImplemented", "Only the encryption AES256 is served.")
    return nothing(200)


async def delete_encryption(call: Call) -> Answer:
    """DeleteBucketEncryption: back to what is so anyway."""
    call.require("PutEncryptionConfiguration")
    call.layer.bucket(call.bucket)
    return nothing()


def _setting(call: Call, name: str, code: str) -> bytes:
    found = call.layer.setting(call.bucket, name)
    if found is None:
        raise S3Error(code)
    return found


async def delete_objects(call: Call) -> Answer:
    """DeleteObjects. Which keys the caller has to be allowed to delete is in the body."""
    asked = parse(await call.document(MAX_LIST), "Delete", MOST_DELETED * _ELEMENTS_OF_ITEM)
    items = [_item(node) for node in asked.children("Object")]
    if not 1 <= len(items) <= MOST_DELETED:
        raise malformed()
    call.layer.bucket(call.bucket)
    allowed = [item for item in items if _may_go(call, item)]
    results = dict(zip(map(id, allowed), await call.layer.delete_many(call.bucket, allowed), strict=True))
    quiet = (asked.value("Quiet") or "").lower() == "true"
    denied = S3Error("AccessDenied")
    lines = (_deleted_line(item, results.get(id(item), denied), quiet=quiet) for item in items)
    return xml(document("DeleteResult", "".join(lines)))


def _item(node: Node) -> ToDelete:
    said, time, etag = node.value("Size"), node.value("LastModifiedTime"), node.value("ETag")
    size = None if said is None else whole_number(said)
    if size is None and said is not None:
        raise malformed()
    conditions = Conditions(
        if_match=None if etag is None else (etag.strip('"'),),
        size=size,
        last_modified_ns=None if time is None else iso_time_ns(time),
    )
    key = node.required("Key").encode("utf-8", "surrogateescape")
    return ToDelete(key, node.value("VersionId") or None, conditions)


def _may_go(call: Call, item: ToDelete) -> bool:
    permission = permission_to_delete(item.version_id)
    return call.access.allows("DeleteObject", call.bucket, item.key, permission, version_id=item.version_id)


def _deleted_line(item: ToDelete, result: Deleted | S3Error, *, quiet: bool) -> str:
    key = f"<Key>{key_text(item.key, '')}</Key>"
    if isinstance(result, S3Error):
        message = MESSAGES.get(result.code, result.message)
        version = optional("VersionId", item.version_id)
        return f"<Error>{key}{version}{element('Code', result.code)}{element('Message', message)}</Error>"
    if quiet:
        return ""
    marker = ""
    if result.delete_marker:
        marker = f"<DeleteMarker>true</DeleteMarker>{optional('DeleteMarkerVersionId', result.version_id)}"
    return f"<Deleted>{key}{optional('VersionId', item.version_id)}{marker}</Deleted>"

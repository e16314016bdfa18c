"""The operations that list: buckets, objects, versions."""

from __future__ import annotations

import base64
import binascii

from gateway.s3.access import owner_of
from gateway.s3.acl import owner_element
from gateway.s3.answer import Answer, xml
from gateway.s3.call import MAX_LISTED, Call
from gateway.s3.object_headers import STANDARD
from gateway.s3.objects import Checksums, Listing, ObjectInfo, S3Error, VersionInfo
from gateway.s3.xml_answers import document, element, escaped, key_text, optional, time_text, truth


async def list_buckets(call: Call) -> Answer:
    """ListBuckets: the caller's own; nobody has none."""
    if call.user:
        call.access.require_own("ListAllMyBuckets")
    most = call.number("max-buckets", 10_000, 10_000)
    after = decoded_token(call.request.query.get("continuation-token", "")).decode("utf-8", "replace")
    prefix = call.request.query.get("prefix", "")
    own = [each for each in call.layer.buckets() if owner_of(each) == call.user]
    found = [each for each in own if each.name > after and each.name.startswith(prefix)]
    listed = "".join(
        f"<Bucket>{element('Name', each.name)}{element('CreationDate', time_text(each.created_ns))}</Bucket>"
        for each in found[:most]
    )
    token = element("ContinuationToken", encoded_token(found[most - 1].name.encode())) if found[most:] else ""
    content = f"{owner_element(call.user)}<Buckets>{listed}</Buckets>{token}{optional('Prefix', prefix)}"
    return xml(document("ListAllMyBucketsResult", content))


def encoded_token(after: bytes) -> str:
    """The place where a listing goes on, as an opaque text."""
    return base64.urlsafe_b64encode(b"1" + after).decode()


def decoded_token(token: str) -> bytes:
    """`S3Error` for what is no token."""
    if not token:
        return b""
    try:
        found = base64.b64decode(token, altchars=b"-_", validate=True)
    except (binascii.Error, ValueError):
        found = b""
    if not found.startswith(b"1"):
        raise S3Error("InvalidArgument", "The continuation token provided is incorrect")
    return found[1:]


async def list_objects(call: Call) -> Answer:
    """ListObjects, the first version."""
    call.require("ListBucket", "READ")
    marker, encoding = call.parameter("marker"), call.encoding()
    # boto3 decodes all of this answer but the prefix.
    listing, head = await _listed(call, marker, encode_prefix=False)
    following = ""
    if listing.truncated and call.parameter("delimiter"):
        following = f"<NextMarker>{key_text(_last(listing), encoding)}</NextMarker>"
    marked = f"<Marker>{key_text(marker, encoding)}</Marker>{following}"
    return _objects_answer(call, listing, f"{head}{marked}", with_owner=True)


def _last(listing: Listing) -> bytes:
    item = listing.items[-1]
    return item if isinstance(item, bytes) else item.key


async def list_objects_v2(call: Call) -> Answer:
    """ListObjectsV2."""
    call.require("ListBucket", "READ")
    query, encoding = call.request.query, call.encoding()
    token, start = query.get("continuation-token"), call.parameter("start-after")
    after = decoded_token(token) if token else start
    listing, head = await _listed(call, after)
    told = [
        element("KeyCount", len(listing.items)),
        "" if token is None else element("ContinuationToken", token),
        element("NextContinuationToken", encoded_token(listing.next_after)) if listing.truncated else "",
        f"<StartAfter>{key_text(start, encoding)}</StartAfter>" if start else "",
    ]
    with_owner = query.get("fetch-owner", "").lower() == "true"
    return _objects_answer(call, listing, head + "".join(told), with_owner=with_owner)


async def _listed(call: Call, after: bytes, *, encode_prefix: bool = True) -> tuple[Listing, str]:
    """The listing, and the elements that say what was asked."""
    prefix, delimiter, encoding = call.parameter("prefix"), call.parameter("delimiter"), call.encoding()
    limit = call.number("max-keys", MAX_LISTED, MAX_LISTED)
    if delimiter and call.request.query.get("allow-unordered", "").lower() == "true":
        # Of Ceph: any order will do. The order of keys is one, and all that is left of it is this refusal.
        raise S3Error("InvalidArgument", "allow-unordered cannot be with a delimiter")
    listing = await call.layer.list_objects(
        call.bucket, prefix=prefix, delimiter=delimiter, after=after, limit=limit
    )
    shown = key_text(prefix, encoding if encode_prefix else "")
    return listing, _asked(call, shown, delimiter, encoding, limit, truncated=listing.truncated)


def _asked(call: Call, prefix: str, delimiter: bytes, encoding: str, limit: int, *, truncated: bool) -> str:
    delimited = f"<Delimiter>{key_text(delimiter, encoding)}</Delimiter>" if delimiter else ""
    return (
        f"{element('Name', call.bucket)}<Prefix>{prefix}</Prefix>{delimited}"
        f"{element('MaxKeys', limit)}{optional('EncodingType', encoding)}"
        f"{element('IsTruncated', truth(truncated))}"
    )


def _objects_answer(call: Call, listing: Listing, head: str, *, with_owner: bool) -> Answer:
    encoding, owner = call.encoding(), owner_of(call.layer.bucket(call.bucket))
    lines = [
        _object_line(item, encoding, (item.metadata.owner or owner) if with_owner else "")
        for item in listing.items
        if not isinstance(item, bytes)
    ]
    return xml(document("ListBucketResult", f"{head}{''.join(lines)}{prefixes(listing.items, encoding)}"))


def _object_line(info: ObjectInfo, encoding: str, owner: str) -> str:
    return (
        f"<Contents><Key>{key_text(info.key, encoding)}</Key>"
        f"<LastModified>{time_text(info.last_modified_ns)}</LastModified><ETag>&quot;{info.etag}&quot;</ETag>"
        f"{checksum_kinds(info.checksums)}<Size>{info.size}</Size>{owner_element(owner) if owner else ''}"
        f"<StorageClass>{info.metadata.storage_class or STANDARD}</StorageClass></Contents>"
    )


def checksum_kinds(made: Checksums) -> str:
    """The algorithms and the kind of an object's checksums, as listings have them."""
    if not made.values:
        return ""
    algorithms = "".join(f"<ChecksumAlgorithm>{name}</ChecksumAlgorithm>" for name in made.values)
    return f"{algorithms}<ChecksumType>{made.kind}</ChecksumType>"


def prefixes(items: tuple[object, ...], encoding: str) -> str:
    """The rolled-up prefixes among the items of a listing."""
    return "".join(
        f"<CommonPrefixes><Prefix>{key_text(item, encoding)}</Prefix></CommonPrefixes>"
        for item in items
        if isinstance(item, bytes)
    )


async def list_object_versions(call: Call) -> Answer:
    """ListObjectVersions."""
    call.require("ListBucketVersions", "READ")
    prefix, delimiter, encoding = call.parameter("prefix"), call.parameter("delimiter"), call.encoding()
    limit = call.number("max-keys", MAX_LISTED, MAX_LISTED)
    key, version = call.parameter("key-marker"), call.request.query.get("version-id-marker", "")
    if version and not key:
        raise S3Error("InvalidArgument", "A version-id marker cannot be specified without a key marker.")
    listing = await call.layer.list_versions(
        call.bucket, prefix=prefix, delimiter=delimiter, after_key=key, after_version=version, limit=limit
    )
    shown = key_text(prefix, encoding)
    head = _asked(call, shown, delimiter, encoding, limit, truncated=listing.truncated)
    head += f"<KeyMarker>{key_text(key, encoding)}</KeyMarker>{element('VersionIdMarker', version)}"
    if listing.truncated:
        head += f"<NextKeyMarker>{key_text(listing.next_key, encoding)}</NextKeyMarker>"
        head += optional("NextVersionIdMarker", listing.next_version_id)
    owner = owner_of(call.layer.bucket(call.bucket))
    lines = "".join(
        _version_line(each, encoding, owner) for each in listing.items if not isinstance(each, bytes)
    )
    return xml(document("ListVersionsResult", f"{head}{lines}{prefixes(listing.items, encoding)}"))


def _version_line(version: VersionInfo, encoding: str, owner: str) -> str:
    name = "DeleteMarker" if version.is_delete_marker else "Version"
    own = (
        ""
        if version.is_delete_marker
        else f"<ETag>&quot;{version.etag}&quot;</ETag>{checksum_kinds(version.checksums)}"
        f"<Size>{version.size}</Size><StorageClass>{version.storage_class or STANDARD}</StorageClass>"
    )
    return (
        f"<{name}><Key>{key_text(version.key, encoding)}</Key>"
        f"<VersionId>{escaped(version.version_id or 'null')}</VersionId>"
        f"<IsLatest>{truth(version.is_latest)}</IsLatest>"
        f"<LastModified>{time_text(version.last_modified_ns)}</LastModified>{own}"
        f"{owner_element(version.owner or owner)}</{name}>"
    )

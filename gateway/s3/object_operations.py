"""The operations on one object: put, get, head, delete, its tags, its access list, its attributes."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import replace
from typing import TypeVar, cast

from gateway.s3 import acl
from gateway.s3.access import blocks_of, owner_of
from gateway.s3.answer import Answer, nothing, xml
from gateway.s3.call import Call, etags, time_ns
from gateway.s3.object_headers import (
    SEALED,
    byte_range,
    check_served,
    checked_tags,
    checksum_headers,
    headers_of,
    http_date,
    metadata_of,
    new_version_header,
    version_header,
    wants_checksums,
)
from gateway.s3.objects import (
    Conditions,
    DeleteMarkerError,
    Metadata,
    ObjectInfo,
    OpenObject,
    S3Error,
)
from gateway.s3.payload import DEFAULT_ALGORITHM
from gateway.s3.request import Request, whole_number
from gateway.s3.xml_answers import document, element, optional, truth
from gateway.s3.xml_requests import MAX_DOCUMENT, Node, parse

MAX_OBJECT = 5 << 30
Default = TypeVar("Default", int, None)


async def put_object(call: Call) -> Answer:
    """PutObject."""
    call.require("PutObject", "WRITE")
    metadata = metadata_of_new(call)
    payload = call.payload(may_stream=True, algorithm=DEFAULT_ALGORITHM)
    check_size(call.request, payload.size)
    async with aclosing(payload.pieces()) as body:
        info = await call.layer.put(
            call.bucket, call.key, body, payload.size, metadata, payload.finish, call.conditions()
        )
    return nothing(200, _of_new(info) | checksum_headers(info.checksums))


def metadata_of_new(call: Call) -> Metadata:
    """The metadata of the object that a request makes, whose owner is as the bucket says. `S3Error`."""
    metadata = metadata_of(call.request, call.user, call.access.users)
    check_acl(call, metadata.acl)
    if metadata.acl != acl.PRIVATE:
        call.require("PutObjectAcl", "WRITE")  # whoever may only put makes nothing public
    if metadata.tags:
        call.require("PutObjectTagging")
    ownership = call.layer.setting(call.bucket, "ownership")
    preferred = ownership == b"BucketOwnerPreferred" and metadata.acl == "bucket-owner-full-control"
    if preferred or ownership == b"BucketOwnerEnforced":
        return replace(metadata, owner=owner_of(call.layer.bucket(call.bucket)))
    return metadata


def check_size(request: Request, size: int | None) -> None:
    """`S3Error` unless a body of this size can be an object put in one piece, or a part."""
    if size is None and not request.header("transfer-encoding"):
        raise S3Error("MissingContentLength")
    if size is not None and size > MAX_OBJECT:
        raise S3Error("EntityTooLarge", "", {"ProposedSize": str(size), "MaxSizeAllowed": str(MAX_OBJECT)})


def check_acl(call: Call, name: str) -> None:
    """`S3Error` if the bucket does not take this access list."""
    is_asked = name != acl.PRIVATE or "x-amz-acl" in call.request.headers
    is_refused = is_asked and name != "bucket-owner-full-control"
    if is_refused and call.layer.setting(call.bucket, "ownership") == b"BucketOwnerEnforced":
        raise S3Error("AccessControlListNotSupported", "The bucket does not allow ACLs")
    if acl.is_public(name) and "BlockPublicAcls" in blocks_of(call.layer, call.bucket):
        raise S3Error("AccessDenied")


def _of_new(info: ObjectInfo) -> dict[str, str]:
    return {"etag": f'"{info.etag}"', **SEALED, **new_version_header(info.version_id)}


async def get_object(call: Call) -> Answer:
    """GetObject."""
    found = _opened(call)
    try:
        answer = _answer_of(call, found.info, found)
    except BaseException:
        found.close()
        raise
    start, end = _asked(call, found)
    answer.body, answer.size = pieces_of(found, start, end), end - start
    return answer


async def head_object(call: Call) -> Answer:
    """HeadObject."""
    if "partNumber" not in call.request.query:
        call.require_object("GetObject", "READ", call.version_id)
        info = call.layer.head(call.bucket, call.key, call.version_id, call.conditions())
        return _answer_of(call, info, None)
    found = _opened(call)
    try:
        return _answer_of(call, found.info, found)
    finally:
        found.close()


def _opened(call: Call) -> OpenObject:
    version_id = call.version_id
    call.require_object("GetObject", "READ", version_id)
    check_served(call.request)
    return call.layer.open(call.bucket, call.key, version_id, call.conditions())


async def pieces_of(found: OpenObject, start: int, end: int) -> AsyncGenerator[bytes | memoryview, None]:
    """The bytes [start, end) of an object, which is closed then."""
    try:
        if start < end:
            reading = cast("AsyncGenerator[bytes | memoryview, None]", found.read(start, end))
            async with aclosing(reading):
                async for piece in reading:
                    yield piece
    finally:
        found.close()


def _asked(call: Call, found: OpenObject) -> tuple[int, int]:
    if "partNumber" in call.request.query:
        return _part(call, found)
    return byte_range(call.request.header("range"), found.info.size) or (0, found.info.size)


def _part(call: Call, found: OpenObject) -> tuple[int, int]:
    number = call.number("partNumber", 0)
    if call.request.header("range"):
        raise S3Error("InvalidRequest", "Cannot specify both Range header and partNumber query parameter")
    part = found.part(number) if number else None
    if part is None:
        raise S3Error("InvalidPart", "The object has no such part.")
    return part


def _answer_of(call: Call, info: ObjectInfo, found: OpenObject | None) -> Answer:
    """The head of the answer. `found`: it is needed for parts."""
    request, by_part = call.request, "partNumber" in call.request.query
    asked = None if by_part else byte_range(request.header("range"), info.size)
    if by_part and found is not None:
        asked = _part(call, found)
    headers = headers_of(
        info, request, signed=bool(call.user), whole=asked is None or (by_part and not info.parts)
    )
    start, end = asked or (0, info.size)
    headers["content-length"] = str(end - start)
    if by_part and info.parts:
        headers |= _of_part(call, info)
    if asked is None:
        return Answer(200, headers)
    headers["content-range"] = f"bytes {start}-{max(end - 1, 0)}/{info.size}"
    return Answer(206, headers)


def _of_part(call: Call, info: ObjectInfo) -> dict[str, str]:
    headers = {"x-amz-mp-parts-count": str(info.parts)}
    if wants_checksums(call.request):
        number = call.number("partNumber", 0)
        [part], _ = call.layer.parts(call.bucket, call.key, call.version_id, number - 1, 1)
        headers |= checksum_headers(part.checksums)
    return headers


async def delete_object(call: Call) -> Answer:
    """DeleteObject."""
    version_id = call.version_id
    call.access.require(
        "DeleteObject", call.bucket, call.key, permission_to_delete(version_id), version_id=version_id
    )
    conditions = deletion_conditions(call)
    try:
        deleted = await call.layer.delete(call.bucket, call.key, version_id, conditions)
    except S3Error as error:
        if error.code != "NoSuchKey" or isinstance(error, DeleteMarkerError):
            raise
        return nothing(204)  # to delete nothing is well, whatever was asked of it
    headers = version_header(deleted.version_id)
    if deleted.delete_marker:
        headers["x-amz-delete-marker"] = "true"
    return nothing(204, headers)


def permission_to_delete(version_id: str | None) -> str:
    """The one of access lists; empty: no list lets others than the bucket's owner take a version away for
    good (AWS, "Access control list (ACL) overview", "Mapping of ACL permissions and access policy
    permissions")."""
    return "WRITE" if version_id is None else ""


def deletion_conditions(call: Call) -> Conditions:
    """Of DeleteObject, whose size and time are asked for by headers of their own."""
    header = call.request.header
    size = _header_number(call, "x-amz-if-match-size", None)
    return Conditions(
        if_match=etags(header("if-match")),
        size=size,
        last_modified_ns=time_ns(header("x-amz-if-match-last-modified-time")),
    )


async def get_object_tagging(call: Call) -> Answer:
    """GetObjectTagging."""
    call.require_object("GetObjectTagging", "", call.version_id)
    tags, version = call.layer.tags(call.bucket, call.key, call.version_id)
    return xml(tagging(tags), version_header(version))


def tagging(tags: dict[str, str]) -> bytes:
    """The document of tags."""
    listed = "".join(
        f"<Tag>{element('Key', name)}{element('Value', value)}</Tag>" for name, value in sorted(tags.items())
    )
    return document("Tagging", f"<TagSet>{listed}</TagSet>")


async def put_object_tagging(call: Call) -> Answer:
    """PutObjectTagging. What the caller may depends on the tags, which the body has."""
    version_id = call.version_id
    tags = tags_in(await call.document(MAX_DOCUMENT), most=10)
    access = call.access.giving(tags)
    access.require_object("PutObjectTagging", call.bucket, call.key, version_id=version_id)
    version = await call.layer.set_tags(call.bucket, call.key, tags, version_id)
    return nothing(200, version_header(version))


def tags_in(data: bytes, most: int) -> dict[str, str]:
    """The tags of a document. `S3Error`."""
    found = parse(data, "Tagging").child("TagSet")
    listed: list[Node] = [] if found is None else list(found.children("Tag"))
    return checked_tags([(tag.required("Key"), tag.required("Value")) for tag in listed], most)


async def delete_object_tagging(call: Call) -> Answer:
    """DeleteObjectTagging."""
    call.require_object("DeleteObjectTagging", "", call.version_id)
    version = await call.layer.set_tags(call.bucket, call.key, {}, call.version_id)
    return nothing(204, version_header(version))


async def get_object_acl(call: Call) -> Answer:
    """GetObjectAcl."""
    call.require_object("GetObjectAcl", "READ_ACP", call.version_id)
    info = call.layer.head(call.bucket, call.key, call.version_id)
    owner = owner_of(call.layer.bucket(call.bucket))
    return xml(
        acl.shown(info.metadata.acl, info.metadata.owner or owner, owner), version_header(info.version_id)
    )


async def put_object_acl(call: Call) -> Answer:
    """PutObjectAcl."""
    call.require_object("PutObjectAcl", "WRITE_ACP", call.version_id)
    check_served(call.request)
    name = await acl_of(call)
    check_acl(call, name)
    version = await call.layer.set_acl(call.bucket, call.key, name, call.version_id)
    return nothing(200, version_header(version))


async def acl_of(call: Call) -> str:
    """The access list that a request sets."""
    named = acl.asked(call.request, call.access.users)
    if named:
        return named
    data = await call.document(MAX_DOCUMENT)
    if not data:
        raise S3Error("MissingRequestBodyError", "An access list is missing.")
    return acl.of_document(data, call.access.users)


async def get_object_attributes(call: Call) -> Answer:
    """GetObjectAttributes."""
    version_id = call.version_id
    call.require_object("GetObject", "READ", version_id)
    wanted = {name.strip() for name in call.request.header("x-amz-object-attributes").split(",")}
    known = {"ETag", "Checksum", "ObjectParts", "StorageClass", "ObjectSize"}
    if not wanted or wanted - known:
        raise S3Error("InvalidArgument", "Invalid attribute name specified.")
    info = call.layer.head(call.bucket, call.key, version_id, call.conditions())
    parts = [
        optional("ETag", info.etag) if "ETag" in wanted else "",
        _checksum_element(info) if "Checksum" in wanted else "",
        _parts_element(call, info) if "ObjectParts" in wanted else "",
        element("StorageClass", info.metadata.storage_class or "STANDARD")
        if "StorageClass" in wanted
        else "",
        element("ObjectSize", info.size) if "ObjectSize" in wanted else "",
    ]
    headers = {"last-modified": http_date(info.last_modified_ns), **version_header(info.version_id)}
    return xml(document("GetObjectAttributesResponse", "".join(parts)), headers)


def _checksum_element(info: ObjectInfo) -> str:
    if not info.checksums.values:
        return ""
    sums = "".join(element(f"Checksum{name}", value) for name, value in info.checksums.values.items())
    return f"<Checksum>{sums}{optional('ChecksumType', info.checksums.kind)}</Checksum>"


def _parts_element(call: Call, info: ObjectInfo) -> str:
    if not info.parts:
        return ""
    most = _header_number(call, "x-amz-max-parts", 1000)
    after = _header_number(call, "x-amz-part-number-marker", 0)
    parts, truncated = call.layer.parts(call.bucket, call.key, call.version_id, after, min(most, 1000))
    listed = "".join(
        f"<Part>{element('PartNumber', part.number)}{element('Size', part.size)}"
        + "".join(element(f"Checksum{name}", value) for name, value in part.checksums.values.items())
        + "</Part>"
        for part in parts
        if info.checksums.values
    )
    last = parts[-1].number if parts else 0
    return (
        f"<ObjectParts>{element('PartsCount', info.parts)}{element('PartNumberMarker', after)}"
        f"{element('NextPartNumberMarker', last)}{element('MaxParts', most)}"
        f"{element('IsTruncated', truth(truncated))}{listed}</ObjectParts>"
    )


def _header_number(call: Call, name: str, default: Default) -> int | Default:
    text = call.request.header(name)
    if not text:
        return default
    found = whole_number(text)
    if found is None:
        raise S3Error("InvalidArgument", f"{name} is no number.")
    return found


def delete_marker_headers(error: DeleteMarkerError) -> dict[str, str]:
    """Those of a refusal because of a delete marker."""
    return {
        "x-amz-delete-marker": "true",
        "last-modified": http_date(error.last_modified_ns),
        **version_header(error.version_id),
    }

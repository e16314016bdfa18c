"""The copy of an object, and what is common to copies of parts."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import aclosing
from dataclasses import replace
from urllib.parse import unquote_to_bytes

from gateway.s3 import checksums
from gateway.s3.answer import Answer, xml
from gateway.s3.call import Call
from gateway.s3.object_headers import SEALED, version_header
from gateway.s3.object_operations import metadata_of_new, pieces_of
from gateway.s3.objects import Checksums, Conditions, Metadata, ObjectInfo, S3Error, Source
from gateway.s3.payload import known_algorithm
from gateway.s3.xml_answers import document, element, time_text

DIRECTIVES = ("COPY", "REPLACE", "")


def _source_of(call: Call) -> Source:
    """The object that `x-amz-copy-source` names, decoded once. A `+` is a space there, as AWS takes it: s5cmd
    sends it for one, and all others send `%2B` for a plus. `S3Error`."""
    text = call.request.header("x-amz-copy-source").encode("utf-8", "surrogateescape")
    path, _, query = text.partition(b"?versionId=")
    bucket, slash, key = unquote_to_bytes(path.replace(b"+", b" ")).removeprefix(b"/").partition(b"/")
    if not slash or not bucket or not key:
        raise S3Error("InvalidArgument", "Copy Source must mention the source bucket and key: /bucket/key")
    version_id = unquote_to_bytes(query).decode("utf-8", "replace") or None
    conditions = call.conditions("x-amz-copy-source-")
    return Source(bucket.decode("utf-8", "replace"), key, version_id, conditions)


def required_source(call: Call) -> tuple[Source, ObjectInfo]:
    """The object that is copied, in the state that it has now and no other. `S3Error`: `AccessDenied` if the
    caller may not read it."""
    source = _source_of(call)
    bucket, key, version_id = source.bucket, source.key, source.version_id
    call.access.require_object("GetObject", bucket, key, "READ", version_id)
    info = call.layer.head(bucket, key, version_id)
    return replace(source, etag=info.etag), info


async def copy_object(call: Call) -> Answer:
    """CopyObject."""
    call.require("PutObject", "WRITE")
    source, before = required_source(call)
    given = metadata_of_new(call)
    replaced = _directive(call, "x-amz-metadata-directive") == "REPLACE"
    is_tagged = _directive(call, "x-amz-tagging-directive") == "REPLACE"
    tags = given.tags if is_tagged else _tags_taken(call, source, before)
    _check_changes(call, source, replaced)
    if not replaced:
        old = before.metadata
        kept = {"headers": old.headers, "user": old.user}
        given = Metadata(**kept, storage_class=given.storage_class, acl=given.acl, owner=given.owner)
    made = await _checksums_of(call, source, before)
    info, version = await call.layer.copy(
        source, call.bucket, call.key, given, tags, call.conditions(with_times=False), made
    )
    headers = {**SEALED, **version_header(info.version_id)}
    if version:
        headers["x-amz-copy-source-version-id"] = version
    return xml(
        document("CopyObjectResult", copied(info.etag, info.last_modified_ns, info.checksums)), headers
    )


def quoted(etag: str) -> str:
    """The element ETag."""
    return element("ETag", f'"{etag}"')


def copied(etag: str, last_modified_ns: int, made: Checksums) -> str:
    """The elements of the answers to CopyObject and UploadPartCopy."""
    sums = "".join(element(f"Checksum{name}", value) for name, value in made.values.items())
    time = element("LastModified", time_text(last_modified_ns))
    return f"{time}{quoted(etag)}{sums}"


def _directive(call: Call, name: str) -> str:
    found = call.request.header(name)
    if found not in DIRECTIVES:
        raise S3Error("InvalidArgument", f"Unknown value of {name}.")
    return found


def _tags_taken(call: Call, source: Source, before: ObjectInfo) -> Mapping[str, str]:
    """The source's, which the caller has to be allowed to read there, and to set here."""
    tags = before.metadata.tags
    if tags:
        call.access.require("GetObjectTagging", source.bucket, source.key, version_id=source.version_id)
        call.require("PutObjectTagging")
    return tags


def _check_changes(call: Call, source: Source, replaced: bool) -> None:
    """A copy of an object onto itself has to change something."""
    onto_itself = (source.bucket, source.key, source.version_id) == (call.bucket, call.key, None)
    changing = ("x-amz-storage-class", "x-amz-server-side-encryption", "x-amz-website-redirect-location")
    if onto_itself and not replaced and not any(name in call.request.headers for name in changing):
        raise S3Error(
            "InvalidRequest",
            "This copy request is illegal because it is trying to copy an object to itself without "
            "changing the object's metadata, storage class or encryption attributes.",
        )


async def _checksums_of(call: Call, source: Source, before: ObjectInfo) -> Checksums | None:
    """Of the copy, if the request asks for another algorithm than the source has: its bytes are read."""
    asked = call.request.header("x-amz-checksum-algorithm")
    if not asked or known_algorithm(asked) in before.checksums.values:
        return None
    running = checksums.new(known_algorithm(asked))
    found = call.layer.open(source.bucket, source.key, source.version_id, Conditions(if_match=(source.etag,)))
    async with aclosing(pieces_of(found, 0, found.info.size)) as pieces:
        async for piece in pieces:
            running.update(piece)
    return Checksums({known_algorithm(asked): checksums.text_of(running.digest())}, checksums.FULL_OBJECT)

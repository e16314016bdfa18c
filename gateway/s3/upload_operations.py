"""The operations on multipart uploads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import aclosing
from typing import Final

from gateway.s3 import checksums
from gateway.s3.access import owner_of
from gateway.s3.acl import owner_element
from gateway.s3.answer import Answer, nothing, xml
from gateway.s3.call import MAX_LISTED, Call
from gateway.s3.copy_operations import copied, quoted, required_source
from gateway.s3.listing_operations import prefixes
from gateway.s3.object_headers import SEALED, STANDARD, checksum_headers, new_version_header
from gateway.s3.object_operations import check_size, metadata_of_new
from gateway.s3.objects import Checksums, Part, PartToJoin, S3Error, Upload
from gateway.s3.payload import DEFAULT_ALGORITHM, known_algorithm
from gateway.s3.request import whole_number
from gateway.s3.xml_answers import document, element, escaped, key_text, optional, time_text, truth
from gateway.s3.xml_requests import MAX_LIST, Node, malformed, parse

MOST_PARTS: Final = 10_000
_ELEMENTS_OF_PART: Final = 10


async def create_upload(call: Call) -> Answer:
    """CreateMultipartUpload."""
    call.require("PutObject", "WRITE")
    metadata = metadata_of_new(call)
    algorithm, kind = _asked_checksum(call)
    upload = await call.layer.create_upload(
        call.bucket, call.key, metadata, checksum_algorithm=algorithm, checksum_kind=kind
    )
    named = f"{element('Bucket', call.bucket)}<Key>{key_text(call.key, '')}</Key>"
    content = named + element("UploadId", upload.upload_id)
    headers = dict(SEALED)
    if algorithm:
        headers |= {"x-amz-checksum-algorithm": algorithm, "x-amz-checksum-type": kind}
    return xml(document("InitiateMultipartUploadResult", content), headers)


def _asked_checksum(call: Call) -> tuple[str, str]:
    header = call.request.header
    asked, kind = header("x-amz-checksum-algorithm"), header("x-amz-checksum-type").upper()
    if not asked:
        if kind:
            raise S3Error("InvalidRequest", "x-amz-checksum-type needs x-amz-checksum-algorithm.")
        return "", ""
    algorithm = known_algorithm(asked)
    kind = kind or (checksums.COMPOSITE if algorithm in checksums.OF_PARTS else checksums.FULL_OBJECT)
    known = {
        checksums.COMPOSITE: checksums.OF_PARTS,
        checksums.FULL_OBJECT: checksums.OF_WHOLE_OBJECTS,
    }
    if algorithm not in known.get(kind, ()):
        raise S3Error(
            "InvalidRequest",
            f"The {kind} checksum type cannot be used with the {algorithm.lower()} checksum algorithm.",
        )
    return algorithm, kind


def _upload(call: Call) -> Upload:
    return call.layer.upload(call.bucket, call.key, call.request.query["uploadId"])


def _number(call: Call) -> int:
    number = call.number("partNumber", 0)
    if not 1 <= number <= MOST_PARTS:
        raise S3Error(
            "InvalidArgument", f"Part number must be an integer between 1 and {MOST_PARTS}, inclusive"
        )
    return number


async def put_part(call: Call) -> Answer:
    """UploadPart."""
    call.require("PutObject", "WRITE")
    upload, number = _upload(call), _number(call)
    payload = call.payload(may_stream=True, algorithm=upload.checksum_algorithm or DEFAULT_ALGORITHM)
    payload.require_algorithm(upload.checksum_algorithm)
    check_size(call.request, payload.size)
    async with aclosing(payload.pieces()) as body:
        part = await call.layer.put_part(
            call.bucket, call.key, upload.upload_id, number, body, payload.size, payload.finish
        )
    sums = checksum_headers(Checksums(part.checksums.values))
    return nothing(200, {"etag": f'"{part.etag}"', **SEALED, **sums})


async def copy_part(call: Call) -> Answer:
    """UploadPartCopy."""
    call.require("PutObject", "WRITE")
    upload, number = _upload(call), _number(call)
    source, info = required_source(call)
    asked = _copied_range(call.request.header("x-amz-copy-source-range"), info.size)
    part, version = await call.layer.copy_part(call.bucket, call.key, upload.upload_id, number, source, asked)
    headers = {"x-amz-copy-source-version-id": version} if version else {}
    content = copied(part.etag, part.last_modified_ns, part.checksums)
    return xml(document("CopyPartResult", content), {**SEALED, **headers})


def _copied_range(header: str, size: int) -> tuple[int, int] | None:
    if not header:
        return None
    first, _, last = map(whole_number, header.removeprefix("bytes=").partition("-"))
    if not header.startswith("bytes=") or first is None or last is None:
        raise S3Error(
            "InvalidArgument", "The x-amz-copy-source-range value must be of the form bytes=first-last"
        )
    start, end = first, last + 1
    if start >= end or end > size:
        raise S3Error(
            "InvalidRange" if start < end else "InvalidArgument", "Range specified is not valid for source"
        )
    return start, end


async def list_parts(call: Call) -> Answer:
    """ListParts."""
    call.require("ListMultipartUploadParts", "READ")
    after, most = call.number("part-number-marker", 0), call.number("max-parts", MAX_LISTED, MAX_LISTED)
    listing = call.layer.parts_of(call.bucket, call.key, call.request.query["uploadId"], after, most)
    upload, owner = listing.upload, owner_of(call.layer.bucket(call.bucket))
    whose = upload.metadata.owner or owner
    content = [
        f"{element('Bucket', call.bucket)}<Key>{key_text(call.key, call.encoding())}</Key>",
        element("UploadId", upload.upload_id),
        element("PartNumberMarker", after),
        element("NextPartNumberMarker", listing.next_number or after),
        element("MaxParts", most),
        element("IsTruncated", truth(listing.truncated)),
        *map(_part_line, listing.parts),
        owner_element(whose, "Initiator"),
        owner_element(whose),
        element("StorageClass", upload.metadata.storage_class or STANDARD),
        optional("ChecksumAlgorithm", upload.checksum_algorithm),
        optional("ChecksumType", upload.checksum_kind),
    ]
    return xml(document("ListPartsResult", "".join(content)))


def _part_line(part: Part) -> str:
    return (
        f"<Part>{element('PartNumber', part.number)}"
        f"{element('LastModified', time_text(part.last_modified_ns))}"
        f"{quoted(part.etag)}{element('Size', part.size)}{_sums(part.checksums.values)}</Part>"
    )


def _sums(values: Mapping[str, str]) -> str:
    return "".join(element(f"Checksum{name}", value) for name, value in values.items())


async def list_uploads(call: Call) -> Answer:
    """ListMultipartUploads."""
    call.require("ListBucketMultipartUploads", "READ")
    prefix, delimiter, encoding = call.parameter("prefix"), call.parameter("delimiter"), call.encoding()
    key, upload_id = call.parameter("key-marker"), call.request.query.get("upload-id-marker", "")
    most = call.number("max-uploads", MAX_LISTED, MAX_LISTED)
    listing = call.layer.uploads(
        call.bucket,
        prefix=prefix,
        delimiter=delimiter,
        after_key=key,
        after_upload=upload_id if key else "",
        limit=most,
    )
    owner = owner_of(call.layer.bucket(call.bucket))
    content = [
        element("Bucket", call.bucket),
        f"<KeyMarker>{key_text(key, encoding)}</KeyMarker>{element('UploadIdMarker', upload_id)}",
        f"<NextKeyMarker>{key_text(listing.next_key, encoding)}</NextKeyMarker>" if listing.truncated else "",
        optional("NextUploadIdMarker", listing.next_upload_id) if listing.truncated else "",
        f"<Prefix>{key_text(prefix, encoding)}</Prefix>",
        f"<Delimiter>{key_text(delimiter, encoding)}</Delimiter>" if delimiter else "",
        optional("EncodingType", encoding),
        element("MaxUploads", most),
        element("IsTruncated", truth(listing.truncated)),
        *(_upload_line(each, encoding, owner) for each in listing.items if not isinstance(each, bytes)),
        prefixes(listing.items, encoding),
    ]
    return xml(document("ListMultipartUploadsResult", "".join(content)))


def _upload_line(upload: Upload, encoding: str, owner: str) -> str:
    whose = upload.metadata.owner or owner
    return (
        f"<Upload><Key>{key_text(upload.key, encoding)}</Key>{element('UploadId', upload.upload_id)}"
        f"{owner_element(whose, 'Initiator')}{owner_element(whose)}"
        f"{element('StorageClass', upload.metadata.storage_class or STANDARD)}"
        f"{element('Initiated', time_text(upload.initiated_ns))}"
        f"{optional('ChecksumAlgorithm', upload.checksum_algorithm)}"
        f"{optional('ChecksumType', upload.checksum_kind)}</Upload>"
    )


async def complete_upload(call: Call) -> Answer:
    """CompleteMultipartUpload."""
    call.require("PutObject", "WRITE")
    # A checksum in the headers is that of the object, not of this document.
    data = await call.document(MAX_LIST, is_summed=False)
    asked = parse(data, "CompleteMultipartUpload", MOST_PARTS * _ELEMENTS_OF_PART)
    parts = [_to_join(node) for node in asked.children("Part")]
    upload_id = call.request.query["uploadId"]
    info = await call.layer.complete(
        call.bucket, call.key, upload_id, parts, _Joining(call).finish, call.conditions(with_times=False)
    )
    host = call.request.header("host")
    content = (
        f"<Location>http://{escaped(host)}/{call.bucket}/{key_text(call.key, 'url')}</Location>"
        f"{element('Bucket', call.bucket)}<Key>{key_text(call.key, '')}</Key>{quoted(info.etag)}"
        f"{_sums(info.checksums.values)}{optional('ChecksumType', info.checksums.kind)}"
    )
    headers = {**SEALED, **new_version_header(info.version_id)}
    return xml(document("CompleteMultipartUploadResult", content), headers)


def _to_join(node: Node) -> PartToJoin:
    number, etag = whole_number(node.required("PartNumber")), node.required("ETag")
    if number is None:
        raise malformed()
    sums = {name: value for name in checksums.ALGORITHMS if (value := node.value(f"Checksum{name}"))}
    return PartToJoin(number, etag.strip('"'), sums)


class _Joining:
    """The checksum of the object that the parts make; the client may say which it expects."""

    def __init__(self, call: Call) -> None:
        header = call.request.header
        self._sums = {
            name: header(checksums.header_of(name))
            for name in checksums.ALGORITHMS
            if checksums.header_of(name) in call.request.headers
        }
        self._kind = header("x-amz-checksum-type").upper()
        self._size = header("x-amz-mp-object-size")
        self._call = call

    def finish(self, parts: Sequence[Part]) -> Checksums:
        """`S3Error`."""
        if self._size and self._size != str(sum(part.size for part in parts)):
            raise S3Error(
                "InvalidRequest", "The provided x-amz-mp-object-size does not match the size of the object."
            )
        upload = _upload(self._call)
        made = _joined(upload.checksum_algorithm, upload.checksum_kind, parts)
        if self._kind and made.kind and self._kind != made.kind:
            raise S3Error("InvalidRequest", f"The upload was created with the checksum type {made.kind}.")
        for name, value in self._sums.items():
            if made.values.get(name, value).partition("-")[0] != value.partition("-")[0]:
                raise S3Error("BadDigest", f"The {name} you specified did not match the calculated checksum.")
        return made


def _joined(algorithm: str, kind: str, parts: Sequence[Part]) -> Checksums:
    """Of the whole, where each part has one of the algorithm; if none was asked for, of that which all
    have."""
    if not algorithm:
        common = {name for part in parts[:1] for name in part.checksums.values} & checksums.OF_WHOLE_OBJECTS
        algorithm, kind = (min(common), checksums.FULL_OBJECT) if common else ("", "")
    known = [
        (digest, part.size)
        for part in parts
        if (value := part.checksums.values.get(algorithm))
        and (digest := checksums.digest_of(algorithm, value)) is not None
    ]
    if not known or len(known) != len(parts):
        return Checksums()
    if kind == checksums.FULL_OBJECT:
        return Checksums({algorithm: checksums.whole_of(algorithm, known)}, kind)
    return Checksums({algorithm: checksums.composite_of(algorithm, [digest for digest, _ in known])}, kind)


async def abort_upload(call: Call) -> Answer:
    """AbortMultipartUpload."""
    call.require("AbortMultipartUpload", "WRITE")
    await call.layer.abort(call.bucket, call.key, call.request.query["uploadId"])
    return nothing()

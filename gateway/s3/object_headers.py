"""The headers of objects: what a client says of one, and what it is told. Pure."""

from __future__ import annotations

import re
from email.utils import formatdate
from functools import lru_cache
from typing import Final
from urllib.parse import parse_qsl

from gateway.s3 import acl, checksums
from gateway.s3.objects import NULL_VERSION, Checksums, Metadata, ObjectInfo, S3Error
from gateway.s3.request import Request, is_text

USER: Final = "x-amz-meta-"
MAX_USER: Final = 2048
STANDARD: Final = "STANDARD"
STORAGE_CLASSES: Final = (
    STANDARD,
    "REDUCED_REDUNDANCY",
    "STANDARD_IA",
    "ONEZONE_IA",
    "INTELLIGENT_TIERING",
    "GLACIER",
    "GLACIER_IR",
    "DEEP_ARCHIVE",
    "EXPRESS_ONEZONE",
    "OUTPOSTS",
)
STORED: Final = (
    "content-type",
    "cache-control",
    "content-disposition",
    "content-encoding",
    "content-language",
    "expires",
)
_TAGGING: Final = "x-amz-tagging"
_RESPONSE: Final = {f"response-{name}": name for name in STORED}
SEALED: Final = {"x-amz-server-side-encryption": "AES256"}
"""Everything on a drive is encrypted."""
_NOT_SERVED: Final = (
    "x-amz-object-lock-",
    "x-amz-server-side-encryption-",
    "x-amz-website-redirect-location",
    "x-amz-copy-source-server-side-encryption-",
    "x-amz-write-offset-bytes",
)


def check_served(request: Request) -> None:
    """`NotImplemented` for a header whose meaning would be lost."""
    for name in request.headers:
        if name.startswith(_NOT_SERVED) and name != "x-amz-server-side-encryption-bucket-key-enabled":
            raise S3Error("NotImplemented", f"The header {name} is not served.")
    sealing = request.headers.get("x-amz-server-side-encryption")
    if sealing is not None and sealing != "AES256":
        if sealing.startswith("aws:kms"):
            raise S3Error("NotImplemented", "Encryption with KMS keys is not served; AES256 is.")
        raise S3Error("InvalidArgument", "The encryption method specified is not supported")


def metadata_of(request: Request, owner: str, users: acl.Users) -> Metadata:
    """The metadata of the object that a request makes. `S3Error`."""
    check_served(request)
    _check_texts(request)
    headers = {name: request.header(name) for name in STORED if name in request.headers}
    if "content-encoding" in headers:
        headers |= _left_coding(headers.pop("content-encoding"))
    user = {
        name.removeprefix(USER): value for name, value in request.headers.items() if name.startswith(USER)
    }
    if "" in user:
        raise S3Error("InvalidArgument", f"{USER} is followed by a name.")
    if sum(len(name) + len(value) for name, value in user.items()) > MAX_USER:
        raise S3Error("MetadataTooLarge", f"The user metadata has more than {MAX_USER} bytes.")
    return Metadata(
        headers=headers,
        user=user,
        tags=tags_of(request.header(_TAGGING)),
        storage_class=storage_class_of(request.header("x-amz-storage-class")),
        acl=acl.asked(request, users) or acl.PRIVATE,
        owner=owner,
    )


def _left_coding(header: str) -> dict[str, str]:
    """The header without what only framed the body."""
    coding = [part.strip() for part in header.split(",")]
    left = ", ".join(part for part in coding if part and part != "aws-chunked")
    return {"content-encoding": left} if left else {}


def _check_texts(request: Request) -> None:
    for name, value in request.headers.items():
        if not is_text(value) and (name.startswith(USER) or name in (*STORED, _TAGGING)):
            raise S3Error("InvalidArgument", f"The header {name} is no UTF-8.")


def storage_class_of(name: str) -> str:
    """As it is kept: empty for the usual one. `S3Error`."""
    if name and name not in STORAGE_CLASSES:
        raise S3Error("InvalidStorageClass", "The storage class you specified is not valid")
    return "" if name == STANDARD else name


def tags_of(header: str) -> dict[str, str]:
    """Those of `x-amz-tagging`. `S3Error`."""
    if not header:
        return {}
    try:
        pairs = parse_qsl(header, keep_blank_values=True, max_num_fields=64)
    except ValueError:
        raise S3Error("InvalidTag", "Too many tags.") from None
    return checked_tags(pairs, most=10)


def checked_tags(pairs: list[tuple[str, str]], most: int) -> dict[str, str]:
    """`InvalidTag` for more than there may be, long ones, a name twice."""
    tags = dict(pairs)
    if len(pairs) > most:
        raise S3Error(
            "InvalidTag" if most == 10 else "BadRequest", f"Object tags cannot be greater than {most}"
        )
    if len(tags) != len(pairs):
        raise S3Error("InvalidTag", "Cannot provide multiple Tags with the same key")
    if any(not 1 <= len(name) <= 128 or len(value) > 256 for name, value in pairs):
        raise S3Error("InvalidTag", "The TagKey or the TagValue you have provided is too long")
    return tags


def headers_of(info: ObjectInfo, request: Request, *, signed: bool, whole: bool) -> dict[str, str]:
    """Of GetObject and HeadObject. `whole`: it is not about a range of it."""
    metadata = info.metadata
    headers = {
        "accept-ranges": "bytes",
        "content-type": "binary/octet-stream",
        **metadata.headers,
        "etag": f'"{info.etag}"',
        "last-modified": http_date(info.last_modified_ns),
        **SEALED,
        **{USER + name: value for name, value in metadata.user.items()},
        **version_header(info.version_id),
    }
    if metadata.storage_class:
        headers["x-amz-storage-class"] = metadata.storage_class
    if metadata.tags:
        headers["x-amz-tagging-count"] = str(len(metadata.tags))
    if whole and wants_checksums(request):
        headers |= checksum_headers(info.checksums)
    if request.query:
        headers |= _overrides(request, signed)
    return headers


def _overrides(request: Request, signed: bool) -> dict[str, str]:
    found = {name: request.query[key] for key, name in _RESPONSE.items() if key in request.query}
    if found and not signed:
        raise S3Error(
            "InvalidRequest", "Request specific response headers cannot be used for anonymous requests."
        )
    for name, value in found.items():
        if re.search(r"[\x00-\x08\x0a-\x1f\x7f]", value):
            raise S3Error("InvalidArgument", f"The value for {name} is not valid.")
    return found


def wants_checksums(request: Request) -> bool:
    """Whether a read is to have them."""
    return request.header("x-amz-checksum-mode").upper() == "ENABLED"


def checksum_headers(made: Checksums) -> dict[str, str]:
    """Those of these checksums."""
    found = {checksums.header_of(name): value for name, value in made.values.items()}
    return {**found, "x-amz-checksum-type": made.kind} if made.kind and found else found


def version_header(version_id: str) -> dict[str, str]:
    """Of a bucket with versioning."""
    return {"x-amz-version-id": version_id} if version_id else {}


def new_version_header(version_id: str) -> dict[str, str]:
    """Of the answer to a change: that it made the version `null` is not told."""
    return {} if version_id == NULL_VERSION else version_header(version_id)


def http_date(time_ns: int) -> str:
    """A time in whole seconds (RFC 9110, 5.6.7)."""
    return _http_date(time_ns // 1_000_000_000)


@lru_cache(maxsize=4096)
def _http_date(second: int) -> str:
    return formatdate(second, usegmt=True)


def byte_range(header: str, size: int) -> tuple[int, int] | None:
    """[start, end) of a `Range` header; None for none, for several, and for one that is not understood (RFC
    9110, 14.2). `InvalidRange`."""
    match = re.fullmatch(r"bytes=(\d{0,18})-(\d{0,18})", header.strip())
    if match is None or match[0] == "bytes=-":
        return None
    if not match[1]:
        start, end = max(size - int(match[2]), 0), size
        if not int(match[2]) or not size:
            raise _unsatisfiable(header, size)
        return start, end
    start = int(match[1])
    end = min(int(match[2]) + 1, size) if match[2] else size
    if match[2] and int(match[2]) < start:
        return None
    if start >= size:
        raise _unsatisfiable(header, size)
    return start, end


def _unsatisfiable(header: str, size: int) -> S3Error:
    return S3Error("InvalidRange", "", {"RangeRequested": header, "ActualObjectSize": str(size)})

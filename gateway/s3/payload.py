"""The body of a request: its framing is taken off, and all that the request says of it is checked.

Invariants:
1. What is checked at the end (length, hash, MD5, checksum, the last signature) is checked before anything of
   the body is visible: `finish` is called by the layer below in the moment before.
2. Chunks that the request calls signed are read with signatures or not at all. An unsigned body with trailers
   is taken from a request whose head is signed by header, and from an anonymous request, which may do only
   what a policy lets everybody do.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Final

from gateway.http import Receive
from gateway.s3 import aws_chunked, checksums
from gateway.s3.aws_chunked import AwsChunkedDecoder, Chain
from gateway.s3.objects import Checksums, S3Error
from gateway.s3.request import Request, whole_number
from gateway.s3.signature import UNSIGNED, Verified

DEFAULT_ALGORITHM: Final = "CRC64NVME"
_NOT_VALUES: Final = ("algorithm", "type", "mode")


class Payload:
    """`size`: of the data, as far as it is known before. `may_stream`: the operation takes an object's bytes.
    `algorithm`: to be computed if the request names none. `is_summed`: a checksum in the headers is that of
    the body. `S3Error`."""

    def __init__(
        self,
        request: Request,
        verified: Verified | None,
        receive: Receive,
        *,
        may_stream: bool,
        algorithm: str = "",
        is_summed: bool = True,
    ) -> None:
        self._request = request
        self._receive = receive
        self._mode = (
            verified.claim.payload if verified else request.header("x-amz-content-sha256") or UNSIGNED
        )
        self._decoder = self._new_decoder(verified, may_stream)
        self.size = self._size()
        self._md5 = _md5_of(request)
        self._named = _named_checksum(request) if is_summed else ("", None)
        self._algorithm = self._named[0] or algorithm
        self._running = checksums.new(self._algorithm) if self._algorithm else None
        hashed = self._mode != UNSIGNED and not self._mode.startswith("STREAMING-")
        self._hash = hashlib.sha256() if hashed else None

    def _new_decoder(self, verified: Verified | None, may_stream: bool) -> AwsChunkedDecoder | None:
        streaming = self._mode.startswith("STREAMING-")
        header = self._request.header
        if not streaming and (
            "aws-chunked" not in header("content-encoding") or header("content-length") == "0"
        ):
            return None
        if not may_stream:
            raise S3Error("InvalidRequest", "This operation takes no aws-chunked body.")
        if not streaming:
            return AwsChunkedDecoder(chain=None, with_trailers=True)
        if self._mode not in aws_chunked.MODES:
            raise S3Error("NotImplemented", f"Bodies of the form {self._mode} are not served.")
        if verified is not None and verified.claim.expires is not None:
            raise S3Error("AccessDenied", "A presigned request takes no STREAMING- body.")
        if self._mode == aws_chunked.UNSIGNED_TRAILER:
            return AwsChunkedDecoder(chain=None, with_trailers=True)
        if verified is None:
            raise S3Error("AccessDenied", "A body with signed chunks belongs to a signed request.")
        claim = verified.claim
        chain = Chain(verified.signing_key, claim.stamp, str(claim.scope), claim.signature)
        return AwsChunkedDecoder(chain=chain, with_trailers=self._mode == aws_chunked.SIGNED_TRAILER)

    def _size(self) -> int | None:
        if self._decoder is None:
            return _length(self._request, "content-length")
        size = _length(self._request, "x-amz-decoded-content-length")
        streaming = self._mode.startswith("STREAMING-")
        if size is None and (streaming or not self._request.header("transfer-encoding")):
            message = "An aws-chunked body needs x-amz-decoded-content-length."
            raise S3Error("MissingContentLength", message)
        return size

    def require_algorithm(self, algorithm: str) -> None:
        """`InvalidRequest` if the request names another one than this, which is empty for any."""
        if algorithm and self._named[0] not in ("", algorithm):
            raise S3Error(
                "InvalidRequest",
                f"Checksum Type mismatch occurred, expected checksum Type: {algorithm.lower()}, actual "
                f"checksum Type: {self._named[0].lower()}",
            )

    async def pieces(self) -> AsyncGenerator[bytes | memoryview, None]:
        """The data. `S3Error` as soon as something is wrong."""
        more = True
        while more:
            message = await self._receive()
            more = message["more_body"]
            data = memoryview(message["body"])
            if self._hash is not None:
                self._hash.update(data)
            for piece in (data,) if self._decoder is None else self._decoder.feed(data):
                if self._running is not None:
                    self._running.update(piece)
                if len(piece):
                    yield piece
        if self._decoder is not None:
            self._decoder.finish()

    def finish(self, md5: str) -> Checksums:
        """All is there, with this MD5 in hex: the checksum that is to be kept. `S3Error`."""
        if self._hash is not None and self._hash.hexdigest() != self._mode.lower():
            raise S3Error("XAmzContentSHA256Mismatch")
        if self._md5 is not None and self._md5.hex() != md5:
            raise S3Error("BadDigest")
        if self._running is None:
            return Checksums()
        got = checksums.text_of(self._running.digest())
        expected = self._expected()
        if expected is not None and expected != got:
            message = f"The {self._algorithm} you specified did not match the calculated checksum."
            raise S3Error("BadDigest", message)
        return Checksums({self._algorithm: got}, checksums.FULL_OBJECT)

    def _expected(self) -> str | None:
        algorithm, value = self._named
        if algorithm and value is None:
            trailers = {} if self._decoder is None else self._decoder.trailers
            value = trailers.get(checksums.header_of(algorithm))
            if value is None:
                raise S3Error("MalformedTrailerError", "The trailer that was announced did not come.")
        return value

    async def document(self, limit: int) -> bytes:
        """All of it, for operations whose body is a document."""
        if self.size is not None and self.size > limit:
            raise S3Error("MaxMessageLengthExceeded", "Your request was too big.")
        data = bytearray()
        async with aclosing(self.pieces()) as pieces:
            async for piece in pieces:
                data += piece
                if len(data) > limit:
                    raise S3Error("MaxMessageLengthExceeded", "Your request was too big.")
        if self.size is not None and len(data) != self.size:
            raise S3Error("IncompleteBody")
        self.finish(hashlib.md5(data, usedforsecurity=False).hexdigest() if self._md5 else "")
        return bytes(data)


def _length(request: Request, name: str) -> int | None:
    value = request.header(name)
    if not value:
        return None
    found = whole_number(value)
    if found is None:
        raise S3Error("InvalidArgument", f"{name} is no length.")
    return found


def _md5_of(request: Request) -> bytes | None:
    if "content-md5" not in request.headers:
        return None
    try:
        digest = base64.b64decode(request.header("content-md5"), validate=True)
    except (binascii.Error, ValueError):
        digest = b""
    if len(digest) != 16:
        raise S3Error("InvalidDigest")
    return digest


def _named_checksum(request: Request) -> tuple[str, str | None]:
    """The algorithm whose checksum the request has, and its value, which is None if it comes in a trailer."""
    trailers = [name.strip().lower() for name in request.header("x-amz-trailer").split(",")]
    found: dict[str, str | None] = {
        name: request.header(name) or None
        for name in (*request.headers, *trailers)
        if name.startswith(checksums.PREFIX) and name.removeprefix(checksums.PREFIX) not in _NOT_VALUES
    }
    if len(found) > 1:
        raise S3Error("InvalidRequest", "Expecting a single x-amz-checksum- header.")
    for name, value in found.items():
        return known_algorithm(name.removeprefix(checksums.PREFIX)), _valid(name, value)
    if "x-amz-sdk-checksum-algorithm" in request.headers:
        known_algorithm(request.header("x-amz-sdk-checksum-algorithm"))
        if request.method == "PUT" or "delete" in request.query:
            raise S3Error(
                "InvalidRequest",
                "x-amz-sdk-checksum-algorithm specified, but no corresponding x-amz-checksum-* or "
                "x-amz-trailer headers were found.",
            )
    return "", None


def known_algorithm(name: str) -> str:
    """The algorithm as the API writes it. `S3Error` for one that is not known."""
    if name.upper() not in checksums.ALGORITHMS:
        raise S3Error("InvalidRequest", f"Checksum algorithm provided is unsupported: {name}.")
    return name.upper()


def _valid(name: str, value: str | None) -> str | None:
    algorithm = name.removeprefix(checksums.PREFIX).upper()
    if value is not None and checksums.digest_of(algorithm, value) is None:
        raise S3Error("BadDigest", f"Value for {name} header is invalid.")
    return value

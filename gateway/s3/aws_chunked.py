"""The framing `aws-chunked` of bodies: chunks with their sizes, perhaps their signatures, perhaps trailers.

Source: AWS, "Signature Calculations for the Authorization Header: Transferring Payload in Multiple Chunks",
also "... Including Trailing Headers". A body:

    SIZE[;chunk-signature=HEX]CRLF DATA CRLF ... 0[;chunk-signature=HEX]CRLF [NAME:VALUE CRLF ...] CRLF

A signature binds its chunk to all before it; the first one to the request's. Pure, incremental: however the
bytes are cut into pieces, the data, the trailers and the error are the same.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from gateway.s3.objects import S3Error

SIGNED: Final = "STREAMING-AWS4-HMAC-SHA256-PAYLOAD"
SIGNED_TRAILER: Final = "STREAMING-AWS4-HMAC-SHA256-PAYLOAD-TRAILER"
UNSIGNED_TRAILER: Final = "STREAMING-UNSIGNED-PAYLOAD-TRAILER"
MODES: Final = (SIGNED, SIGNED_TRAILER, UNSIGNED_TRAILER)

MAX_LINE: Final = 1024
MAX_TRAILERS: Final = 16
_HEAD: Final = re.compile(rb"([0-9a-fA-F]{1,12})(?:;chunk-signature=([0-9a-f]{64}))?")
_NOTHING: Final = hashlib.sha256().hexdigest()
_TRAILER_SIGNATURE: Final = "x-amz-trailer-signature"


@dataclass(slots=True)
class Chain:
    """The chain of signatures: `previous` begins as the request's own."""

    signing_key: bytes
    stamp: str
    scope: str
    previous: str

    def check(self, signature: str, data_hash: str) -> None:
        """The next chunk's. `S3Error`."""
        self._check(signature, "AWS4-HMAC-SHA256-PAYLOAD", f"{_NOTHING}\n{data_hash}")

    def check_trailers(self, signature: str, lines_hash: str) -> None:
        """The trailers'. `S3Error`."""
        self._check(signature, "AWS4-HMAC-SHA256-TRAILER", lines_hash)

    def _check(self, signature: str, kind: str, what: str) -> None:
        to_sign = f"{kind}\n{self.stamp}\n{self.scope}\n{self.previous}\n{what}"
        good = hmac.digest(self.signing_key, to_sign.encode(), "sha256").hex()
        if not hmac.compare_digest(good.encode(), signature.encode()):
            raise S3Error("SignatureDoesNotMatch", "The signature of a chunk of the body does not match.")
        self.previous = good


class AwsChunkedDecoder:
    """Give it the body by `feed`, then call `finish`. `chain`: None if chunks are not signed."""

    def __init__(self, *, chain: Chain | None, with_trailers: bool) -> None:
        self.trailers: dict[str, str] = {}
        self._chain = chain
        self._with_trailers = with_trailers
        self._line = bytearray()
        self._left = 0
        self._state = self._head
        self._signature = ""
        self._hash = hashlib.sha256()

    def feed(self, data: bytes | memoryview) -> Iterator[memoryview]:
        """The data in these bytes; to be run to its end before the next call. `S3Error`."""
        view = memoryview(data)
        while len(view):
            if self._state == self._data:
                piece, view = view[: self._left], view[self._left :]
                yield self._take(piece)
            else:
                view = self._take_line(view)

    def finish(self) -> None:
        """`S3Error` (`IncompleteBody`) unless the framing has come to its end."""
        if self._state != self._end:
            raise S3Error("IncompleteBody", "The body ends in the middle of its chunks.")

    def _take(self, piece: memoryview) -> memoryview:
        self._left -= len(piece)
        if self._chain is not None:
            self._hash.update(piece)
        if not self._left:
            self._state = self._after_data
        return piece

    def _take_line(self, view: memoryview) -> memoryview:
        """Add to the line up to its end, and look at it then."""
        if self._state == self._end:
            raise _malformed("there is more behind its end")
        chunk = bytes(view[: MAX_LINE + 2])
        if self._line.endswith(b"\r") and chunk.startswith(b"\n"):
            taken = 1
        else:
            at = chunk.find(b"\r\n")
            taken = at + 2 if at >= 0 else len(chunk)
        self._line += chunk[:taken]
        if len(self._line) > MAX_LINE + 2:
            raise _malformed("a line is too long")
        if self._line.endswith(b"\r\n"):
            line = bytes(self._line[:-2])
            self._line.clear()
            self._state(line)
        return view[taken:]

    def _head(self, line: bytes) -> None:
        match = _HEAD.fullmatch(line)
        if match is None:
            raise _malformed("a chunk's head is no size with its signature")
        self._left, signature = int(match[1], 16), match[2]
        if self._chain is not None and signature is None:
            raise S3Error("SignatureDoesNotMatch", "A chunk of the body is not signed.")
        self._signature = (signature or b"").decode()
        self._hash = hashlib.sha256()
        if self._left:
            self._state = self._data
        else:
            self._check_chunk()
            self._state = self._trailer

    def _data(self, line: bytes) -> None:
        raise AssertionError("data is no line")

    def _after_data(self, line: bytes) -> None:
        if line:
            raise _malformed("a chunk is longer than it says")
        self._check_chunk()
        self._state = self._head

    def _check_chunk(self) -> None:
        if self._chain is not None:
            self._chain.check(self._signature, self._hash.hexdigest())

    def _trailer(self, line: bytes) -> None:
        if not line:
            self._check_trailers()
            self._state = self._end
            return
        name, colon, value = line.decode("utf-8", "replace").partition(":")
        if not colon or not self._with_trailers or len(self.trailers) >= MAX_TRAILERS:
            raise S3Error("MalformedTrailerError", "The trailers of the body are not well-formed.")
        self.trailers[name.strip().lower()] = value.strip()

    def _check_trailers(self) -> None:
        if self._chain is None or not self._with_trailers:
            return
        signature = self.trailers.pop(_TRAILER_SIGNATURE, "")
        lines = "".join(f"{name}:{value}\n" for name, value in sorted(self.trailers.items()))
        self._chain.check_trailers(signature, hashlib.sha256(lines.encode()).hexdigest())

    def _end(self, line: bytes) -> None:
        raise AssertionError("nothing follows the end")


def _malformed(why: str) -> S3Error:
    return S3Error("InvalidRequest", f"The body is not well-formed aws-chunked: {why}.")

"""The framing of bodies: AWS's examples, any cut into pieces, and all that must be refused."""

from __future__ import annotations

import hashlib
import hmac
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.s3.aws_chunked import AwsChunkedDecoder, Chain
from gateway.s3.objects import S3Error
from gateway.s3.signature import signing_key
from tests.unit.gateway.s3.signing import SECRET

STAMP, SCOPE = "20130524T000000Z", "20130524/us-east-1/s3/aws4_request"
SEED = "4f232c4386841ef735655705268965c44a0e4690baa4adea153f7db9fa80a0a9"
KEY = signing_key(SECRET, "20130524", "us-east-1")


def chain(seed: str = SEED) -> Chain:
    return Chain(KEY, STAMP, SCOPE, seed)


def sign(kind: str, previous: str, what: str) -> str:
    text = f"AWS4-HMAC-SHA256-{kind}\n{STAMP}\n{SCOPE}\n{previous}\n{what}"
    return hmac.digest(KEY, text.encode(), "sha256").hex()


def framed(chunks: list[bytes], trailers: dict[str, str] | None = None, *, is_signed: bool = True) -> bytes:
    """The body as a client makes it."""
    previous, body = SEED, b""
    for chunk in [*chunks, b""]:
        head = f"{len(chunk):x}"
        if is_signed:
            empty, own = hashlib.sha256().hexdigest(), hashlib.sha256(chunk).hexdigest()
            previous = sign("PAYLOAD", previous, f"{empty}\n{own}")
            head += f";chunk-signature={previous}"
        body += head.encode() + b"\r\n" + (chunk + b"\r\n" if chunk else b"")
    lines = "".join(f"{name}:{value}\n" for name, value in sorted((trailers or {}).items()))
    body += lines.replace("\n", "\r\n").encode()
    if is_signed and trailers is not None:
        own = hashlib.sha256(lines.encode()).hexdigest()
        body += f"x-amz-trailer-signature:{sign('TRAILER', previous, own)}\r\n".encode()
    return body + b"\r\n"


def decoded(pieces: list[bytes], decoder: AwsChunkedDecoder) -> tuple[bytes, dict[str, str]] | str:
    """Data and trailers, or the error's code."""
    data = b""
    try:
        for piece in pieces:
            for part in decoder.feed(piece):
                data += part
        decoder.finish()
    except S3Error as error:
        return error.code
    return data, decoder.trailers


def decoder_for(*, is_signed: bool, with_trailers: bool) -> AwsChunkedDecoder:
    return AwsChunkedDecoder(chain=chain() if is_signed else None, with_trailers=with_trailers)


def test_the_example_of_aws() -> None:
    """ "Transferring Payload in Multiple Chunks": 66,560 times the letter a."""
    signatures = (
        (65536, "ad80c730a21e5b8d04586a2213dd63b9a0e99e0e2307b0ade35a65485a288648"),
        (1024, "0055627c9e194cb4542bae2aa5492e3c1575bbb81b612b7d234b86a503ef5497"),
        (0, "b6c6ea8a5354eaf15b3cb7646744f4275b71ea724fed81ceb9323e279d449df9"),
    )
    body = b"".join(
        f"{size:x};chunk-signature={signature}\r\n".encode() + b"a" * size + b"\r\n"
        for size, signature in signatures
    )
    decoder = decoder_for(is_signed=True, with_trailers=False)
    assert decoded([body], decoder) == (b"a" * 66560, {})
    assert framed([b"a" * 65536, b"a" * 1024]) == body


def test_the_example_of_aws_with_a_trailer() -> None:
    """ "... Including Trailing Headers"."""
    seed = "106e2a8a18243abcf37539882f36619c00e2dfc72633413f02d3b74544bfeb8e"
    signatures = (
        (65536, "b474d8862b1487a5145d686f57f013e54db672cee1c953b3010fb58501ef5aa2"),
        (1024, "1c1344b170168f8e65b41376b44b20fe354e373826ccbbe2c1d40a8cae51e5c7"),
        (0, "2ca2aba2005185cf7159c6277faf83795951dd77a3a99e6e65d5c9f85863f992"),
    )
    body = b"".join(
        f"{size:x};chunk-signature={signature}\r\n".encode() + (b"a" * size + b"\r\n" if size else b"")
        for size, signature in signatures
    )
    body += b"x-amz-checksum-crc32c:sOO8/Q==\r\n"
    body += (
        b"x-amz-trailer-signature:d81f82fc3505edab99d459891051a732e8730629a2e4a59689829ca17fe2e435\r\n\r\n"
    )
    decoder = AwsChunkedDecoder(chain=chain(seed), with_trailers=True)
    assert decoded([body], decoder) == (b"a" * 66560, {"x-amz-checksum-crc32c": "sOO8/Q=="})


@given(st.lists(st.binary(min_size=1, max_size=60), max_size=4), st.booleans(), st.booleans(), st.data())
def test_any_cut_into_pieces_gives_the_same(
    chunks: list[bytes], is_signed: bool, with_trailers: bool, data: st.DataObject
) -> None:
    trailers = {"x-amz-checksum-crc32": "AAAAAA=="} if with_trailers else None
    body = bytearray(framed(chunks, trailers, is_signed=is_signed))
    if data.draw(st.booleans()):
        body[data.draw(st.integers(0, len(body) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    if data.draw(st.booleans()):
        del body[data.draw(st.integers(0, len(body))) :]
    cuts = sorted(data.draw(st.lists(st.integers(0, len(body)))))
    pieces = [bytes(body[start:end]) for start, end in pairwise([0, *cuts, len(body)])]
    at_once = decoded([bytes(body)], decoder_for(is_signed=is_signed, with_trailers=with_trailers))
    in_pieces = decoded(pieces, decoder_for(is_signed=is_signed, with_trailers=with_trailers))
    assert in_pieces == at_once
    if bytes(body) == framed(chunks, trailers, is_signed=is_signed):
        assert at_once == (b"".join(chunks), trailers or {})


@given(st.data())
def test_a_flipped_bit_of_what_is_signed_is_never_taken(data: st.DataObject) -> None:
    chunks, trailers = [b"first chunk", b"second"], {"x-amz-checksum-crc32": "AAAAAA=="}
    body = bytearray(framed(chunks, trailers))
    body[data.draw(st.integers(0, len(body) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    answer = decoded([bytes(body)], decoder_for(is_signed=True, with_trailers=True))
    # The case of a size's digits and of a trailer's name says nothing.
    assert isinstance(answer, str) or answer == (b"".join(chunks), trailers)


def test_a_flipped_byte_and_a_chunk_in_another_place_are_403() -> None:
    body = framed([b"one", b"two"])
    for bad in (body.replace(b"one", b"onf"), body.replace(b"chunk-signature=", b"chunk-signature=0", 1)):
        assert decoded([bad], decoder_for(is_signed=True, with_trailers=False)) in (
            "SignatureDoesNotMatch",
            "InvalidRequest",
        )
    first, second, last = body.split(b"3;")[0], body.split(b"3;")[1], body.split(b"3;")[2]
    swapped = first + b"3;" + last.partition(b"0;")[0] + b"3;" + second + b"0;" + last.partition(b"0;")[2]
    assert decoded([swapped], decoder_for(is_signed=True, with_trailers=False)) == "SignatureDoesNotMatch"


def test_a_chunk_without_signature_is_refused_where_they_are_signed() -> None:
    body = framed([b"one"], is_signed=False)
    assert decoded([body], decoder_for(is_signed=True, with_trailers=False)) == "SignatureDoesNotMatch"


def test_trailers_without_their_signature_are_refused() -> None:
    body = framed([b"one"], {"x-amz-checksum-crc32": "AAAAAA=="}).partition(b"x-amz-trailer-signature")[0]
    assert (
        decoded([body + b"\r\n"], decoder_for(is_signed=True, with_trailers=True)) == "SignatureDoesNotMatch"
    )


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"", "IncompleteBody"),
        (b"3\r\nab", "IncompleteBody"),
        (b"3\r\nabc\r\n0\r\n", "IncompleteBody"),
        (b"3\r\nabcd\r\n0\r\n\r\n", "InvalidRequest"),
        (b"-3\r\nabc\r\n0\r\n\r\n", "InvalidRequest"),
        (b"0x3\r\nabc\r\n0\r\n\r\n", "InvalidRequest"),
        (b"3 \r\nabc\r\n0\r\n\r\n", "InvalidRequest"),
        (b"\r\n", "InvalidRequest"),
        (b"f" * 2000, "InvalidRequest"),
        (b"ffffffffffffff\r\n", "InvalidRequest"),
        (b"0\r\n\r\nmore", "InvalidRequest"),
        (b"0\r\nno colon\r\n\r\n", "MalformedTrailerError"),
        (
            b"0\r\n" + b"a:b\r\n" + b"".join(b"a%d:b\r\n" % n for n in range(20)) + b"\r\n",
            "MalformedTrailerError",
        ),
    ],
)
def test_malformed(body: bytes, code: str) -> None:
    assert decoded([body], decoder_for(is_signed=False, with_trailers=True)) == code


def test_a_trailer_where_none_belongs_is_refused() -> None:
    body = framed([b"one"], {"x-amz-checksum-crc32": "AAAAAA=="}, is_signed=False)
    assert decoded([body], decoder_for(is_signed=False, with_trailers=False)) == "MalformedTrailerError"

"""The checksums: their check values, and that those of parts make that of the whole."""

from __future__ import annotations

import base64
import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.s3 import checksums

CHECK = {"CRC32": "cbf43926", "CRC32C": "e3069283", "CRC64NVME": "ae8b14860a799888"}
"""Of the nine digits (the catalogue of parametrised CRC algorithms)."""


@pytest.mark.parametrize("algorithm", checksums.ALGORITHMS)
def test_check_values(algorithm: str) -> None:
    running = checksums.new(algorithm)
    for piece in (b"1234", memoryview(b"56789")):
        running.update(piece)
    good = CHECK.get(algorithm) or hashlib.new(algorithm.lower(), b"123456789").hexdigest()
    assert running.digest().hex() == good
    text = checksums.text_of(running.digest())
    assert checksums.digest_of(algorithm, text) == running.digest()


@pytest.mark.parametrize("algorithm", sorted(checksums.OF_WHOLE_OBJECTS))
@given(st.lists(st.binary(max_size=40), max_size=5))
def test_the_whole_is_combined_of_parts(algorithm: str, parts: list[bytes]) -> None:
    whole, digests = checksums.new(algorithm), []
    for part in parts:
        whole.update(part)
        own = checksums.new(algorithm)
        own.update(part)
        digests.append((own.digest(), len(part)))
    assert checksums.whole_of(algorithm, digests) == checksums.text_of(whole.digest())


def test_a_composite_one() -> None:
    digests = [hashlib.sha256(b"a").digest(), hashlib.sha256(b"b").digest()]
    good = base64.b64encode(hashlib.sha256(b"".join(digests)).digest()).decode()
    assert checksums.composite_of("SHA256", digests) == f"{good}-2"


@pytest.mark.parametrize("text", ["", "nonsense", "AAAA", "AAAAAA=", "AAAAAA==x", "é"])
def test_what_is_no_checksum(text: str) -> None:
    assert checksums.digest_of("CRC32", text) is None

"""The records of the S3 door: what is encoded is decoded, and nothing else is."""

from __future__ import annotations

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from backend.errors import FormatError
from gateway.s3.objects import Checksums, Metadata, ObjectPart, S3Error
from gateway.s3.objects.record import (
    BucketRecord,
    Record,
    UploadRecord,
    decode,
    decode_bucket,
    decode_parts,
    decode_upload,
    decoded,
    encode,
    encode_bucket,
    encode_parts,
    encode_upload,
)

TABLES = st.dictionaries(st.text(max_size=10), st.text(max_size=10), max_size=4)
NUMBERS = st.integers(0, (1 << 63) - 1)
METADATA = st.builds(Metadata, TABLES, TABLES, TABLES, st.text(), st.text(), st.text())
CHECKSUMS = st.builds(Checksums, TABLES, st.sampled_from(["", "FULL_OBJECT", "COMPOSITE"]))
RECORDS = st.builds(
    Record, st.text(), NUMBERS, NUMBERS, st.text(), st.booleans(), METADATA, CHECKSUMS, NUMBERS, st.text()
)
BUCKETS = st.builds(
    BucketRecord, NUMBERS, st.text(), st.text(), st.sampled_from(["", "Enabled", "Suspended"])
)


@given(RECORDS)
def test_of_an_object(record: Record) -> None:
    data = encode(record)
    assert decoded(data) == record
    assert decode(data) == record


def test_the_records_that_were_used_last_are_remembered_and_no_others() -> None:
    records = [Record(f"etag {number}", number, 0) for number in range(5000)]
    first, *others = [encode(record) for record in records]
    assert decode(others[-1]) is records[-1]
    assert decode(others[-4000]) is records[-4000]
    again = decode(first)
    assert again == records[0]
    assert again is not records[0]
    assert decode(first) is again


def test_a_large_record_is_not_remembered() -> None:
    record = Record("e" * 2000, 1, 0)
    assert decode(encode(record)) is not record
    assert decode(encode(record)) == record


@given(BUCKETS)
def test_of_a_bucket(record: BucketRecord) -> None:
    assert decode_bucket(encode_bucket(record)) == record


@given(st.builds(UploadRecord, st.binary(), NUMBERS, st.text(), st.text(), RECORDS))
def test_of_an_upload(record: UploadRecord) -> None:
    assert decode_upload(encode_upload(record)) == record


@given(st.lists(st.builds(ObjectPart, NUMBERS, NUMBERS, TABLES.map(lambda values: Checksums(values, "k")))))
def test_of_parts(parts: list[ObjectPart]) -> None:
    assert decode_parts(encode_parts(parts)) == parts


@given(st.binary(max_size=60))
def test_other_bytes_are_refused(data: bytes) -> None:
    for each in (decode, decode_bucket, decode_upload, decode_parts):
        with pytest.raises(FormatError):
            each(data)


@given(RECORDS, st.data())
def test_a_changed_field_is_refused_or_another_record(record: Record, data: st.DataObject) -> None:
    items = msgpack.unpackb(encode(record))
    place = data.draw(st.integers(0, len(items) - 1))
    items[place] = data.draw(st.sampled_from([None, 1.5, [1], {"a": 1}, {1: "a"}, b"x"]))
    with pytest.raises(FormatError):
        decode(msgpack.packb(items))
    with pytest.raises(FormatError):
        decode(msgpack.packb(items[:-1]))


def test_another_version_is_refused() -> None:
    items = msgpack.unpackb(encode(Record("", 0, 0)))
    with pytest.raises(FormatError):
        decode(msgpack.packb([2, *items[1:]]))


def test_too_much_is_refused() -> None:
    with pytest.raises(S3Error, match="too large"):
        encode(Record("", 0, 0, metadata=Metadata(user={"k": "v" * (64 << 10)})))

"""Multipart uploads as clients see them: boto3 over a real socket."""

from __future__ import annotations

from typing import Any

from tests.contents import content
from tests.unit.gateway.s3.doors import body, refused

MIB = 1 << 20
PART = 5 * MIB


def test_multipart(s3: Any, bucket: str) -> None:
    data = content("half-compressible", 2 * PART + 1000, 1)
    upload = s3.create_multipart_upload(
        Bucket=bucket, Key="m", ChecksumAlgorithm="CRC32C", ChecksumType="FULL_OBJECT"
    )
    named = {"Bucket": bucket, "Key": "m", "UploadId": upload["UploadId"]}
    pieces = [data[at : at + PART] for at in range(0, len(data), PART)]
    parts = []
    for number, piece in enumerate(pieces, 1):
        got = s3.upload_part(**named, PartNumber=number, Body=piece, ChecksumAlgorithm="CRC32C")
        parts.append({"PartNumber": number, "ETag": got["ETag"], "ChecksumCRC32C": got["ChecksumCRC32C"]})
    assert [part["Size"] for part in s3.list_parts(**named)["Parts"]] == list(map(len, pieces))
    assert [each["Key"] for each in s3.list_multipart_uploads(Bucket=bucket)["Uploads"]] == ["m"]
    done = s3.complete_multipart_upload(**named, MultipartUpload={"Parts": parts})
    again = s3.complete_multipart_upload(**named, MultipartUpload={"Parts": parts})
    whole = s3.put_object(Bucket=bucket, Key="w", Body=data, ChecksumAlgorithm="CRC32C")
    assert done["ETag"] == again["ETag"]
    assert done["ETag"].endswith('-3"')
    assert done["ChecksumCRC32C"] == whole["ChecksumCRC32C"]
    assert body(s3.get_object(Bucket=bucket, Key="m")) == data
    part = s3.get_object(Bucket=bucket, Key="m", PartNumber=2)
    assert (body(part), part["PartsCount"]) == (pieces[1], 3)
    found = s3.get_object_attributes(
        Bucket=bucket, Key="m", ObjectAttributes=["ObjectParts", "ObjectSize", "Checksum"]
    )
    assert (found["ObjectParts"]["TotalPartsCount"], found["ObjectSize"]) == (3, len(data))


def test_a_multipart_copy_and_an_abort(s3: Any, bucket: str) -> None:
    data = content("random", PART + 10, 1)
    s3.put_object(Bucket=bucket, Key="source", Body=data)
    named = {
        "Bucket": bucket,
        "Key": "m",
        "UploadId": s3.create_multipart_upload(Bucket=bucket, Key="m")["UploadId"],
    }
    ranges = (f"bytes=0-{PART - 1}", f"bytes={PART}-{PART + 9}")
    parts = []
    for number, asked in enumerate(ranges, 1):
        got = s3.upload_part_copy(
            **named, PartNumber=number, CopySource=f"{bucket}/source", CopySourceRange=asked
        )
        parts.append({"PartNumber": number, "ETag": got["CopyPartResult"]["ETag"]})
    s3.complete_multipart_upload(**named, MultipartUpload={"Parts": parts})
    assert body(s3.get_object(Bucket=bucket, Key="m")) == data
    upload = s3.create_multipart_upload(Bucket=bucket, Key="m")["UploadId"]
    s3.abort_multipart_upload(Bucket=bucket, Key="m", UploadId=upload)
    with refused("NoSuchUpload", 404):
        s3.list_parts(Bucket=bucket, Key="m", UploadId=upload)


def test_a_part_before_the_last_that_is_too_small(s3: Any, bucket: str) -> None:
    named = {"Bucket": bucket, "Key": "m"}
    named["UploadId"] = s3.create_multipart_upload(**named)["UploadId"]
    parts = [
        {"PartNumber": number, "ETag": s3.upload_part(**named, PartNumber=number, Body=bytes(size))["ETag"]}
        for number, size in ((1, PART - 1), (2, 1))
    ]
    with refused("EntityTooSmall", 400):
        s3.complete_multipart_upload(**named, MultipartUpload={"Parts": parts})
    s3.complete_multipart_upload(**named, MultipartUpload={"Parts": parts[:1]})
    assert s3.head_object(Bucket=bucket, Key="m")["ContentLength"] == PART - 1

"""A large object through the S3 door, at once and in parts: its rate, and the most memory that the door had.

    python -m bench.s3_large FOLDER [--gib N] [--part-mib N]

FOLDER is empty. The object is random, so that none of it is found again. It is put in one request, and
another one in parts, four at a time, and both are read. Each row says seconds, MiB a second, and the most
memory that the door's process had resident meanwhile (VmHWM of proc(5), begun anew for each row).
"""

from __future__ import annotations

import argparse
import http.client
import os
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import boto3
from botocore.config import Config

from bench.s3_door import ROOT, Candidate, door

BUCKET: Final = "large"
MIB: Final = 1 << 20


class RandomBytes:
    """A file of so many random bytes."""

    def __init__(self, size: int) -> None:
        self._left = size

    def read(self, size: int = -1) -> bytes:
        """The next of them."""
        size = self._left if size < 0 else min(size, self._left)
        self._left -= size
        return os.urandom(size)


def peak_mib(process: int) -> int:
    """The most that was resident since `forget_peak`."""
    lines = Path(f"/proc/{process}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) >> 10


def measure(name: str, process: int, size: int, work: Callable[[], None]) -> None:
    """A row."""
    Path(f"/proc/{process}/clear_refs").write_text("5")
    began = time.perf_counter()
    work()
    seconds = time.perf_counter() - began
    rate = size / MIB / seconds
    print(f"{name:10s} {seconds:8.1f} s {rate:8.0f} MiB/s {peak_mib(process):8,} MiB", flush=True)


def put(s3: Any, size: int) -> None:
    """In one request, presigned: the bytes are made while they are sent."""
    url = urlsplit(s3.generate_presigned_url("put_object", {"Bucket": BUCKET, "Key": "whole"}))
    connection = http.client.HTTPConnection(url.netloc, blocksize=MIB)
    connection.request("PUT", f"{url.path}?{url.query}", RandomBytes(size), {"Content-Length": str(size)})
    answer = connection.getresponse()
    if answer.status != http.client.OK:
        raise SystemExit(answer.read().decode())
    connection.close()


def put_in_parts(s3: Any, size: int, part: int) -> None:
    """Four at a time."""
    upload = s3.create_multipart_upload(Bucket=BUCKET, Key="parts")["UploadId"]
    numbers: Iterator[int] = iter(range(1, size // part + 1))
    lock, done = threading.Lock(), {}

    def send() -> None:
        while True:
            with lock:
                number = next(numbers, 0)
            if not number:
                return
            answer = s3.upload_part(
                Bucket=BUCKET, Key="parts", UploadId=upload, PartNumber=number, Body=os.urandom(part)
            )
            done[number] = answer["ETag"]

    with ThreadPoolExecutor(4) as pool:
        for sending in [pool.submit(send) for _ in range(4)]:
            sending.result()
    parts = [{"PartNumber": number, "ETag": done[number]} for number in sorted(done)]
    s3.complete_multipart_upload(
        Bucket=BUCKET, Key="parts", UploadId=upload, MultipartUpload={"Parts": parts}
    )


def get(s3: Any, key: str, size: int) -> None:
    """All of it."""
    body = s3.get_object(Bucket=BUCKET, Key=key)["Body"]
    got = sum(map(len, iter(lambda: body.read(MIB), b"")))
    assert got == size, got


def measure_all(candidate: Candidate, size: int, part: int) -> None:
    """All rows."""
    s3 = boto3.client(
        "s3",
        endpoint_url=f"http://127.0.0.1:{candidate.client.port}",
        aws_access_key_id=candidate.client.key_id,
        aws_secret_access_key=candidate.client.secret,
        region_name="us-east-1",
        config=Config(
            signature_version="s3v4",
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
            retries={"max_attempts": 1},
            read_timeout=600,
        ),
    )
    s3.create_bucket(Bucket=BUCKET)
    process = candidate.process
    print(f"{'':10s} at rest {'':21s} {peak_mib(process):8,} MiB")
    measure("PUT", process, size, lambda: put(s3, size))
    measure("GET", process, size, lambda: get(s3, "whole", size))
    measure("parts", process, size, lambda: put_in_parts(s3, size, part))
    measure("GET", process, size, lambda: get(s3, "parts", size))


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--gib", type=float, default=5)
    parser.add_argument("--part-mib", type=int, default=64)
    options = parser.parse_args()
    part = options.part_mib * MIB
    size = int(options.gib * 1024) * MIB // part * part
    with door("drivefs", ROOT, options.folder / "drivefs") as candidate:
        measure_all(candidate, size, part)


if __name__ == "__main__":
    main()

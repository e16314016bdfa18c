"""The S3 door of a mount: what one side writes the other reads, and both end together."""

from __future__ import annotations

import json
import os
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import boto3
import httpx
import pytest
from botocore.config import Config

from gateway.control_address import within_reach
from tests.contents import KINDS, content
from tests.mount.conftest import drive, fuse, unmade_drive
from tests.mount.mounted import MountedDrive, succeed
from tests.servers import free_ports

__all__ = ["drive", "fuse", "unmade_drive"]

pytestmark = pytest.mark.mount


def client_of(drive: MountedDrive, url: str) -> Any:
    said = succeed(drive.tool("drivefs", "s3", "key", "add", drive.mountpoint))
    key, secret = (line.partition(" = ")[2] for line in said.splitlines())
    return boto3.client(
        "s3",
        endpoint_url=url,
        region_name="us-east-1",
        config=Config(signature_version="s3v4", max_pool_connections=16),
        aws_access_key_id=key,
        aws_secret_access_key=secret,
    )


def url_of(drive: MountedDrive, *options: str) -> str:
    said = succeed(
        drive.tool("drivefs", "s3", "serve", drive.mountpoint, "--listen", "127.0.0.1:0", *options)
    )
    return next(word for word in said.split() if word.startswith("http://"))


def test_mount_and_door_are_one_tree(drive: MountedDrive) -> None:
    drive.mount()
    (drive.mountpoint / "buckets").mkdir()
    s3 = client_of(drive, url_of(drive, "--root", "buckets"))
    s3.create_bucket(Bucket="bucket")
    bucket = drive.mountpoint / "buckets" / "bucket"
    for number, kind in enumerate(KINDS):
        data = content(kind, 70_000, number)
        s3.put_object(Bucket="bucket", Key=f"a/{kind}", Body=data)
        assert (bucket / "a" / kind).read_bytes() == data
        (bucket / f"{kind} by the mount").write_bytes(data)
        assert s3.get_object(Bucket="bucket", Key=f"{kind} by the mount")["Body"].read() == data
    etag = s3.head_object(Bucket="bucket", Key="a/text")["ETag"]
    (bucket / "a" / "text").write_bytes(b"other")
    assert s3.head_object(Bucket="bucket", Key="a/text")["ETag"] != etag
    s3.delete_object(Bucket="bucket", Key="a/text")
    assert not (bucket / "a" / "text").exists()
    drive.remount()
    assert (bucket / "a" / "log").read_bytes() == content("log", 70_000, list(KINDS).index("log"))


def test_sixteen_at_once_see_what_the_other_side_was_told(drive: MountedDrive) -> None:
    """The kernel has in its caches what was there before: that a name is not there, sizes, and pages."""
    drive.mount()
    s3 = client_of(drive, url_of(drive))
    s3.create_bucket(Bucket="bucket")
    bucket = drive.mountpoint / "bucket"

    def go(number: int) -> None:
        for turn, kind in enumerate(KINDS):
            key, data = f"{number}/{turn}", content(kind, 5000 + 999 * turn, number)
            path = bucket / key
            assert not path.exists()
            s3.put_object(Bucket="bucket", Key=key, Body=data)
            assert path.read_bytes() == data
            s3.put_object(Bucket="bucket", Key=key, Body=data[:100] + b"longer" * 2000)
            assert path.read_bytes() == data[:100] + b"longer" * 2000
            path.write_bytes(b"by the mount")
            assert s3.get_object(Bucket="bucket", Key=key)["Body"].read() == b"by the mount"
            s3.put_object(Bucket="bucket", Key=key, Body=data)
            assert path.read_bytes() == data
            assert str(turn) in os.listdir(path.parent)
            s3.delete_object(Bucket="bucket", Key=key)
            assert not path.exists()

    with ThreadPoolExecutor(16) as pool:
        list(pool.map(go, range(16)))
    assert list(bucket.iterdir()) == []


def test_a_name_is_made_by_the_door_or_by_the_mount_never_by_both(drive: MountedDrive) -> None:
    drive.mount()
    s3 = client_of(drive, url_of(drive))
    s3.create_bucket(Bucket="bucket")
    bucket = drive.mountpoint / "bucket"

    def by_door(name: str) -> bool:
        try:
            s3.put_object(Bucket="bucket", Key=name, Body=b"door", IfNoneMatch="*")
        except s3.exceptions.ClientError as error:
            if error.response["Error"]["Code"] != "PreconditionFailed":
                raise
            return False
        return True

    def by_mount(name: str) -> bool:
        try:
            descriptor = os.open(bucket / name, os.O_CREAT | os.O_EXCL | os.O_WRONLY)
        except FileExistsError:
            return False
        os.close(descriptor)
        return True

    with ThreadPoolExecutor(16) as pool:
        for turn in range(20):
            ways = [pool.submit(by_mount if number % 2 else by_door, str(turn)) for number in range(16)]
            assert sum(way.result() for way in ways) == 1
            made_by_door = any(way.result() for way in ways[::2])
            assert (bucket / str(turn)).read_bytes() == (b"door" if made_by_door else b"")


def metrics_of(drive: MountedDrive) -> str:
    (control,) = drive.state.glob("*/control")
    with within_reach(str(control)) as address:
        transport = httpx.HTTPTransport(uds=address)
        with httpx.Client(transport=transport, base_url="http://drivefs") as client:
            return client.get("/metrics").text


def test_the_mount_option_opens_a_door_and_its_metrics_are_told(drive: MountedDrive) -> None:
    drive.mount()
    (drive.mountpoint / "buckets").mkdir()
    assert "drivefs_s3_" not in metrics_of(drive)
    drive.umount()
    (port,) = free_ports(1)
    drive.mount(f"s3=127.0.0.1:{port}", "s3_root=buckets")
    s3 = client_of(drive, f"http://127.0.0.1:{port}")
    s3.create_bucket(Bucket="bucket")
    assert [each["Name"] for each in s3.list_buckets()["Buckets"]] == ["bucket"]
    assert (drive.mountpoint / "buckets" / "bucket").is_dir()
    assert 'drivefs_s3_answers{status="200"} 2\n' in metrics_of(drive)


def test_an_address_that_cannot_be_listened_on_refuses_the_mount(drive: MountedDrive) -> None:
    refused = drive.try_mount("s3=192.0.2.1:9000")
    assert refused.returncode == 1
    assert "cannot be listened on" in refused.stderr


def test_uploads_that_are_not_complete_are_listed_kept_and_aborted(drive: MountedDrive) -> None:
    drive.mount()
    s3 = client_of(drive, url_of(drive))
    s3.create_bucket(Bucket="bucket")
    upload = s3.create_multipart_upload(Bucket="bucket", Key="large\n")["UploadId"]
    s3.upload_part(Bucket="bucket", Key="large\n", UploadId=upload, PartNumber=1, Body=b"part" * 1024)

    def ask(*words: str) -> str:
        action, *more = words
        return succeed(drive.tool("drivefs", "s3", "upload", action, drive.mountpoint, *more))

    assert ask("keep", "bucket", "forever") == "bucket: keeps an upload to which nothing comes forever\n"
    listed = ask("list")
    assert listed.startswith(upload)
    assert listed.endswith("kept until forever  1 part, 4.0 KiB  bucket/large\\n\n")
    assert json.loads(ask("list", "--json"))["uploads"][0]["upload_id"] == upload
    assert ask("keep", "bucket", "30d") == "bucket: keeps an upload to which nothing comes for 30d\n"
    assert ask("abort", upload) == f"{upload}: aborted\n"
    assert ask("list") == ""
    refused = drive.tool("drivefs", "s3", "upload", "abort", drive.mountpoint, upload)
    assert (refused.returncode, refused.stdout) == (1, "")
    assert f"there is no upload {upload}" in refused.stderr

"""Clients that people use, unmodified: each puts, lists, gets, copies and deletes by its own ways."""

from __future__ import annotations

import io
import os
from pathlib import Path

import obstore
import pytest
from minio import Minio
from obstore.exceptions import AlreadyExistsError
from obstore.store import S3Store

from tests.certificates import certificate_in
from tests.s3_clients import FILES, made, program, succeed
from tests.unit.gateway.s3.served import REGION, Served, serving


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return made(tmp_path)


def test_boto3_sends_trailers_by_https(tmp_path: Path) -> None:
    with serving(tmp_path, tls=certificate_in(tmp_path)) as served:
        s3 = served.client()
        s3.create_bucket(Bucket="tls-bucket")
        sent: list[str] = []
        s3.meta.events.register("before-send.s3", lambda request, **_: sent.append(str(request.headers)))
        for key, data in FILES.items():
            s3.upload_fileobj(io.BytesIO(data), "tls-bucket", key)
            got = s3.get_object(Bucket="tls-bucket", Key=key, ChecksumMode="ENABLED")
            assert got["Body"].read() == data
            assert got["ChecksumCRC32"]
        assert "STREAMING-UNSIGNED-PAYLOAD-TRAILER" in sent[0]


def test_rclone(served: Served, folder: Path) -> None:
    rclone = program("rclone")
    options = {
        "type": "s3",
        "provider": "Other",
        "endpoint": served.url,
        "region": REGION,
        "access_key_id": served.user.key_id,
        "secret_access_key": served.user.secret,
    }
    named = {f"RCLONE_CONFIG_D_{name.upper()}": value for name, value in options.items()}
    environment = {"RCLONE_CONFIG": os.devnull, **named}
    for command in (
        ("mkdir", "d:rclone-bucket"),
        ("copy", str(folder), "d:rclone-bucket/x"),
        ("check", "--download", str(folder), "d:rclone-bucket/x"),
        ("moveto", "d:rclone-bucket/x/a b", "d:rclone-bucket/y"),
    ):
        succeed(rclone, *command, environment=environment)
    listed = succeed(rclone, "lsf", "-R", "--files-only", "d:rclone-bucket", environment=environment)
    assert set(listed.splitlines()) == {"y", "x/é+%", "x/big", "x/empty"}
    succeed(rclone, "purge", "d:rclone-bucket", environment=environment)


def test_s3cmd(served: Served, folder: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    configuration = tmp_path_factory.mktemp("s3cmd") / "configuration"
    host = f"127.0.0.1:{served.port}"
    configuration.write_text(
        f"[default]\naccess_key={served.user.key_id}\nsecret_key={served.user.secret}\n"
        f"host_base={host}\nhost_bucket={host}\nuse_https=False\n"
    )
    s3cmd = (program("s3cmd"), "-c", str(configuration))
    succeed(*s3cmd, "mb", "s3://s3cmd-bucket")
    succeed(*s3cmd, "sync", f"{folder}/", "s3://s3cmd-bucket/x/")
    succeed(*s3cmd, "get", "s3://s3cmd-bucket/x/big", configuration.with_name("big"))
    assert configuration.with_name("big").read_bytes() == FILES["big"]
    assert "x/é+%" in succeed(*s3cmd, "ls", "-r", "s3://s3cmd-bucket")
    assert "SSE" in succeed(*s3cmd, "info", "s3://s3cmd-bucket/x/big")
    succeed(*s3cmd, "info", "s3://s3cmd-bucket")
    succeed(*s3cmd, "cp", "s3://s3cmd-bucket/x/big", "s3://s3cmd-bucket/copy")
    succeed(*s3cmd, "del", "-r", "--force", "s3://s3cmd-bucket")
    succeed(*s3cmd, "rb", "s3://s3cmd-bucket")


def test_minio(served: Served, folder: Path) -> None:
    client = Minio(
        f"127.0.0.1:{served.port}", served.user.key_id, served.user.secret, secure=False, region=REGION
    )
    client.make_bucket("minio-bucket")
    client.fput_object("minio-bucket", "a/é b", str(folder / "big"), part_size=5 << 20)
    client.fget_object("minio-bucket", "a/é b", str(folder / "again"))
    assert (folder / "again").read_bytes() == FILES["big"]
    assert [each.object_name for each in client.list_objects("minio-bucket", recursive=True)] == ["a/é b"]
    client.remove_object("minio-bucket", "a/é b")
    client.remove_bucket("minio-bucket")


def test_obstore(served: Served) -> None:
    served.client().create_bucket(Bucket="obstore-bucket")
    store = S3Store(
        "obstore-bucket",
        endpoint=served.url,
        access_key_id=served.user.key_id,
        secret_access_key=served.user.secret,
        region=REGION,
        virtual_hosted_style_request=False,
        client_options={"allow_http": True},
    )
    obstore.put(store, "a/b", FILES["big"], use_multipart=True, chunk_size=5 << 20)
    obstore.put(store, "c", b"1", mode="create")
    with pytest.raises(AlreadyExistsError):
        obstore.put(store, "c", b"2", mode="create")
    assert bytes(obstore.get(store, "a/b").bytes()) == FILES["big"]
    assert bytes(obstore.get_range(store, "a/b", start=5, length=3)) == FILES["big"][5:8]
    obstore.copy(store, "c", "d")
    assert [each["path"] for page in obstore.list(store, offset="a/b") for each in page] == ["c", "d"]
    obstore.delete(store, ["a/b", "c", "d"])
    assert [each for page in obstore.list(store) for each in page] == []

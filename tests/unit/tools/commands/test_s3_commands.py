"""`drivefs s3` of a drive that is not mounted: its access keys, and a door in a process of its own."""

from __future__ import annotations

import http.client
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError

from backend.errors import NotFoundError, UsageError
from mountfs.cycle_collection import NEVER
from mountfs.process_tuning import SWITCH_SECONDS
from tests.contents import STORED_KINDS, content
from tests.heaps import heaps_of_threads
from tests.small_drive import SmallDrive, make_empty_drive

POLICY = '{"Statement": {"Effect": "Allow", "Action": "s3:Get*", "Resource": "*"}}'


@pytest.fixture
def drive(tmp_path: Path) -> SmallDrive:
    return make_empty_drive(tmp_path)


def added(drive: SmallDrive, capsys: pytest.CaptureFixture[str], *options: str | Path) -> tuple[str, str]:
    """The id and the secret of a new key."""
    capsys.readouterr()
    assert drive.drivefs("s3", "key", "add", drive.drive, *drive.where(), *options) == 0
    first, second = capsys.readouterr().out.splitlines()
    return first.removeprefix("aws_access_key_id = "), second.removeprefix("aws_secret_access_key = ")


def listed(drive: SmallDrive, capsys: pytest.CaptureFixture[str]) -> str:
    capsys.readouterr()
    assert drive.drivefs("s3", "key", "list", drive.drive, *drive.where()) == 0
    return capsys.readouterr().out


@contextmanager
def serving(
    drive: SmallDrive, *options: str, prepared: str = ""
) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """The process of a door, and its URL. `prepared`: Python that it runs before."""
    program = [sys.executable, "-c", f"{prepared}\nfrom tools.drivefs import main; main()"]
    process = subprocess.Popen(
        [*program, "s3", "serve", str(drive.drive), *drive.where(), "--listen", "127.0.0.1:0", *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        yield process, process.stdout.readline().split()[-1]
    finally:
        process.kill()
        process.communicate()


def client_of(url: str, key: str, secret: str) -> Any:
    return boto3.client(
        "s3",
        endpoint_url=url,
        region_name="us-east-1",
        aws_access_key_id=key,
        aws_secret_access_key=secret,
        config=Config(signature_version="s3v4"),
    )


@contextmanager
def served(drive: SmallDrive, *options: str) -> Iterator[str]:
    """The URL of a door; it ends as a person ends it."""
    with serving(drive, *options) as (process, url):
        yield url
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0


TELLS_OF_ITSELF = """
import ctypes, gc, signal, sys
def tell(*_):
    is_dumpable = ctypes.CDLL(None).prctl(3, 0, 0, 0, 0)
    print(gc.get_freeze_count() > 0, gc.get_threshold()[2], is_dumpable, sys.getswitchinterval(), flush=True)
signal.signal(signal.SIGUSR1, tell)
"""


def test_the_process_of_a_door_is_prepared_as_that_of_a_mount(drive: SmallDrive) -> None:
    """No request waits for a collection of all objects, or long for a thread, and there is no core dump."""
    with serving(drive, prepared=TELLS_OF_ITSELF) as (process, url):
        connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=30)
        connection.request("GET", "/")
        connection.getresponse().read()
        connection.close()
        process.send_signal(signal.SIGUSR1)
        assert process.stdout is not None
        assert process.stdout.readline().split() == ["True", str(NEVER), "0", str(SWITCH_SECONDS)]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may look into the door's memory")
def test_all_threads_of_a_door_share_one_heap(drive: SmallDrive, capsys: pytest.CaptureFixture[str]) -> None:
    """What one thread freed is taken by the next, and the kernel clears no pages anew for each piece."""
    key, secret = added(drive, capsys)
    with serving(drive) as (process, url):
        s3 = client_of(url, key, secret)
        s3.create_bucket(Bucket="bucket")
        for kind in STORED_KINDS:
            data = content(kind, 8 << 20)
            s3.put_object(Bucket="bucket", Key=kind, Body=data)
            assert s3.get_object(Bucket="bucket", Key=kind)["Body"].read() == data
        assert list(heaps_of_threads(process.pid)) == []


def test_keys_are_added_listed_changed_removed(
    drive: SmallDrive, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    policy, none = tmp_path / "policy", tmp_path / "none"
    policy.write_text(POLICY)
    none.write_text("")
    key, secret = added(drive, capsys, "--user", "alice", "--note", "a laptop", "--policy", policy)
    text = listed(drive, capsys)
    assert [word in text for word in (key, "alice", "a laptop", "policy")] == [True] * 4
    assert secret not in text
    assert drive.drivefs("s3", "key", "policy", drive.drive, key, none, *drive.where()) == 0
    assert "policy" not in listed(drive, capsys)
    assert drive.drivefs("s3", "key", "remove", drive.drive, key, *drive.where()) == 0
    assert listed(drive, capsys) == ""
    with pytest.raises(NotFoundError, match=key):
        drive.drivefs("s3", "key", "remove", drive.drive, key, *drive.where())
    policy.write_text("nonsense")
    with pytest.raises(UsageError, match="no JSON"):
        drive.drivefs("s3", "key", "add", drive.drive, "--policy", policy, *drive.where())


def test_a_door_serves_the_drive_and_its_keys_can_be_changed_meanwhile(
    drive: SmallDrive, capsys: pytest.CaptureFixture[str]
) -> None:
    data = content("text", 300_000, 1)
    key, secret = added(drive, capsys)
    with served(drive) as url:
        client = client_of(url, key, secret)
        client.create_bucket(Bucket="bucket")
        client.put_object(Bucket="bucket", Key="folder/file", Body=data)
        other, _ = added(drive, capsys)
        assert other in listed(drive, capsys)
        assert drive.drivefs("s3", "key", "remove", drive.drive, key, *drive.where()) == 0
        with pytest.raises(ClientError, match="InvalidAccessKeyId"):
            client.get_object(Bucket="bucket", Key="folder/file")
    assert drive.read()[b"/bucket/folder/file"][-1] == data


def test_a_second_signal_ends_a_door_at_once_and_is_no_success(
    drive: SmallDrive, capsys: pytest.CaptureFixture[str]
) -> None:
    key, secret = added(drive, capsys)
    with serving(drive) as (process, url), trickled_put(url, key, secret):
        process.send_signal(signal.SIGTERM)
        while is_listening(url):
            pass
        process.send_signal(signal.SIGTERM)
        _, said = process.communicate(timeout=15)
        assert (process.returncode, "before all was stored" in said) == (1, True), said
    assert listed(drive, capsys)


@contextmanager
def trickled_put(url: str, key: str, secret: str) -> Iterator[None]:
    """A PUT that is under way: its body does not come to its end."""
    client = client_of(url, key, secret)
    client.create_bucket(Bucket="bucket")
    put = urlsplit(client.generate_presigned_url("put_object", Params={"Bucket": "bucket", "Key": "k"}))
    connection = http.client.HTTPConnection(put.netloc, timeout=20)
    connection.putrequest("PUT", f"{put.path}?{put.query}")
    connection.putheader("Content-Length", "10")
    connection.putheader("Expect", "100-continue")
    connection.endheaders()
    assert connection.sock.recv(100).startswith(b"HTTP/1.1 100 ")
    yield
    connection.close()


def is_listening(url: str) -> bool:
    address = urlsplit(url)
    try:
        socket.create_connection((address.hostname, address.port)).close()
    except ConnectionRefusedError:
        return False
    return True


def test_an_address_that_is_taken_and_a_folder_that_is_not_there_are_said(drive: SmallDrive) -> None:
    with pytest.raises(UsageError, match="write HOST:PORT"):
        drive.drivefs("s3", "serve", drive.drive, "--listen", "9000", *drive.where())
    with pytest.raises(UsageError, match="no such folder in the drive"):
        drive.drivefs("s3", "serve", drive.drive, "--listen", "127.0.0.1:0", "--root", "none", *drive.where())

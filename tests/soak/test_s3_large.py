"""An object as large as one PUT may be: the mount that serves it takes no more memory than for others."""

from __future__ import annotations

import http.client
import os
from collections.abc import Iterator
from urllib.parse import urlsplit

import pytest

from tests.contents import KINDS, content
from tests.mount.conftest import drive, fuse, unmade_drive
from tests.mount.mounted import MountedDrive
from tests.mount.test_resources import LARGEST, MIB, peak_memory
from tests.mount.test_s3_door import client_of, url_of

__all__ = ["drive", "fuse", "unmade_drive"]

pytestmark = [pytest.mark.soak, pytest.mark.mount, pytest.mark.timeout(7200)]

OBJECT_MIB = int(os.environ.get("OBJECT_MIB", str(5 * 1024)))
PIECES = [content(kind, 11 * MIB, 1) for kind in KINDS]


def pieces() -> Iterator[bytes]:
    """The object's bytes: the same pieces in turn, so that the test's disk is not filled in vain."""
    left, number = OBJECT_MIB * MIB, 0
    while left:
        piece = PIECES[number % len(PIECES)][:left]
        yield piece
        left, number = left - len(piece), number + 1


def test_memory_while_the_largest_object_is_put_and_got(drive: MountedDrive) -> None:
    drive.mount()
    s3 = client_of(drive, url_of(drive))
    s3.create_bucket(Bucket="bucket")
    named = {"Bucket": "bucket", "Key": "large"}
    url = urlsplit(s3.generate_presigned_url("put_object", Params=named))
    connection = http.client.HTTPConnection(url.netloc, timeout=600)
    length = {"Content-Length": str(OBJECT_MIB * MIB)}
    connection.request("PUT", f"{url.path}?{url.query}", pieces(), length)
    assert connection.getresponse().status == 200
    connection.close()
    body = s3.get_object(**named)["Body"]
    assert all(body.read(len(piece)) == piece for piece in pieces())
    assert body.read() == b""
    s3.delete_object(**named)
    assert drive.process_id is not None
    most = peak_memory(drive.process_id)
    print(f"at most {most / MIB:.0f} MiB for an object of {OBJECT_MIB} MiB")
    assert most < LARGEST

"""Access keys: made, found, changed, removed; sealed, and shown once."""

from __future__ import annotations

from pathlib import Path

import msgpack
import pytest

from backend.errors import CorruptError, FormatError, NotFoundError, UsageError
from cache.namespace import ROOT_INODE, SetXattr
from gateway.s3.access_keys import PREFIX, AccessKey, AccessKeys, decode, encode
from gateway.s3.objects import S3Error
from tests.drives import KEYS, opened
from tests.memory_upstream import MemoryUpstream
from tests.unit.gateway.s3.served import sealing_of

SEALING = sealing_of(KEYS)
POLICY = b'{"Statement": {"Effect": "Allow", "Action": "s3:*", "Resource": "*"}}'
KEY = AccessKey("AKIATEST", "secret", "user", 17, "note", POLICY)


def test_a_record_is_what_was_encoded() -> None:
    assert decode("AKIATEST", encode(KEY)) == KEY
    assert "secret" not in repr(KEY)


@pytest.mark.parametrize(
    "record",
    [b"", b"nonsense", msgpack.packb([1, "a"]), msgpack.packb([2, "a", "b", 1, "", b""]), msgpack.packb(7)],
)
def test_what_is_no_record(record: bytes) -> None:
    with pytest.raises(FormatError):
        decode("AKIATEST", record)


async def test_keys_outlive_the_drive_that_made_them_and_lie_nowhere_in_clear(tmp_path: Path) -> None:
    upstream = MemoryUpstream()
    async with opened(tmp_path, upstream) as drive:
        keys = AccessKeys(drive, SEALING)
        made = await keys.add("user", "a note", POLICY)
        other = await keys.add()
        assert (made.user, other.user) == ("user", "drive")
        assert keys.find(made.key_id) == made
        await drive.sync()
    async with opened(tmp_path, upstream) as drive:
        keys = AccessKeys(drive, SEALING)
        assert keys.listed() == sorted([made, other], key=lambda key: key.key_id)
        await keys.set_policy(made.key_id, b"")
        await keys.remove(other.key_id)
        assert [key.policy for key in keys.listed()] == [b""]
        assert keys.find(other.key_id) is None
        with pytest.raises(NotFoundError):
            await keys.remove(other.key_id)
    files = [path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()]
    assert files
    assert not any(made.secret.encode() in data for data in files)


async def test_a_record_that_was_moved_to_another_key_is_none(tmp_path: Path) -> None:
    async with opened(tmp_path, MemoryUpstream()) as drive:
        keys = AccessKeys(drive, SEALING)
        made = await keys.add()
        sealed = drive.ledger.namespace.xattr(ROOT_INODE, PREFIX + made.key_id.encode())
        assert sealed is not None
        moved = SetXattr(ROOT_INODE, PREFIX + b"AKIAMOVED", sealed, drive.now())
        await drive.accept_together(lambda: [moved])
        with pytest.raises(CorruptError, match="AKIAMOVED"):
            keys.find("AKIAMOVED")


def test_a_key_whose_policy_is_not_understood_may_nothing() -> None:
    unknown = (
        b'{"Statement": {"Effect": "Deny", "Action": "s3:*", "Resource": "*", "Condition": {"New": {}}}}'
    )
    with pytest.raises(S3Error) as caught:
        AccessKey("AKIATEST", "secret", "user", 17, "", unknown).identity()
    assert caught.value.code == "AccessDenied"


async def test_what_is_refused(tmp_path: Path) -> None:
    async with opened(tmp_path, MemoryUpstream()) as drive:
        keys = AccessKeys(drive, SEALING)
        with pytest.raises(S3Error, match="no JSON"):
            await keys.add(document=b"nonsense")
        for name in ("*", "a?", "arn:aws:iam::1:root", "http://acs.amazonaws.com/groups/global/AllUsers"):
            with pytest.raises(UsageError, match="mean others"):
                await keys.add(name)
        with pytest.raises(UsageError, match="at most"):
            await keys.add("u" * 200)
        assert keys.listed() == []
        assert keys.find("é") is None
        assert keys.find("A" * 1000) is None

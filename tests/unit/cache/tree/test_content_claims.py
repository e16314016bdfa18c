"""A claim about a file's content holds until a byte may have changed, crashes included."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from cache.attributes import AttributeChange
from cache.drive import Drive
from cache.errors import NotSupportedError
from cache.namespace import ROOT_INODE, SetXattr
from cache.tree import CHANGED, CLAIM
from tests.contents import content
from tests.drives import make_file, opened
from tests.memory_upstream import MemoryUpstream


async def claimed(drive: Drive, name: bytes = b"file") -> int:
    made = await make_file(drive, name, content("text", 5000))
    await drive.accept_together(lambda: [SetXattr(made.inode, CLAIM, b"its hash", drive.now())])
    return made.inode


@pytest.mark.parametrize("crash", [False, True])
@pytest.mark.parametrize("how", ["write", "truncate", "nothing", "rename", "mode", "no bytes"])
async def test_what_changes_bytes_ends_a_claim(tmp_path: Path, how: str, crash: bool) -> None:
    upstream = MemoryUpstream()
    async with opened(tmp_path, upstream, crash=crash) as drive:
        inode = await claimed(drive)
        await drive.sync()
        if how == "write":
            await drive.write(inode, 10, b"x")
        elif how == "truncate":
            await drive.set_attributes(inode, AttributeChange(size=10))
        elif how == "rename":
            await drive.rename(ROOT_INODE, b"file", ROOT_INODE, b"other")
        elif how == "mode":
            await drive.set_attributes(inode, AttributeChange(mode=0o600))
        elif how == "no bytes":
            await drive.write(inode, 10, b"")
        await drive.fsync(inode)
    async with opened(tmp_path, upstream) as drive:
        holds = how not in ("write", "truncate")
        assert drive.claims.claim(inode) == (b"its hash", holds)


async def test_a_file_without_a_claim_gets_no_mark(tmp_path: Path) -> None:
    async with opened(tmp_path, MemoryUpstream()) as drive:
        inode = (await make_file(drive, b"file", b"text")).inode
        assert drive.claims.claim(inode) == (None, False)
        assert CHANGED not in drive.xattr_names(inode)


async def test_no_program_makes_or_changes_one(tmp_path: Path) -> None:
    async with opened(tmp_path, MemoryUpstream()) as drive:
        inode = await claimed(drive)
        for name in (CLAIM, CHANGED):
            with pytest.raises(NotSupportedError):
                await drive.set_xattr(inode, name, b"")
        assert drive.claims.claim(inode) == (b"its hash", True)


async def test_a_watch_sees_changes_of_its_file_only(tmp_path: Path) -> None:
    async with opened(tmp_path, MemoryUpstream()) as drive:
        inode = await claimed(drive)
        other = await claimed(drive, b"other")
        with drive.claims.watching(inode) as watch, drive.claims.watching(inode) as second:
            await drive.write(other, 0, b"x")
            await drive.sync()
            seen = [watch.changed, second.changed]
            await drive.write(inode, 0, b"x")
            assert [*seen, watch.changed, second.changed] == [False, False, True, True]
        with drive.claims.watching(inode) as watch:
            assert not watch.changed


@pytest.mark.parametrize("how", ["write", "truncate"])
async def test_the_end_of_a_claim_is_journaled_before_the_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    async with opened(tmp_path, MemoryUpstream()) as drive:
        inode = await claimed(drive)
        seen: list[bool] = []
        change = getattr(drive.ledger, how)

        def seeing(*said: Any) -> Any:
            seen.append(drive.claims.claim(inode)[1])
            return change(*said)

        monkeypatch.setattr(drive.ledger, how, seeing)
        if how == "write":
            await drive.write(inode, 10, b"x")
        else:
            await drive.set_attributes(inode, AttributeChange(size=10))
        assert seen == [False]

"""What a tree takes, what a policy would free, and the calls and commands that say so."""

from __future__ import annotations

import random
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest
import trio
import trio.testing

import cache.retention.space_walk
from backend.errors import UsageError
from backend.system import Environment
from backend.upstream import BlockId
from cache.drive import Drive
from cache.errors import FileSystemError, InvalidArgumentError, ReadOnlyFileSystemError
from cache.messages import CollectionDone, from_plain
from cache.namespace.operations import ROOT_INODE
from cache.retention.retention import DAY, Policy
from cache.services.calls import services_of
from tests.drives import content_of, make_file, opened
from tests.memory_upstream import MemoryUpstream
from tools.commands.retention_commands import gc_lines
from tools.quantities import FOREVER, format_age, parse_age

SOURCE = random.Random(5)
ONE, TWO, THREE = (SOURCE.randbytes(100_000) for _ in range(3))
NOTHING = {"keep_all": 0, "hourly": 0, "daily": 0, "weekly": 0, "monthly": 0}


async def call(drive: Drive, what: str, /, **arguments: Any) -> Mapping[str, Any]:
    return await services_of(drive)[what](arguments)


async def test_usage_tells_data_sharing_and_history_apart(tmp_path: Path) -> None:
    upstream = MemoryUpstream()
    async with opened(tmp_path, upstream) as drive:
        folder = await drive.make_node(ROOT_INODE, b"d", 0o040755, 0, 0, 0)
        await make_file(drive, b"a", ONE, folder.inode)
        await make_file(drive, b"b", ONE, folder.inode)
        gone = await make_file(drive, b"c", TWO, folder.inode)
        await make_file(drive, b"text", b"word " * 20_000)
        await drive.sync()
        await drive.unlink(folder.inode, b"c")
        drive.release(gone.inode, 0)
        await drive.sync()
        found = await call(drive, "usage", inode=folder.inode)
        assert (found["inodes"], found["logical"]) == (3, 200_000)
        assert (found["live"]["blocks"], found["live"]["plain"]) == (1, 100_000)
        assert 100_000 < found["live"]["sealed"] < 101_000
        assert (found["history"]["blocks"], found["history"]["plain"]) == (1, 100_000)
        whole = await call(drive, "usage")
        assert whole["logical"] == 300_000
        assert whole["live"]["sealed"] < 110_000
        with pytest.raises(InvalidArgumentError):
            await call(drive, "usage", inode=1 << 63)
        with pytest.raises(FileSystemError):
            await call(drive, "usage", inode=12345)


async def folder(drive: Drive, parent: int, name: bytes) -> int:
    return (await drive.make_node(parent, name, 0o040755, 0, 0, 0)).inode


def plain(usage: Mapping[str, Any]) -> tuple[str, int, int, int, int]:
    numbers = (usage["inodes"], usage["logical"], usage["live"]["plain"], usage["history"]["plain"])
    return unquote(usage["path"]), *numbers


async def test_usage_of_each_folder(tmp_path: Path) -> None:
    """Shared blocks, hard links across folders, a folder that moved, a file that came back elsewhere."""
    async with opened(tmp_path, MemoryUpstream()) as drive:
        a, b = await folder(drive, ROOT_INODE, b"a"), await folder(drive, ROOT_INODE, b"b\n")
        inner = await folder(drive, a, b"inner")
        one = await make_file(drive, b"one", ONE, inner)
        await make_file(drive, b"one again", ONE, b)
        await drive.link(one.inode, b, b"link")
        await make_file(drive, b"two", TWO, inner)
        await drive.sync()
        answer = await call(drive, "usage", depth=2)
        assert [plain(each) for each in (*answer["folders"], answer)] == [
            ("a/inner", 3, 200_000, 200_000, 0),
            ("a", 4, 200_000, 200_000, 0),
            ("b\n", 3, 200_000, 100_000, 0),
            ("", 7, 300_000, 200_000, 0),
        ]
        await drive.rename(a, b"inner", b, b"inner")
        await drive.sync()
        await drive.unlink(inner, b"two")
        drive.delete_unused()
        answer = await call(drive, "usage", depth=9)
        assert [plain(each) for each in (*answer["folders"], answer)] == [
            ("a", 1, 0, 0, 100_000),
            ("b\n/inner", 2, 100_000, 100_000, 100_000),
            ("b\n", 4, 200_000, 100_000, 100_000),
            ("", 6, 200_000, 100_000, 100_000),
        ]
        for inode, found in zip((a, inner, b), answer["folders"], strict=True):
            alone = await call(drive, "usage", inode=inode)
            assert {**alone, "path": found["path"]} == {**found, "folders": []}
        shallow = await call(drive, "usage", depth=1)
        assert [each["path"] for each in shallow["folders"]] == ["a", "b%0A"]


@pytest.mark.parametrize("depth", [-1, "1", None, 1 << 40])
async def test_a_depth_that_is_none_is_refused(tmp_path: Path, depth: object) -> None:
    async with opened(tmp_path, MemoryUpstream()) as drive:
        with pytest.raises(InvalidArgumentError, match="depth"):
            await call(drive, "usage", depth=depth)


async def test_too_many_folders_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache.retention.space_walk, "MOST_FOLDERS", 3)
    async with opened(tmp_path, MemoryUpstream()) as drive:
        for name in (b"1", b"2"):
            await folder(drive, ROOT_INODE, name)
        assert len((await call(drive, "usage", depth=1))["folders"]) == 2
        await folder(drive, ROOT_INODE, b"3")
        with pytest.raises(InvalidArgumentError, match="more than 3 folders"):
            await call(drive, "usage", depth=1)
        assert (await call(drive, "usage"))["inodes"] == 4


async def test_a_preview_frees_what_a_collection_frees(tmp_path: Path) -> None:
    upstream = MemoryUpstream()
    async with opened(tmp_path, upstream) as drive:
        made = await make_file(drive, b"a", ONE)
        await drive.sync()
        for data in (TWO, THREE):
            await drive.write(made.inode, 0, data)
            await drive.settle(made.inode)
            await drive.sync()
        await call(drive, "pin", commit=2, name="first")
        assert (await call(drive, "retention_preview"))["points"] == 0
        preview = await call(drive, "retention_preview", **NOTHING)
        assert preview["freed"]["blocks"] == 1
        before = sum(map(len, upstream.stored.values()))
        await call(drive, "retention_set", **NOTHING)
        dry = await call(drive, "collect", dry_run=True)
        assert dry["freed"]["sealed"] == preview["freed"]["sealed"]
        assert before == sum(map(len, upstream.stored.values()))
        done = await call(drive, "collect", grace=0)
        assert (done["blocks"], done["lost"]) == (1, 0)
        assert before - sum(map(len, upstream.stored.values())) == preview["freed"]["sealed"]
        assert await content_of(drive, b"a") == THREE


async def test_who_gets_nothing_back_is_told_how_long_it_takes(tmp_path: Path) -> None:
    async with opened(tmp_path, MemoryUpstream()) as drive:
        await make_file(drive, b"a", ONE)
        await drive.sync()
        await drive.unlink(ROOT_INODE, b"a")
        await drive.sync()
        await call(drive, "retention_set", **NOTHING)
        for grace, said in (
            (None, "block, 1h; --grace 0"),
            (7200, "block, 2h; --grace 0"),
            (0, ""),
        ):
            arguments = {} if grace is None else {"grace": grace}
            answer = await call(drive, "collect", **arguments)
            (told,) = [
                line
                for line in gc_lines(from_plain(CollectionDone, answer))
                if "until the end of the grace" in line
            ] or [""]
            assert said in told
            assert bool(told) is bool(said)


async def test_dropped_blocks_are_in_the_log_once(tmp_path: Path) -> None:
    upstream = MemoryUpstream()
    async with opened(tmp_path, upstream) as drive:
        await make_file(drive, b"a", ONE)
        await drive.sync()
        added = upstream.commits[-1][0].added
        await drive.unlink(ROOT_INODE, b"a")
        await drive.sync()
        await call(drive, "retention_set", **NOTHING)
        for _ in range(3):
            await call(drive, "collect")
        dropped = [block for commit, _ in upstream.commits for block in commit.dropped]
        assert tuple(dropped) == added
        await make_file(drive, b"again", ONE)
        await drive.sync()
        assert await upstream.missing(added) == set()


async def test_old_snapshots_are_given_back(tmp_path: Path) -> None:
    upstream = MemoryUpstream()
    async with opened(tmp_path / "cache", upstream) as drive:
        for number in range(3):
            await make_file(drive, b"%d" % number, ONE)
            await drive.sync()
            await drive.snapshots.make()
        before = len(upstream.stored)
        await call(drive, "collect", grace=0)
        assert len(upstream.stored) < before
    async with opened(tmp_path / "empty", upstream) as drive:
        assert await content_of(drive, b"0") == ONE


async def test_a_snapshot_whose_root_cannot_be_read_stops_nothing(tmp_path: Path) -> None:
    upstream = MemoryUpstream()
    async with opened(tmp_path / "cache", upstream) as drive:
        await make_file(drive, b"a", ONE)
        await drive.sync()
        await drive.snapshots.make()
        upstream.kept_roots.clear()
        await call(drive, "collect", grace=0)
    async with opened(tmp_path / "empty", upstream) as drive:
        assert await content_of(drive, b"a") == ONE


async def test_lost_blocks_are_counted_and_keep_debris(tmp_path: Path) -> None:
    upstream = MemoryUpstream()
    async with opened(tmp_path, upstream) as drive:
        await make_file(drive, b"a", ONE)
        await drive.sync()
        upstream.stored.clear()
        upstream.stored[BlockId(bytes(32))] = b"unknown"
        found = await call(drive, "collect", dry_run=True)
        assert (found["lost"], found["dead"]) == (1, 1)


async def test_pins_keep_and_give_back(tmp_path: Path) -> None:
    async with opened(tmp_path, MemoryUpstream()) as drive:
        await make_file(drive, b"a", ONE)
        pinned = await call(drive, "pin", name="before")
        await make_file(drive, b"b", TWO)
        await drive.sync()
        (pin,) = (await call(drive, "pins"))["pins"]
        assert (pin["name"], pin["commit"]) == ("before", pinned["commit"])
        await call(drive, "retention_set", **NOTHING)
        await call(drive, "collect")
        assert drive.ledger.namespace.points.is_retained(pinned["commit"])
        await call(drive, "unpin", name="before")
        await call(drive, "collect")
        assert not drive.ledger.namespace.points.is_retained(pinned["commit"])
        for arguments in ({"name": ""}, {}, {"name": "x", "commit": 999}, {"name": "x", "moment": "never"}):
            with pytest.raises(InvalidArgumentError):
                await call(drive, "pin", **arguments)
        with pytest.raises(InvalidArgumentError):
            await call(drive, "unpin", name="before")


@pytest.mark.parametrize(
    "arguments", [{"keep_all": -1}, {"hourly": "1d"}, {"yearly": 5}, {"daily": True}, {"weekly": 1 << 63}]
)
async def test_a_bad_policy_changes_nothing(tmp_path: Path, arguments: dict[str, Any]) -> None:
    async with opened(tmp_path, MemoryUpstream()) as drive:
        with pytest.raises(InvalidArgumentError):
            await call(drive, "retention_set", **arguments)
        assert (await call(drive, "retention_show"))["policy"]["keep_all"] == DAY


async def test_the_policy_outlives_the_cache(tmp_path: Path) -> None:
    upstream = MemoryUpstream()
    async with opened(tmp_path / "one", upstream) as drive:
        await call(drive, "retention_set", hourly=7, monthly=9)
        await drive.sync()
    async with opened(tmp_path / "two", upstream) as drive:
        assert drive.retention.policy() == Policy(hourly=7, monthly=9)


async def test_a_read_only_drive_shows_and_refuses(tmp_path: Path) -> None:
    upstream = MemoryUpstream()
    async with opened(tmp_path / "one", upstream) as drive:
        await make_file(drive, b"a", ONE)
        await drive.sync()
    async with opened(tmp_path / "two", upstream, read_only=True) as drive:
        assert (await call(drive, "retention_show"))["points"] == 2
        with pytest.raises(ReadOnlyFileSystemError):
            await call(drive, "collect")
        with pytest.raises(ReadOnlyFileSystemError):
            await call(drive, "pin", name="x", commit=1)


async def test_a_wrong_clock_drops_nothing_unless_it_is_trusted(tmp_path: Path) -> None:
    upstream, ahead_ns = MemoryUpstream(), 0
    environment = Environment(wall_clock=lambda: time.time_ns() + ahead_ns)
    async with opened(tmp_path, upstream, environment=environment) as drive:
        for number in range(4):
            await make_file(drive, b"%d" % number, ONE)
            await drive.sync()
        before = len(drive.points())
        ahead_ns = 10 * 365 * DAY * 10**9
        found = await call(drive, "collect", grace=0)
        assert "no commit" in found["held_back"]
        assert len(drive.points()) == before
        found = await call(drive, "collect", grace=0, trust_clock=True)
        assert found["points"] >= before - 1


async def test_it_goes_on_by_itself(tmp_path: Path, autojump_clock: trio.testing.MockClock) -> None:
    """The background task drops points once a period, and blocks after their grace."""
    upstream = MemoryUpstream()
    async with opened(tmp_path, upstream) as drive:
        await make_file(drive, b"a", ONE)
        await drive.sync()
        await drive.unlink(ROOT_INODE, b"a")
        await drive.sync()
        drive.retention.set_policy(Policy(0, 0, 0, 0, 0))
        added = [block for commit, _ in upstream.commits for block in commit.added]
        assert added
        # While a thread works the clock jumps on, ten minutes each time: the slower the machine, the farther.
        with trio.fail_after(365 * DAY):
            while upstream.released or any(block in upstream.stored for block in added):
                await trio.sleep(600)
        assert len(drive.points()) <= 3


@pytest.mark.parametrize(
    ("text", "seconds"), [("0", 0), ("90m", 5400), ("1d", DAY), ("8w", 56 * DAY), ("forever", FOREVER)]
)
def test_ages_are_read_and_written(text: str, seconds: int) -> None:
    assert parse_age(text) == seconds
    assert parse_age(format_age(seconds)) == seconds


@pytest.mark.parametrize("text", ["", "1", "-1d", "1.5d", "d", "1 d", "1dd", "never"])
def test_what_is_no_age_is_refused(text: str) -> None:
    with pytest.raises(UsageError):
        parse_age(text)

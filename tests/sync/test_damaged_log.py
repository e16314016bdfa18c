"""A commit that no follower may follow, in the log of a drive that devices have open."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import trio

from backend.commits.commit_format import commit_hash
from backend.errors import DriveError, FencedError, TransientError
from backend.system import Environment
from backend.upstream import Commit
from cache.drive import Drive
from cache.errors import ReadOnlyFileSystemError
from cache.local.device_file import DeviceFile
from cache.namespace.operations import ROOT_INODE, Create, Delete, Operation, encode
from cache.namespace.refusals import MalformedError, OutOfDateError
from cache.publish.commit_building import CommitIdentity, sealed
from tests import contents
from tests.contents import KINDS, Kind
from tests.drives import DRIVE_ID, KEYS, content_of, make_file, tree
from tests.key_rings import ring_of_log
from tests.sync.drives import Hub

GOOD = Create(ROOT_INODE, b"mine", (2 << 40) + 998, 0o100644, 0, 0, 0, b"", 1)
FORGED = Create(ROOT_INODE, b"forged", (2 << 40) + 999, 0o100644, 0, 0, 0, b"", 1)


@pytest.fixture
def hub(tmp_path: Path) -> Hub:
    return Hub(tmp_path)


def add_to_log(hub: Hub, key: bytes, *operations: Operation) -> None:
    """A commit after the newest, by its device, with a signature by `key`: of who has the drive's keys."""
    last, previous = hub.upstream.commits[-1]
    number, sequence = last.number + 1, last.sequence + 1
    draft = Commit(number, previous, last.device, 1, last.time_ns + 1, (), (), b"", sequence)
    ring = ring_of_log(DRIVE_ID, KEYS, hub.upstream.commits)
    made = sealed(CommitIdentity(ring, last.device, b"", key), draft, list(map(encode, operations)))
    hub.upstream.commits.append((made, commit_hash(made)))


def key_of(hub: Hub, number: int) -> bytes:
    """The private key of a device, from its state folder."""
    identity = DeviceFile(hub.folder / str(number), Environment()).load(KEYS.device, DRIVE_ID)
    assert identity is not None
    return identity.key


async def go_apart(hub: Hub, one: Drive, kind: Kind) -> None:
    """The first device changes what both have."""
    await make_file(one, b"f", contents.content(kind, 9000))
    await make_file(one, b"gone")
    await one.sync()
    async with hub.device(2) as two:
        await make_file(two, b"theirs", contents.content(kind, 5000))
        await two.sync()
    await one.publisher.follow()
    await make_file(one, b"mine", contents.content(kind, 7000, 1))
    await one.write(one.lookup(ROOT_INODE, b"f").inode, 4000, contents.content(kind, 3000, 2))
    await one.unlink(ROOT_INODE, b"gone")


@pytest.mark.logs_warnings
@pytest.mark.parametrize(
    ("is_signed", "operation", "kind"),
    [(False, FORGED, kind) for kind in KINDS] + [(True, Delete(77), "text")],
)
async def test_a_device_keeps_what_it_has(
    hub: Hub, operation: Operation, kind: Kind, *, is_signed: bool
) -> None:
    """All of it, though a good commit comes before the other: and when the log was mended it publishes it."""
    async with hub.device(1, crash=True) as one:
        await go_apart(hub, one, kind)
        before, head = await tree(one), one.ledger.head
        add_to_log(hub, key_of(hub, 2), GOOD)
        add_to_log(hub, key_of(hub, 2) if is_signed else b"x" * 32, operation)
        for _ in range(2):
            with pytest.raises(DriveError):
                await one.sync()
            assert (await tree(one), one.ledger.head) == (before, head)
        one.tick(-1)
    with pytest.raises(OutOfDateError if is_signed else MalformedError):
        async with hub.device(1):
            pass
    hub.upstream.commits.pop()
    async with hub.device(1) as one:
        await one.sync()
        assert await content_of(one, b"mine") == b""
        found = await tree(one)
        assert found.keys() >= before.keys()
        assert contents.content(kind, 7000, 1) in [row[-1] for row in found.values()]
        assert found[b"/f"] == before[b"/f"]


async def until_fenced(drive: Drive) -> None:
    with trio.fail_after(10):
        while not drive.publisher.fenced:
            await trio.sleep(0.01)


@pytest.mark.logs_warnings
@pytest.mark.parametrize("is_idle", [False, True])
@pytest.mark.parametrize("is_signed", [False, True])
async def test_it_is_told_and_ends_all_writing(hub: Hub, *, is_idle: bool, is_signed: bool) -> None:
    """No later look at that log would find it better. An idle device finds out by itself."""
    async with hub.device(1, crash=True) as one:
        await go_apart(hub, one, "text")
        key, operation = (key_of(hub, 2), Delete(77)) if is_signed else (b"x" * 32, FORGED)
        add_to_log(hub, key, operation)
        if is_idle:
            hub.upstream.tell()
            await until_fenced(one)
        with pytest.raises(
            FencedError, match="commit 5 does not fit" if is_signed else "commit 5 is damaged"
        ):
            await one.sync()
        assert one.publisher.fenced
        assert "commit 5" in one.publisher.problem
        assert "again" not in one.publisher.problem
        with pytest.raises(ReadOnlyFileSystemError, match="commit 5"):
            await make_file(one, b"more")
        hub.upstream.commits.pop()
        for again in (one.sync, one.publisher.follow):
            with pytest.raises(FencedError, match="commit 5"):
                await again()
        assert await content_of(one, b"mine") == contents.content("text", 7000, 1)
        assert len(hub.upstream.commits) == 4


@pytest.mark.logs_warnings
async def test_a_commit_that_would_be_its_own_and_does_not_open_is_damaged(hub: Hub) -> None:
    """The answer to the append was lost, and the log has another payload in the commit's place."""
    async with hub.device(1, crash=True) as one:
        await make_file(one, b"f", b"content")
        hub.upstream.fail_after_append = True
        with pytest.raises(TransientError):
            await one.sync()
        commit, _ = hub.upstream.commits.pop()
        damaged = replace(commit, payload=bytes(len(commit.payload)))
        hub.upstream.commits.append((damaged, commit_hash(damaged)))
        with pytest.raises(FencedError, match=f"commit {commit.number} is damaged"):
            await one.sync()
        assert await content_of(one, b"f") == b"content"


@pytest.mark.logs_warnings
async def test_a_commit_that_only_names_a_device_is_not_of_a_copy_of_it(hub: Hub) -> None:
    """Who has no key can name anybody: the device stays what it is, and keeps what it has not published."""
    async with hub.device(1, crash=True) as one:
        await go_apart(hub, one, "text")
        last, previous = hub.upstream.commits[-1]
        forged = replace(last, number=last.number + 1, previous=previous, device=1)
        hub.upstream.commits.append((forged, commit_hash(forged)))
        with pytest.raises(FencedError, match=f"commit {forged.number} is damaged"):
            await one.sync()
        one.tick(-1)
    key = key_of(hub, 1)
    with pytest.raises(MalformedError, match=f"commit {forged.number} is damaged"):
        async with hub.device(1):
            pass
    assert key_of(hub, 1) == key
    hub.upstream.commits.pop()
    async with hub.device(1) as one:
        await one.sync()
        assert contents.content("text", 7000, 1) in [row[-1] for row in (await tree(one)).values()]
    assert key_of(hub, 1) == key

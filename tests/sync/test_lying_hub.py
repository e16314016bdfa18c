"""A hub that lies to devices: whatever it says, no device reads anything wrong, none says that something is
published which the hub has not taken, and what was acknowledged is in the journal, to be published when the
hub is honest again. Each lie is told by an error that names it, or does no harm. Table:
docs/threat_model.md."""

from __future__ import annotations

import json
import re
import shutil
import struct
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import trio

from backend import wire
from backend.commits import decode_commit, encode_commit
from backend.errors import (
    BlocksMissingError,
    CorruptError,
    DriveError,
    FencedError,
    FormatError,
    RollbackError,
    TransientError,
    sole,
)
from backend.system import plain_hash
from backend.upstream import BlockId, Head
from cache.drive import Drive
from cache.errors import FileSystemError
from cache.namespace.operations import ROOT_INODE
from cache.namespace.refusals import MalformedError
from tests import contents
from tests.drives import content_of, make_file, tree
from tests.hub_server import RunningHub, hub_for_test
from tests.lying_hub import Ask, Heard, LiedTo, Said, problem
from tests.sync.test_drives_on_a_hub import Devices, settle
from tests.sync.test_whole_drives import names

pytestmark = pytest.mark.logs_warnings

SOME = contents.content("half-compressible", 150_000, 1)
MORE = contents.content("json", 90_000, 2)


@pytest.fixture(scope="module")
def running() -> Iterator[RunningHub]:
    with hub_for_test() as found:
        yield found


@pytest.fixture
def lied_to(running: RunningHub, tmp_path: Path) -> LiedTo:
    return LiedTo(running, tmp_path)


@asynccontextmanager
async def both(lied_to: LiedTo) -> AsyncIterator[tuple[Drive, Drive]]:
    """Two devices that have the same file; a kill ends them."""
    async with lied_to.device(1, crash=True) as one, lied_to.device(2, crash=True) as two:
        await make_file(one, b"f", SOME)
        await settle(one, two)
        yield one, two


async def refused(devices: Devices, number: int, error: type[DriveError], match: str) -> None:
    """A mount of the device ends with that error."""
    with pytest.raises(ExceptionGroup) as raised:
        async with devices.device(number):
            pass
    found = sole(raised.value)
    assert type(found) is error
    assert re.search(match, str(found))


async def converge(lied_to: LiedTo, *expected: tuple[bytes, bytes]) -> None:
    """The hub is honest again: both devices, mounted anew, and a third have the same, these files in it."""
    for told in lied_to.told.values():
        told.lies.clear()
    async with lied_to.device(1) as one, lied_to.device(2) as two, lied_to.device(3) as three:
        await settle(one, two, three)
        await settle(one, two, three)
        assert await tree(one) == await tree(two) == await tree(three)
        for name, data in expected:
            assert await content_of(one, name) == data


async def says(said: Said, _heard: Heard, _ask: Ask) -> Said:
    """The same, whatever was asked."""
    return said


# The log: put back, forked, withheld


async def test_a_log_that_was_put_back_is_refused_at_mount(lied_to: LiedTo) -> None:
    async with both(lied_to) as (one, _):
        await make_file(one, b"mine", MORE)
        await one.fsync(one.lookup(ROOT_INODE, b"mine").inode)
    log = lied_to.log()
    lied_to.forget(1)
    for number in range(len(log)):
        lied_to.set_log(log[:number])
        await refused(lied_to, 1, RollbackError, f"ends with commit {number}, .* has seen commit {len(log)}")
        assert len(lied_to.log()) == number
    lied_to.set_log(log)
    await converge(lied_to, (b"f", SOME), (b"mine", MORE))


async def test_a_log_that_was_put_back_under_a_device_is_refused(lied_to: LiedTo) -> None:
    """It is asked again after a pause, not for ever; the changes stay here and are fsynced here."""
    async with both(lied_to) as (one, _):
        log = lied_to.log()
        lied_to.forget(1)
        lied_to.set_log(log[:-1])
        made = await make_file(one, b"mine", MORE)
        asked = lied_to.told[1].count("POST log")
        with trio.fail_after(20):
            for _ in range(2):
                with pytest.raises(RollbackError, match="has seen commit"):
                    await one.sync()
        assert lied_to.told[1].count("POST log") <= asked + 2
        assert "has seen commit" in one.publisher.problem
        await one.fsync(made.inode)
        assert await content_of(one, b"mine") == MORE
        assert len(lied_to.log()) == len(log) - 1
        lied_to.set_log(log)
        await one.sync()
        assert one.publisher.problem == ""
    await converge(lied_to, (b"f", SOME), (b"mine", MORE))


async def test_two_logs_are_told_when_either_is_shown_to_the_other(lied_to: LiedTo) -> None:
    async with both(lied_to):
        pass
    base = lied_to.log()
    async with lied_to.device(2) as two:
        for number in range(2):
            await make_file(two, b"two %d" % number, SOME)
            await two.sync()
    second = lied_to.log()
    lied_to.set_log(base)
    async with lied_to.device(1, crash=True) as one:
        await make_file(one, b"one", MORE)
        await one.sync()
        first, before = lied_to.log(), await tree(one)
        lied_to.set_log(second)
        for _ in range(2):
            with pytest.raises(RollbackError, match="another history"):
                await one.publisher.follow()
            assert await tree(one) == before
        await make_file(one, b"later", b"later")
        with pytest.raises(RollbackError, match="another history"):
            await one.sync()
        one.tick(-1)
    await refused(lied_to, 1, RollbackError, "another history")
    lied_to.set_log(first)
    await refused(lied_to, 2, RollbackError, "has seen commit")
    async with lied_to.device(1) as one, lied_to.device(3) as three:
        await settle(one, three)
        assert await content_of(three, b"one") == MORE
        assert await content_of(three, b"later") == b"later"


async def test_commits_that_are_withheld_are_missed_by_nobody_who_hears_of_them_later(
    lied_to: LiedTo,
) -> None:
    """A device that is shown less is where it was: all that it can know."""

    async def old(heard: Heard, ask: Ask) -> Said:
        honest = await ask(heard)
        commits = [*wire.decode_commits(honest.content)]
        return replace(
            honest, content=wire.encode_commits([c for c in commits if decode_commit(c).number < 4])
        )

    async with both(lied_to) as (one, two):
        count = len(lied_to.log())
        lied_to.told[2].lies |= {"GET log": old, "POST wait": partial(says, Said(204))}
        await make_file(one, b"new", MORE)
        await one.sync()
        await two.publisher.follow()
        assert b"new" not in names(two)
        await make_file(two, b"mine", SOME)
        with pytest.raises(CorruptError, match=f"go on after commit {count}"):
            await two.sync()
        assert await content_of(two, b"mine") == SOME
    await converge(lied_to, (b"new", MORE), (b"mine", SOME))


@pytest.mark.parametrize(
    "answer", [Said(204), Said(200, b'{"drives": {}}'), Said(200, b'{"drives": {"x": 99999}}'), Said(200)]
)
async def test_polls_that_end_at_once_are_not_repeated_at_once(lied_to: LiedTo, answer: Said) -> None:
    """A head far ahead, or an answer before its time."""
    lied_to.told[1].lies["POST wait"] = partial(says, answer)
    async with lied_to.device(1):
        with trio.fail_after(30):
            while not lied_to.told[1].count("POST wait"):
                await trio.sleep(0.01)
        await trio.sleep(1.5)
        assert lied_to.told[1].count("POST wait") <= 5


async def test_a_head_far_ahead_of_its_log_is_no_head(lied_to: LiedTo) -> None:
    """A mount, which asks for it, is where the log that it is shown ends."""
    async with both(lied_to):
        pass
    far = wire.encode_head(Head(1 << 40, b"\xff" * 32)).encode()
    lied_to.told[1].lies["GET head"] = partial(says, Said(200, far))
    async with lied_to.device(1) as one:
        await make_file(one, b"mine", MORE)
        await one.sync()
    await converge(lied_to, (b"mine", MORE))


async def test_a_hub_that_always_says_moved_ends_a_sync(lied_to: LiedTo) -> None:
    async with both(lied_to) as (one, _):
        lied_to.told[1].lies["POST log"] = partial(says, problem("moved"))
        await make_file(one, b"mine", MORE)
        with trio.fail_after(20), pytest.raises(CorruptError, match="shows no commit that does"):
            await one.sync()
        assert one.ledger.unpublished
    await converge(lied_to, (b"mine", MORE))


@pytest.mark.parametrize("status", [201, 409])
async def test_a_device_that_never_comes_to_be_ends_its_mount(lied_to: LiedTo, status: int) -> None:
    """The hub takes the commit that adds it, and shows it to nobody; or always says that it was late."""

    async def swallow(heard: Heard, _ask: Ask) -> Said:
        if status == 409:
            return problem("moved")
        return Said(201, wire.encode_head(_head_of(heard.content)).encode())

    lied_to.told[1].lies["POST log"] = swallow
    with trio.fail_after(20):
        await refused(lied_to, 1, CorruptError, "shows no commit that does")
    assert lied_to.told[1].count("POST log") == 1
    await converge(lied_to)


def _head_of(encoded: bytes) -> Head:
    return Head(decode_commit(encoded).number, plain_hash(encoded))


async def test_a_commit_that_was_taken_and_not_kept_is_given_again(lied_to: LiedTo) -> None:
    """The hub had said that it is published."""

    async def swallow(heard: Heard, _ask: Ask) -> Said:
        return Said(201, wire.encode_head(_head_of(heard.content)).encode())

    async with both(lied_to) as (one, _):
        lied_to.told[1].lies["POST log"] = swallow
        await make_file(one, b"mine", MORE)
        await one.sync()
        lied_to.told[1].lies.clear()
        await make_file(one, b"next", SOME)
        await one.sync()
        assert len(lied_to.log()) == 5
    await converge(lied_to, (b"mine", MORE), (b"next", SOME))


NO_ANSWERS = [
    Said(201),
    Said(200, b"4:" + b"ab" * 32),
    Said(201, b"99999999999999999999:" + b"ab" * 32),
    Said(201, "\u00b2:".encode() + b"ab" * 32),
    Said(201, b"<html>welcome"),
    Said(204),
    Said(302),
    Said(404),
    Said(418, b"{"),
    *map(problem, ("malformed", "full", "read_only", "not_found", "blocks_missing", "later", "moved")),
]


async def test_nothing_is_published_that_the_hub_has_not_taken(lied_to: LiedTo) -> None:
    async with both(lied_to) as (one, _):
        count = len(lied_to.log())
        made = await make_file(one, b"mine", MORE)
        for answer in NO_ANSWERS:
            lied_to.told[1].lies["POST log"] = partial(says, answer)
            with trio.fail_after(20), pytest.raises(DriveError):
                await one.sync()
            assert one.ledger.unpublished
            assert len(lied_to.log()) == count
            await one.fsync(made.inode)
            assert one.publisher.problem
    await converge(lied_to, (b"f", SOME), (b"mine", MORE))


# Commits: forged, moved, from elsewhere


def _flip(data: bytes, at: int) -> bytes:
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


def forged(log: list[bytes], other: list[bytes]) -> dict[str, bytes]:
    """Commits that a hub could put after `log`, of what it has heard. `other`: the log of another drive."""
    last = decode_commit(log[-1])
    next_ = replace(last, number=last.number + 1, previous=plain_hash(log[-1]))
    made = {
        "the newest again": next_,
        "as a later one of its device": replace(next_, sequence=next_.sequence + 1),
        "of nobody": replace(next_, device=77, sequence=1),
        "of an authority": replace(next_, authority=b"NewEpoch", sequence=next_.sequence + 1),
        "of a later epoch of keys": replace(next_, key_epoch=2, sequence=next_.sequence + 1),
        "of no time": replace(next_, time_ns=(1 << 64) - 1),
        "empty": replace(next_, payload=b""),
        "junk": replace(next_, payload=bytes(1000)),
        "of another drive": replace(decode_commit(other[-1]), number=next_.number, previous=next_.previous),
    }
    return {name: encode_commit(commit) for name, commit in made.items()}


@pytest.mark.parametrize("name", ["the newest again", "of nobody"])
async def test_a_forged_commit_ends_all_writing(lied_to: LiedTo, name: str) -> None:
    """Also one that names the device itself: that is no copy of its state."""
    async with both(lied_to) as (one, _):
        log = lied_to.log()
        before = await tree(one)
        made = await make_file(one, b"mine", MORE)
        lied_to.set_log([*log, forged(log, log)[name]])
        with pytest.raises(FencedError, match=f"commit {len(log) + 1} is damaged"):
            await one.sync()
        await one.fsync(made.inode)
        assert {path: row for path, row in (await tree(one)).items() if path != b"/mine"} == before
    lied_to.set_log(log)
    await converge(lied_to, (b"f", SOME), (b"mine", MORE))


async def test_a_forged_commit_is_followed_by_nobody(
    running: RunningHub, lied_to: LiedTo, tmp_path: Path
) -> None:
    """And costs nobody what it had not published."""
    other = LiedTo(running, tmp_path / "other")
    async with both(other), both(lied_to) as (one, _):
        made = await make_file(one, b"mine", MORE)
        await one.fsync(made.inode)
    log = lied_to.log()
    for commit in forged(log, other.log()).values():
        lied_to.set_log([*log, commit])
        for number in (1, 3):
            await refused(lied_to, number, MalformedError, f"commit {len(log) + 1} is damaged")
    lied_to.set_log(log)
    await converge(lied_to, (b"f", SOME), (b"mine", MORE))


async def test_no_byte_of_a_commit_can_be_changed(lied_to: LiedTo) -> None:
    """At the end of the log, where no hash names it: seal, signature or form say so."""
    async with both(lied_to):
        pass
    log = lied_to.log()
    size = len(log[-1])
    for at in (*range(8, 130, 11), size // 2, size - 70, size - 1):
        lied_to.set_log([*log[:-1], _flip(log[-1], at)])
        with pytest.raises(ExceptionGroup) as raised:
            async with lied_to.device(3):
                pass
        error = sole(raised.value)
        assert isinstance(error, MalformedError | CorruptError | FormatError | RollbackError), (at, error)
    lied_to.set_log(log)
    await converge(lied_to, (b"f", SOME))


async def test_commits_in_another_order_or_number_are_refused(lied_to: LiedTo) -> None:
    async with both(lied_to) as (one, _):
        await make_file(one, b"g", MORE)
        await one.sync()
    log = lied_to.log()
    a, b, c, d = log
    for wrong in (
        [b, a, c, d],
        [a, c, b, d],
        [a, b, d],
        [a, a, b, c, d],
        [a, b, c, d, d],
        [b, c, d],
        log * 80,
    ):
        body = wire.encode_commits(wrong)
        lied_to.told[3].lies["GET log"] = partial(says, Said(200, body))
        await refused(lied_to, 3, CorruptError, "does not go on after|more than the 256")
    for body in (b"x", wire.encode_commits(log)[:-1], struct.pack("<I", 0xFFFFFFFF), b"\0\0\0\0"):
        lied_to.told[3].lies["GET log"] = partial(says, Said(200, body))
        with pytest.raises(ExceptionGroup) as raised:
            async with lied_to.device(3):
                pass
        assert isinstance(sole(raised.value), CorruptError | FormatError)
    await converge(lied_to, (b"f", SOME), (b"g", MORE))


# Blocks and roots


async def good_or_error(drive: Drive, name: bytes, right: bytes) -> bool:
    """Whether it was read: what is read is right."""
    try:
        found = await content_of(drive, name)
    except (DriveError, FileSystemError):
        return False
    assert found == right
    return True


async def _no_block(what: str, heard: Heard, ask: Ask) -> Said:
    honest = await ask(heard)
    size = {"drivefs-block-size": str(len(honest.content))}
    if what == "empty":
        return replace(honest, content=b"")
    if what == "cut off":
        return replace(honest, content=honest.content[:-1])
    if what == "longer":
        return replace(honest, content=honest.content + b"x")
    if what == "flipped":
        return replace(honest, content=_flip(honest.content, len(honest.content) // 2))
    if what == "in another version":
        return replace(honest, content=b"\xff" + honest.content[1:])
    if what == "zeros":
        return Said(200, bytes(len(honest.content)), size)
    if what == "huge":
        return Said(200, bytes(9 << 20), size)
    return replace(honest, headers={"drivefs-block-size": what})


NO_BLOCKS = [
    *("empty", "cut off", "longer", "flipped", "in another version", "zeros", "huge"),
    *("", "0", "-1", "1", "\u00b2", "9" * 30, "9" * 5000, "1e9", " 5"),
]


async def test_a_wrong_block_is_never_read(lied_to: LiedTo) -> None:
    """Whole or in part, and asked for again: an error, or the right bytes."""
    random = contents.content("random", 400_000, 3)
    async with both(lied_to) as (one, two):
        await make_file(one, b"random", random)
        await settle(one, two)
    async with lied_to.device(2, crash=True) as two:
        for what in NO_BLOCKS:
            lied_to.told[2].lies["GET blocks/ID"] = partial(_no_block, what)
            for name, right in ((b"f", SOME), (b"random", random)):
                two.blocks.clear()
                with trio.fail_after(30):
                    was_read = await good_or_error(two, name, right)
                assert not was_read or what in NO_BLOCKS[7:], what
        lied_to.told[2].lies.clear()
        two.blocks.clear()
        assert await content_of(two, b"f") == SOME
        assert await content_of(two, b"random") == random


async def test_a_block_in_the_place_of_another_is_never_read(lied_to: LiedTo) -> None:
    async with both(lied_to) as (one, _):
        await make_file(one, b"g", MORE)
        await one.sync()
    log = [block for commit in map(decode_commit, lied_to.log()) for block in commit.added]

    async def next_block(heard: Heard, ask: Ask) -> Said:
        asked = bytes.fromhex(heard.url.path.rpartition("/")[2])
        other = log[(log.index(BlockId(asked)) + 1) % len(log)]
        return await ask(
            replace(heard, url=heard.url.copy_with(path=heard.url.path.replace(asked.hex(), other.hex())))
        )

    lied_to.told[2].lies["GET blocks/ID"] = next_block
    async with lied_to.device(2, crash=True) as two:
        assert len(set(log)) > 1
        assert not await good_or_error(two, b"f", SOME)
        assert not await good_or_error(two, b"g", MORE)


async def test_a_hub_that_always_has_another_copy_is_not_asked_for_ever(lied_to: LiedTo) -> None:
    async with both(lied_to):
        pass
    lied_to.told[2].lies |= {
        "GET blocks/ID": partial(says, Said(200, bytes(100), {"drivefs-block-size": "100"})),
        "POST blocks/ID/wrong": partial(says, Said(200, b'{"elsewhere": true}')),
    }
    async with lied_to.device(2, crash=True) as two:
        with trio.fail_after(30):
            assert not await good_or_error(two, b"f", SOME)
        assert lied_to.told[2].count("POST blocks/ID/wrong") < 50


@pytest.mark.parametrize("missing", ["none", "all", "others", "cut off"])
async def test_what_the_hub_says_is_missing_is_no_proof(lied_to: LiedTo, missing: str) -> None:
    """An append names what is not stored, before the journal lets go of it; what is not missing is stored
    again."""

    async def lie(heard: Heard, ask: Ask) -> Said:
        content = {"none": b"", "all": heard.content, "others": b"x" * 64, "cut off": b"x" * 33}[missing]
        return Said(200, content)

    async with both(lied_to) as (one, two):
        lied_to.told[1].lies["POST blocks/missing"] = lie
        await make_file(one, b"mine", MORE)
        if missing != "all":
            with pytest.raises(FormatError if missing == "cut off" else BlocksMissingError):
                await one.sync()
            assert one.ledger.unpublished
        else:
            await one.sync()
            await two.publisher.follow()
            assert await content_of(two, b"mine") == MORE
    await converge(lied_to, (b"mine", MORE))


async def test_blocks_that_are_acknowledged_and_not_kept_are_told(lied_to: LiedTo) -> None:
    """By the append, before the journal lets go of them."""
    async with both(lied_to) as (one, _):
        lied_to.told[1].lies["POST blocks"] = partial(says, Said(204))
        made = await make_file(one, b"mine", MORE)
        for _ in range(2):
            with trio.fail_after(20), pytest.raises(BlocksMissingError):
                await one.sync()
        await one.fsync(made.inode)
        assert one.ledger.unpublished
    await converge(lied_to, (b"mine", MORE))


async def test_blocks_that_the_hub_lost_are_an_error_and_never_other_bytes(lied_to: LiedTo) -> None:
    async with both(lied_to):
        pass
    lied_to.told[2].lies["GET blocks/ID"] = partial(says, problem("not_found"))
    async with lied_to.device(2, crash=True) as two:
        assert not await good_or_error(two, b"f", SOME)


async def test_a_hub_that_lacks_blocks_of_others_gets_none_of_them(lied_to: LiedTo) -> None:
    """A device is asked for the blocks of its commit only."""
    body = {"type": "urn:drivefs:blocks_missing", "blocks": ["ab" * 32] * 1000}
    async with both(lied_to) as (one, _):
        lied_to.told[1].lies["POST log"] = partial(says, Said(422, json.dumps(body).encode()))
        await make_file(one, b"mine", MORE)
        asked = lied_to.told[1].count("GET blocks/ID")
        with pytest.raises(BlocksMissingError):
            await one.sync()
        assert lied_to.told[1].count("GET blocks/ID") == asked
    await converge(lied_to, (b"mine", MORE))


@pytest.mark.parametrize("page", [b"", b"\xff" * 32, bytes(32), b"\x01" * 64, b"x", bytes(32 * 2000)])
async def test_lists_of_blocks_come_to_an_end(lied_to: LiedTo, page: bytes) -> None:
    """`gc` asks for them page by page; and takes no file's blocks for lost or needless at a hub's word."""
    async with both(lied_to) as (one, _):
        lied_to.told[1].lies["GET blocks"] = partial(says, Said(200, page))
        count = len(lied_to.log())
        with trio.fail_after(30), suppress(CorruptError, FormatError):
            await one.retention.collect()
        assert lied_to.told[1].count("GET blocks") < 5
        assert await content_of(one, b"f") == SOME
        assert len(lied_to.log()) - count < 3
    await converge(lied_to, (b"f", SOME))


async def test_roots_are_of_this_drive_or_left_out(
    running: RunningHub, lied_to: LiedTo, tmp_path: Path
) -> None:
    """Of another drive, older, junk or huge: the log is replayed instead."""
    other = LiedTo(running, tmp_path / "other")
    roots = []
    for scene in (other, lied_to):
        async with both(scene) as (one, _):
            await one.snapshots.make()
            roots.append(scene.told[1].sent("PUT roots/snapshot"))
            await make_file(one, b"g", MORE)
            await one.sync()
    for root in (roots[0], roots[1], b"", bytes(1000), bytes(9 << 20)):
        lied_to.told[3].lies["GET roots/snapshot"] = partial(says, Said(200, root))
        shutil.rmtree(tmp_path / "3", ignore_errors=True)
        if len(root) > 8 << 20:
            await refused(lied_to, 3, CorruptError, "over")
            continue
        async with lied_to.device(3, crash=True) as three:
            assert await content_of(three, b"g") == MORE


@pytest.mark.parametrize("number", ["Infinity", "-1", "1e999", '"x"', "1.5", "9" * 400, "null"])
async def test_figures_that_are_none_are_none(lied_to: LiedTo, number: str) -> None:
    said = f'{{"blocks": {number}, "bytes": 1, "packs": 1, "lacking": 0, "quota": 9, "left": 9}}'.encode()
    lied_to.told[1].lies["GET usage"] = partial(says, Said(200, said))
    async with lied_to.device(1, crash=True) as one:
        with pytest.raises(TransientError, match="does not say what is stored"):
            await one.upstream.housekeeping.status()

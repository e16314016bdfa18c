"""A device is revoked, and a key epoch begins, while others write: ended at each step, it is done or not."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Final

import pytest
import trio

from backend.commits.authority_format import decode_authority
from backend.errors import AwayError, DriveError, UnknownEpochError
from backend.system import Environment
from cache.blocks.block_codec import BlockCodec
from cache.drive import Drive
from cache.errors import FileSystemError
from cache.namespace.operations import RevokeDevice
from cache.services.devices import Devices
from tests.contents import KINDS, content
from tests.drives import DRIVE_ID, KEYS, content_of, make_file
from tests.key_rings import ring_of_log
from tests.memory_hub import Line
from tests.sync.drives import SMALL, Hub

pytestmark = pytest.mark.logs_warnings
STEPS: Final = (
    *("journal.appended", "journal.records-synced", "ledger.cut", "ledger.published"),
    *("ledger.saved", "namespace.committing", "rebase.followed", "rebase.journaled", "rebase.synced"),
)
OTHERS: Final = (DriveError, FileSystemError, OSError)


class Killed(BaseException):
    """The process ends there."""


def kill() -> None:
    raise Killed


async def write(drive: Drive, number: int) -> None:
    """A file of each kind."""
    for kind in KINDS:
        await make_file(drive, f"{number} {kind}".encode(), content(kind, 9000, number))


async def expect(drive: Drive, numbers: set[int]) -> None:
    drive.blocks.clear()
    for number in numbers:
        for kind in KINDS:
            assert await content_of(drive, f"{number} {kind}".encode()) == content(kind, 9000, number)


async def begun(hub: Hub) -> None:
    """Three devices have written."""
    for number in (1, 2, 3):
        async with hub.device(number) as drive:
            await write(drive, number)
            await drive.sync()


@pytest.mark.parametrize("skip", [0, 2])
@pytest.mark.parametrize("is_overtaken", [False, True])
@pytest.mark.parametrize("step", STEPS)
async def test_a_revocation_that_is_killed_is_done_or_not_begun(
    tmp_path: Path, step: str, *, is_overtaken: bool, skip: int
) -> None:
    """`is_overtaken`: another device publishes when it was accepted, so that there is a rebase."""
    hub, environment = Hub(tmp_path), Environment()
    await begun(hub)
    with suppress(Killed, BaseExceptionGroup):
        async with hub.device(1, crash=True, environment=environment) as one:
            await one.publisher.follow()
            await write(one, 11)
            if is_overtaken:
                one.ledger.accept_all([RevokeDevice(2)])
            environment.failpoints.arm(step, kill, skip)
            if is_overtaken:
                async with hub.device(3) as three:
                    await write(three, 13)
                    await three.sync()
                await one.sync()
            else:
                await Devices(one).revoke(2)
    is_reached = environment.failpoints.hits[step] > skip
    assert is_reached or skip or (step.startswith("rebase") and not is_overtaken)
    environment.failpoints.disarm_all()
    async with hub.device(1) as one:
        await one.sync()
        (revoked,) = [row.is_revoked for row, _ in Devices(one).all() if row.number == 2]
        assert Devices(one).key_epoch == (2 if revoked else 1)
        if not revoked:
            await Devices(one).revoke(2)
        await write(one, 21)
        await one.sync()
    epochs = [commit.key_epoch for commit, _ in hub.upstream.commits]
    assert epochs == sorted(epochs)
    begins = [decode_authority(commit.authority) is not None for commit, _ in hub.upstream.commits]
    assert begins.count(True) == 2
    with pytest.raises(DriveError, match="revoked"):
        async with hub.device(2):
            pass
    for number in (3, 4):
        async with hub.device(number) as other:
            await other.publisher.follow()
            await expect(other, {1, 2, 3, 11, 21} | ({13} if is_overtaken else set()))
            await write(other, 30 + number)
            await other.sync()


async def test_devices_that_write_while_epochs_begin_read_each_other(tmp_path: Path) -> None:
    """Each writes, publishes and begins epochs when it likes; who was away finds all of them."""
    hub = Hub(tmp_path)
    await begun(hub)
    written = {1, 2, 3}
    async with hub.device(1) as one, hub.device(2) as two:
        for number in range(40, 52):
            drive, other = (one, two) if number % 2 else (two, one)
            await write(drive, number)
            written.add(number)
            if number % 3 == 0:
                await Devices(other).begin_epoch()
            if number % 4 == 0:
                await drive.sync()
        await one.sync()
        await two.sync()
        await one.publisher.follow()
        for drive in (one, two):
            await expect(drive, written)
            assert Devices(drive).key_epoch == 5
    options = replace(SMALL, read_only=True)
    for number in (3, 9):
        async with hub.device(number, options=options) as drive:
            await expect(drive, written)


async def test_a_block_of_an_epoch_that_is_still_to_be_followed_is_not_given_up(tmp_path: Path) -> None:
    """Another device stored it, of equal content: nobody stores it anew under the epoch before."""
    hub = Hub(tmp_path)
    await begun(hub)
    async with hub.device(1) as one, hub.device(2) as two:
        await two.publisher.follow()
        await Devices(one).begin_epoch()
        await write(one, 60)
        await one.sync()
        made = await make_file(two, b"the same", content("random", 9000, 60))
        await two.sync()
        two.blocks.clear()
        assert bytes(await two.read(made.inode, 0, 9000)) == content("random", 9000, 60)
    with trio.fail_after(30):
        async with hub.device(3) as three:
            await expect(three, {60})


@pytest.mark.parametrize("is_opened_away", [False, True])
async def test_a_device_that_was_away_seals_nothing_that_a_revoked_one_opens(
    tmp_path: Path, *, is_opened_away: bool
) -> None:
    """The revoked one has the keys that it had, and the hub's bytes."""
    hub, line = Hub(tmp_path), Line()
    await begun(hub)
    of_the_revoked = BlockCodec(KEYS.block_id, ring_of_log(DRIVE_ID, KEYS, hub.upstream.commits))
    before = {*hub.upstream.stored}
    if is_opened_away:
        line.cut()
    async with hub.device(2, line=line) as two:
        line.cut()
        two.contact.lose(AwayError("the line is cut"))
        await write(two, 12)
        async with hub.device(1) as one:
            await Devices(one).revoke(3)
        line.mend()
        await two.sync()
        await expect(two, {1, 2, 3, 12})
    new = hub.upstream.stored.keys() - before
    assert new
    for block in new:
        with pytest.raises(UnknownEpochError):
            of_the_revoked.open(block, hub.upstream.stored[block])

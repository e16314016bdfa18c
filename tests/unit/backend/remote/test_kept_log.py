"""A log that lost commits gets them from who has kept them; a log that is another one gets nothing."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path

import pytest
import trio
import trio.testing

from backend.commits import decode_commit
from backend.errors import BlocksMissingError, ConflictError, DriveError, TransientError
from backend.remote.kept_log import PAUSE, KeptLog
from backend.remote.recent_commits import FILE, LIMIT, RecentCommits
from backend.remote.remote_roles import RemoteLog
from backend.system import plain_hash
from backend.upstream import Commit, Head
from tests.unit.backend.remote.test_recent_commits import commits, head

pytestmark = pytest.mark.logs_warnings

LOG = commits(8)


class HubOfList(RemoteLog):
    """A hub whose log is a list. `is_raced`: another device gives it the same commits at the same time.
    `missing`: blocks that commits name, and it has not."""

    def __init__(self, log: list[bytes]) -> None:
        self.log, self.appended, self.is_raced = log, 0, False
        self.missing: tuple[bytes, ...] = ()

    async def head(self) -> Head:
        await trio.lowlevel.checkpoint()
        return head(self.log, len(self.log))

    async def append(self, commit: Commit, expected: Head) -> Head:
        if self.missing:
            raise BlocksMissingError("blocks are not stored", self.missing)
        if self.is_raced:
            self.log = LOG[: len(self.log) + 1]
        if expected != head(self.log, len(self.log)):
            raise ConflictError("the head has moved")
        self.log = [*self.log, next(each for each in LOG if decode_commit(each) == commit)]
        self.appended += 1
        return await self.head()

    async def commits_after(self, number: int, limit: int = 256) -> list[tuple[Commit, bytes]]:
        await trio.lowlevel.checkpoint()
        return [(decode_commit(each), plain_hash(each)) for each in self.log[number : number + limit]]

    async def wait_for_other(self, number: int) -> int | None:
        while len(self.log) == number:
            await trio.sleep(0.01)
        return len(self.log)


class LyingHub(HubOfList):
    """It takes all commits but the last, refuses that one by `error`, and has lost others again."""

    def __init__(self, error: Exception) -> None:
        super().__init__(LOG[:2])
        self.error = error

    async def append(self, commit: Commit, expected: Head) -> Head:
        if commit.number == len(LOG):
            self.log = LOG[:3]
            raise self.error
        return await super().append(commit, expected)


class AwayNowAndThen(HubOfList):
    """After each second commit that it takes."""

    is_away = False

    async def append(self, commit: Commit, expected: Head) -> Head:
        if self.is_away:
            self.is_away = False
            raise TransientError("away")
        head = await super().append(commit, expected)
        self.is_away = self.appended % 2 == 0
        return head


class GivenMeanwhile(HubOfList):
    """`meanwhile` is done while it answers that it does not take the last commit, as it lost others."""

    meanwhile: Callable[[], Awaitable[object]] | None = None

    async def append(self, commit: Commit, expected: Head) -> Head:
        if commit.number == len(LOG) and self.meanwhile is not None:
            meanwhile, self.meanwhile = self.meanwhile, None
            await meanwhile()
            raise ConflictError("the head had moved")
        return await super().append(commit, expected)


class Device:
    """It has seen the commits up to a number, and goes by them up to `seen`."""

    def __init__(self, hub: HubOfList, folder: Path, seen: int, limit: int = LIMIT) -> None:
        self.seen = seen
        self.log = KeptLog(hub, RecentCommits(str(folder), limit=limit), lambda: head(LOG, self.seen))


async def test_what_was_read_and_appended_is_given_to_a_log_that_lost_it(tmp_path: Path) -> None:
    hub = HubOfList(LOG[:6])
    device = Device(hub, tmp_path, 0)
    await device.log.commits_after(0)
    device.seen = 6
    await device.log.append(decode_commit(LOG[6]), head(LOG, 6))
    device.seen = 7
    for lost in range(8):
        again = Device(hub, tmp_path, 7)
        hub.log = LOG[:lost]
        assert await again.log.head() == head(LOG, 7)
        assert hub.log == LOG[:7]
    hub.log = LOG[:2]
    again = Device(hub, tmp_path, 7)
    assert await again.log.append(decode_commit(LOG[7]), head(LOG, 7)) == head(LOG, 8)
    assert hub.log == LOG


async def test_a_commit_that_the_device_does_not_go_by_is_given_to_nobody(tmp_path: Path) -> None:
    hub = HubOfList(LOG)
    device = Device(hub, tmp_path, 0)
    await device.log.commits_after(0)
    device.seen, hub.log = 5, LOG[:3]
    assert await device.log.head() == head(LOG, 5)
    assert hub.log == LOG[:5]


async def test_commits_that_are_read_again_and_again_push_out_no_older_ones(tmp_path: Path) -> None:
    """As of a device that cannot apply them for a while: it has no room, say."""
    hub = HubOfList(LOG)
    device = Device(hub, tmp_path, 0, 4 * sum(map(len, LOG)))
    await device.log.commits_after(0, 6)
    device.seen = 6
    for _ in range(20):
        await device.log.commits_after(6, 1)
        await device.log.commits_after(7, 1)
    device.seen, hub.log = 8, []
    assert await device.log.head() == head(LOG, 8)
    assert hub.log == LOG


async def test_a_commit_is_appended_to_what_another_task_gave_meanwhile(tmp_path: Path) -> None:
    await Device(HubOfList(LOG), tmp_path, 0).log.commits_after(0)
    hub = GivenMeanwhile(LOG[:4])
    device = Device(hub, tmp_path, 7)
    hub.meanwhile = device.log.head
    assert await device.log.append(decode_commit(LOG[7]), head(LOG, 7)) == head(LOG, 8)
    assert hub.log == LOG


async def test_commits_that_cannot_be_read_are_not_given(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The hub's log is the caller's to judge, as where none were kept."""
    (tmp_path / FILE).mkdir()
    hub = HubOfList(LOG[:3])
    assert await Device(hub, tmp_path, 8).log.head() == head(LOG, 3)
    assert "cannot be read: " in caplog.text
    assert hub.appended == 0


async def test_a_log_of_another_history_gets_nothing(tmp_path: Path) -> None:
    hub = HubOfList(LOG)
    device = Device(hub, tmp_path, 0)
    await device.log.commits_after(0)
    device.seen = 8
    hub.log = [*LOG[:3], *commits(2, seed=50, after=head(LOG, 3))]
    assert await device.log.head() == head(hub.log, 5)
    with pytest.raises(ConflictError):
        await device.log.append(decode_commit(LOG[7]), head(LOG, 8))
    assert hub.appended == 0


async def test_blocks_that_were_lost_too_are_named(tmp_path: Path) -> None:
    """Whoever publishes stores them again from its caches; the operator can bring back those on nodes."""
    hub = HubOfList(LOG)
    device = Device(hub, tmp_path, 0)
    await device.log.commits_after(0)
    device.seen, hub.log, hub.missing = 8, LOG[:3], (b"b" * 32,)
    for _ in range(2):
        with pytest.raises(BlocksMissingError, match="--after-restore") as raised:
            await device.log.head()
        assert raised.value.blocks == hub.missing
    hub.missing = ()
    assert await device.log.head() == head(LOG, 8)


async def test_several_devices_that_give_at_once_do_not_disturb_each_other(tmp_path: Path) -> None:
    hub = HubOfList(LOG)
    device = Device(hub, tmp_path, 0)
    await device.log.commits_after(0)
    device.seen, hub.log, hub.is_raced = 8, LOG[:2], True
    assert await device.log.head() == head(LOG, 8)
    hub.log, hub.is_raced = LOG[:2], False
    both = [Device(hub, tmp_path, 8) for _ in range(3)]
    async with trio.open_nursery() as nursery:
        for each in both:
            nursery.start_soon(each.log.head)
    assert hub.log == LOG


async def test_a_hub_that_loses_commits_again_gets_them_after_a_while(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    hub = HubOfList(LOG)
    device = Device(hub, tmp_path, 0)
    await device.log.commits_after(0)
    device.seen, hub.log = 8, LOG[:4]
    await device.log.head()
    hub.log = LOG[:4]
    assert await device.log.head() == head(LOG, 4)
    began = trio.current_time()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(device.log.wait_for_change, 8)
        await trio.sleep(PAUSE)
        assert await device.log.head() == head(LOG, 8)
        nursery.cancel_scope.cancel()
    assert trio.current_time() - began >= PAUSE
    assert hub.log == LOG


@pytest.mark.parametrize(
    "error", [ConflictError("moved"), BlocksMissingError("missing", [b"b" * 32]), TransientError("later")]
)
async def test_a_hub_that_loses_what_it_is_given_while_it_is_given_has_to_wait(
    tmp_path: Path, autojump_clock: trio.testing.MockClock, error: Exception
) -> None:
    hub = LyingHub(error)
    device = Device(HubOfList(LOG), tmp_path, 0)
    await device.log.commits_after(0)
    device = Device(hub, tmp_path, 8)
    for _ in range(20):
        with suppress(DriveError):
            await device.log.head()
        await trio.sleep(1)
    assert hub.appended == 5
    await trio.sleep(PAUSE)
    with suppress(DriveError):
        await device.log.head()
    assert hub.appended == 9


async def test_what_was_interrupted_is_gone_on_with_at_once(tmp_path: Path) -> None:
    hub = AwayNowAndThen(LOG[:1])
    await Device(HubOfList(LOG), tmp_path, 0).log.commits_after(0)
    device = Device(hub, tmp_path, 8)
    for _ in range(3):
        with pytest.raises(TransientError):
            await device.log.head()
    assert await device.log.head() == head(LOG, 8)
    assert (hub.appended, hub.log) == (7, LOG)

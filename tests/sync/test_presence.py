"""Devices that show each other what they are doing: on a hub in memory, and on a real one that may lie."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import pytest
import trio

import cache.presence.others as others_module
import cache.presence.presence as presence_module
from backend.errors import TransientError
from backend.remote import HubClient
from backend.upstream import MAX_PRESENCES, SealedPresence
from backend.wire import PRESENCE_BYTES
from cache.drive import Drive
from cache.messages import NOTICES, Nothing, Watched
from cache.namespace.operations import ROOT_INODE
from cache.presence import Writing
from cache.services import Watch, services_of
from mountfs.node_drive import NodeDrive
from tests import contents
from tests.drives import make_file
from tests.hub_server import RunningHub, hub_for_test
from tests.lying_hub import Ask, Heard, LiedTo, Said
from tests.memory_hub import HubSession, Line
from tests.sync.drives import Hub
from tests.sync.test_drives_on_a_hub import settle
from tests.sync.test_whole_drives import names

TICK = 0.02
Doing = list[tuple[str, int, bytes]]


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(presence_module, "TICK", TICK)
    monkeypatch.setattr(presence_module, "UPLOAD_SECONDS", TICK)
    monkeypatch.setattr(presence_module, "RENEWAL", 5 * TICK)


@pytest.fixture
def hub(tmp_path: Path) -> Hub:
    return Hub(tmp_path)


@pytest.fixture(scope="module")
def running() -> Iterator[RunningHub]:
    with hub_for_test() as found:
        yield found


class Account(LiedTo):
    """Each device has a token of its own, as on machines."""

    def __init__(self, running: RunningHub, folder: Path) -> None:
        super().__init__(running, folder)
        self._tokens = [running.another_token(self.token) for _ in range(4)]

    def client(self, number: int) -> HubClient:
        self.told[number] = self.told[number].next()
        return HubClient(self.url, self._tokens[number], transport=self.told[number])


@pytest.fixture
def devices(running: RunningHub, tmp_path: Path) -> Account:
    return Account(running, tmp_path)


def doing(drive: Drive) -> Doing:
    """What others do, as that device knows it."""
    assert drive.presence is not None
    return [(each.activity.name, each.device, each.path) for each in drive.presence.now()]


async def until(drive: Drive, expected: Doing) -> None:
    with trio.fail_after(60):
        while doing(drive) != expected:
            await trio.sleep(TICK / 2)


@contextmanager
def writing(drive: Drive, *named: bytes) -> Iterator[None]:
    """A door of the device has these files open for writing."""
    assert drive.presence is not None
    files = [Writing(drive.lookup(ROOT_INODE, name).inode, ROOT_INODE, name) for name in named]
    drive.presence.writing = lambda: files
    yield
    drive.presence.writing = tuple


@asynccontextmanager
async def one_away(hub: Hub) -> AsyncIterator[tuple[Drive, Drive, Line]]:
    """Two devices that have the file f. The hub is away for the first, until the line is mended."""
    line = Line()
    async with hub.device(1, line=line) as first, hub.device(2) as second:
        await make_file(first, b"f", b"x")
        await settle(first, second)
        line.cut()
        first.contact.lose(OSError("of a test"))
        yield first, second, line


async def test_an_opening_for_writing_is_seen_elsewhere_and_so_is_its_end(hub: Hub) -> None:
    async with hub.device(1) as first, hub.device(2) as second:
        await make_file(first, b"plan.odt", b"x")
        await settle(first, second)
        with writing(first, b"plan.odt"):
            await until(second, [("EDITING", 1, b"plan.odt")])
            assert doing(first) == []
        await until(second, [])


async def test_an_upload_is_seen_before_its_commit_with_a_name_that_nobody_else_knows(hub: Hub) -> None:
    async with hub.device(1) as first, hub.device(2) as second:
        hub.upstream.flush_gate = trio.Event()
        await make_file(first, b"film", contents.content("random", 300_000, 1))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(first.sync)
            await until(second, [("UPLOADING", 1, b"film")])
            assert b"film" not in names(second)
            (present,) = second.presence.now() if second.presence else []
            assert present.size == 300_000
            waiting = (await first.status()).waiting
            assert waiting is not None
            assert waiting.bytes >= 300_000
            hub.upstream.flush_gate.set()
        await until(second, [])
        await second.publisher.follow()
        assert b"film" in names(second)


async def test_nothing_is_sent_where_there_is_no_other_device(
    hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls, show, look = list[str](), HubSession.show, HubSession.of_others

    async def noted_show(session: HubSession, shown: Sequence[SealedPresence]) -> None:
        calls.append("show")
        await show(session, shown)

    async def noted_look(session: HubSession) -> list[SealedPresence]:
        calls.append("look")
        return await look(session)

    monkeypatch.setattr(HubSession, "show", noted_show)
    monkeypatch.setattr(HubSession, "of_others", noted_look)
    async with hub.device(1) as first:
        await make_file(first, b"f", b"x")
        with writing(first, b"f"):
            await trio.sleep(20 * TICK)
            assert calls == []
            async with hub.device(2) as second:
                await first.publisher.follow()
                await until(second, [("EDITING", 1, b"f")])
                assert "show" in calls


@pytest.mark.logs_warnings
async def test_since_when_is_said_of_what_began_while_the_hub_was_away(hub: Hub) -> None:
    async with one_away(hub) as (first, second, line):
        with writing(first, b"f"):
            await trio.sleep(10 * TICK)
            before = time.time_ns()
            line.mend()
            await until(second, [("EDITING", 1, b"f")])
            assert second.presence is not None
            assert second.presence.now()[0].since_ns < before


async def test_of_many_files_the_first_are_looked_at(hub: Hub) -> None:
    looked: set[int] = set()

    def many() -> Iterator[Writing]:
        for number in range(1000):
            looked.add(number)
            yield Writing(made.inode + number, ROOT_INODE, b"f")

    async with hub.device(1) as first, hub.device(2) as second:
        made = await make_file(first, b"f", b"x")
        await settle(first, second)
        assert first.presence is not None
        first.presence.writing = many
        with trio.fail_after(30):
            while len(doing(second)) < MAX_PRESENCES:
                await trio.sleep(TICK)
        assert len(looked) == MAX_PRESENCES


async def test_what_was_not_believed_at_first_is_looked_at_again(
    hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where the newest commits, and with them a new device, are not here yet."""
    async with hub.device(1) as first, hub.device(2) as second:
        await make_file(first, b"f", b"x")
        await settle(first, second)
        looks, of_others = list[int](), HubSession.of_others

        async def noted(session: HubSession) -> list[SealedPresence]:
            found = await of_others(session)
            looks.append(len(found))
            return found

        monkeypatch.setattr(HubSession, "of_others", noted)
        monkeypatch.setattr(others_module, "SKEW", -1.0)
        with writing(first, b"f"), trio.fail_after(30):
            while 1 not in looks:
                await trio.sleep(TICK)
            assert doing(second) == []
            monkeypatch.setattr(others_module, "SKEW", 600.0)
            while doing(second) != [("EDITING", 1, b"f")]:
                await trio.sleep(TICK)


async def test_an_end_is_said_also_if_the_answer_to_the_beginning_was_lost(
    hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with hub.device(1) as first, hub.device(2) as second:
        await make_file(first, b"f", b"x")
        await settle(first, second)
        show, sent = HubSession.show, list[int]()

        async def lost(session: HubSession, shown: Sequence[SealedPresence]) -> None:
            await show(session, shown)
            sent.append(len(shown))
            assert first.presence is not None
            first.presence.writing = tuple
            if len(sent) == 1:
                raise TransientError("the answer was lost")

        monkeypatch.setattr(HubSession, "show", lost)
        with writing(first, b"f"), trio.fail_after(30):
            while sent[:2] != [1, 0]:
                await trio.sleep(TICK)
        await until(second, [])


@pytest.mark.logs_warnings
async def test_away_from_the_hub_nobody_waits_and_it_is_sent_later(hub: Hub) -> None:
    async with one_away(hub) as (first, second, line):
        with writing(first, b"f"):
            with trio.fail_after(5):
                await first.write(first.lookup(ROOT_INODE, b"f").inode, 0, b"y")
            await trio.sleep(10 * TICK)
            assert doing(second) == []
            line.mend()
            await until(second, [("EDITING", 1, b"f")])


async def test_people_and_programs_are_told(hub: Hub) -> None:
    async with hub.device(1) as first, hub.device(2) as second:
        made = await make_file(first, b"f", b"x")
        await settle(first, second)
        nodes, lines = NodeDrive(second), list[tuple[str, str, int | None]]()

        async def tell(told: Sequence[Watched]) -> None:
            lines.extend((each.change, each.path, each.device) for each in told)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(Watch(second, ROOT_INODE).run, tell)
            with writing(first, b"f"):
                await until(second, [("EDITING", 1, b"f")])
                (notice,) = (await services_of(second)[NOTICES.name].answer(Nothing())).notices
                assert (notice.kind, notice.path) == ("editing", "f")
                assert notice.text.startswith("open for writing on dev1 (device 1) since 2")
                assert [each.device for each in nodes.doing_elsewhere(made.inode)] == [1]
                with trio.fail_after(30):
                    while ("editing", "f", 1) not in lines:
                        await trio.sleep(TICK)
            with trio.fail_after(30):
                while ("ended", "f", 1) not in lines:
                    await trio.sleep(TICK)
            nursery.cancel_scope.cancel()
        assert nodes.doing_elsewhere(made.inode) == []


async def test_devices_at_a_real_hub_hear_of_each_other(devices: Account) -> None:
    async with devices.device(1) as first, devices.device(2) as second:
        await make_file(first, b"f", b"x")
        await settle(first, second)
        with writing(first, b"f"), writing(second, b"f"):
            await until(second, [("EDITING", 1, b"f")])
            await until(first, [("EDITING", 2, b"f")])
        await until(first, [])
        await until(second, [])


async def test_the_polls_of_an_only_device_ask_for_no_presences(devices: Account) -> None:
    async with devices.device(1) as first:
        await make_file(first, b"f", b"x")
        await first.sync()
        with trio.fail_after(30):
            while not devices.told[1].count("POST wait"):
                await trio.sleep(TICK)
    assert all(b"presence" not in each.content for each in devices.told[1].heard if each.what == "POST wait")


async def test_a_hub_is_shown_no_names(devices: Account) -> None:
    async with devices.device(1) as first, devices.device(2) as second:
        made = await make_file(first, b"love letter", b"x")
        await settle(first, second)
        with writing(first, b"love letter"):
            await until(second, [("EDITING", 1, b"love letter")])
        sent = [each.content for each in devices.told[1].heard if each.what == "PUT presence"]
    assert {len(each) for each in sent} <= {0, PRESENCE_BYTES}
    for word in (b"love letter", b"letter", b"dev1", made.inode.to_bytes(8, "little")):
        assert all(word not in each for each in sent)


async def test_a_hub_that_shows_old_ones_again_is_not_believed(devices: Account) -> None:
    async with devices.device(1) as first, devices.device(2) as second:
        for name in (b"f", b"g"):
            await make_file(first, name, b"x")
        await settle(first, second)
        kept: list[Said] = []

        async def keep(heard: Heard, ask: Ask) -> Said:
            kept.append(await ask(heard))
            return kept[-1]

        async def replay(heard: Heard, ask: Ask) -> Said:
            return Said(200, kept[0].content + (await ask(heard)).content)

        devices.told[2].lies["GET presence"] = keep
        with writing(first, b"f"):
            await until(second, [("EDITING", 1, b"f")])
        kept[:] = [each for each in kept if each.content]
        devices.told[2].lies["GET presence"] = replay
        with writing(first, b"g"):
            await until(second, [("EDITING", 1, b"g")])
        looks = devices.told[2].count("GET presence")
        await until(second, [])
        assert devices.told[2].count("GET presence") > looks


async def test_a_hub_that_makes_some_up_or_withholds_all_changes_nothing(devices: Account) -> None:
    async with devices.device(1) as first, devices.device(2) as second:
        for name in (b"f", b"g"):
            await make_file(first, name, b"x")
        await settle(first, second)
        lies = [bytes(544), b"\xff" * 100, b"", b"x" * 544 * 1001]

        async def lie(heard: Heard, ask: Ask) -> Said:
            return Said(200, lies.pop(0) if lies else b"")

        devices.told[2].lies["GET presence"] = lie
        with trio.fail_after(60):
            while lies:
                for name in (b"f", b"g"):
                    with writing(first, name):
                        await trio.sleep(5 * TICK)
                        assert doing(second) == []
        await make_file(second, b"h", b"y")
        await settle(first, second)
        assert names(first) == names(second)


async def test_a_hub_that_ends_all_polls_by_presences_costs_no_endless_loop(devices: Account) -> None:
    async with devices.device(1), devices.device(2) as second:
        mark = 0

        async def lie(heard: Heard, ask: Ask) -> Said:
            nonlocal mark
            mark += 1
            said = f'{{"drives": {{}}, "presence": {{"{devices.uuid.hex()}": {mark}}}}}'
            return Said(200, said.encode())

        devices.told[2].lies["POST wait"] = lie
        await make_file(second, b"f", b"x")
        await second.sync()
        await trio.sleep(1.5)
        assert mark <= 4

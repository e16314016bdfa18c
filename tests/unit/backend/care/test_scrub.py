"""backend.care.scrub: what is at rest is read, what is missing or wrong is repaired, and an interrupted scrub
goes on."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import AsyncIterator, Callable, Collection
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import trio
import trio.testing

from backend.care.scrub import SHARES, STATE_FILE, Scrub, ScrubState
from backend.care.scrub_objects import ObjectScrub
from backend.coding.erasure import Profile, code_for
from backend.commits.commit_search import commit_key
from backend.failpoints import OF_PROCESS
from backend.packs.pack_codec import PackCodec
from tests.faulty_node import Fault
from tests.unit.backend.blocks.test_block_store import AWAY, DRIVE, KEY, Rig, blocks, build, running
from tests.unit.backend.commits.test_commit_log import Setup, fill

pytestmark = pytest.mark.logs_warnings
Make = Callable[..., Scrub]


@pytest.fixture
async def rig(tmp_path: Path) -> AsyncIterator[Rig]:
    async with running(build(tmp_path, repair_wait=0.01)) as rig:
        await rig.write(blocks(30), packs=5)
        yield rig


@pytest.fixture
def make(rig: Rig) -> Make:
    def scrub(
        interval: float = 0.0,
        rate: float = 1e9,
        far: Collection[str] = (),
        objects: ObjectScrub | None = None,
    ) -> Scrub:
        code = code_for(Profile.parse("4+2"))
        wake = rig.store.repairs.wake
        return Scrub(
            rig.nodes,
            PackCodec(code, DRIVE, KEY),
            rig.index,
            wake,
            rig.path,
            interval=interval,
            far=far,
            objects=objects,
            rate=rate,
        )

    return scrub


def flip(path: Path, offset: int) -> None:
    data = bytearray(path.read_bytes())
    data[offset] ^= 1
    path.write_bytes(data)


async def test_all_is_read_and_nothing_is_wrong(rig: Rig, make: Make) -> None:
    state = await make().scrub()
    assert (state.fragments, state.wrong, state.unanswered) == (30, 0, 0)
    assert state.position == ""
    assert state.finished_ns >= state.begun_ns > 0
    assert not rig.index.packs.to_repair(1)


@pytest.mark.parametrize("damage", ["flip", "flip the footer", "truncate", "extend", "remove", "swap"])
async def test_what_is_wrong_is_healed(rig: Rig, make: Make, damage: str) -> None:
    whole = {path: path.read_bytes() for path in rig.fragments()}
    first, second = rig.fragments()[:2]
    if damage == "flip":
        flip(first, 10)
    elif damage == "flip the footer":
        flip(first, len(whole[first]) - 60)
    elif damage == "truncate":
        first.write_bytes(whole[first][:-1])
    elif damage == "extend":
        first.write_bytes(whole[first] + b"x")
    elif damage == "remove":
        first.unlink()
    else:
        first.write_bytes(whole[second])
        second.write_bytes(whole[first])
    state = await make().scrub()
    assert state.wrong == (2 if damage == "swap" else 1)
    await rig.settle()
    assert {path: path.read_bytes() for path in rig.fragments()} == whole


FAR = ("node0", "node1", "node2", "node3")


async def test_of_far_nodes_a_share_is_read_in_each_scrub_and_all_in_all_of_them(
    rig: Rig, make: Make
) -> None:
    scrub = make(far=FAR)
    read = 0
    for number in range(SHARES):
        state = await scrub.scrub()
        assert (state.share, state.fragments, state.wrong) == (number, 30, 0)
        assert state.by_size % len(FAR) == 0
        read += 20 - state.by_size
        if number == SHARES // 2:
            scrub = make(far=FAR)  # of another mount
    assert read == 20


async def test_what_far_nodes_have_lost_or_cut_is_found_in_each_scrub(rig: Rig, make: Make) -> None:
    whole = {path: path.read_bytes() for path in rig.fragments()}
    first, second = [path for path in whole if path.parents[2].name in FAR][:2]
    first.unlink()
    second.write_bytes(whole[second][:-1])
    assert (await make(far=FAR).scrub()).wrong == 2
    await rig.settle()
    assert {path: path.read_bytes() for path in rig.fragments()} == whole


async def test_what_has_rotted_on_a_far_node_is_found_when_its_turn_comes(rig: Rig, make: Make) -> None:
    flip(next(path for path in rig.fragments() if path.parents[2].name in FAR), 10)
    scrub = make(far=FAR)
    assert sum([(await scrub.scrub()).wrong for _ in range(SHARES)]) == 1


async def test_what_was_written_over_on_a_far_node_is_found_at_once(rig: Rig, make: Make) -> None:
    """By its tag, whatever its turn; and what is right all the same is read once."""
    for name in FAR:
        rig.nodes[name].gives_tags = True
    scrub, whole = make(far=FAR), {path: path.read_bytes() for path in rig.fragments()}
    state = await scrub.scrub()
    read = state.fragments - state.by_size
    other = next(path for path in whole if not is_read(path, state.share + 1) and path.parts[-4] in FAR)
    flip(other, 10)
    state = await scrub.scrub()
    assert state.wrong == 1
    await rig.settle()
    assert {path: path.read_bytes() for path in rig.fragments()} == whole
    state = await scrub.scrub()
    assert state.wrong == 0
    assert read >= 10


async def test_tags_that_are_as_they_were_seen_are_not_written_again(rig: Rig, make: Make) -> None:
    """Each write to the index costs, and has those who read look blocks up anew."""
    for name in FAR:
        rig.nodes[name].gives_tags = True
    scrub = make(far=FAR)
    await scrub.scrub()
    noted = rig.index.database.changes()
    assert (await scrub.scrub()).by_size
    assert rig.index.database.changes() == noted


def is_read(path: Path, share: int) -> bool:
    """Whether it is the turn of the fragment's pack."""
    return int(path.name.partition(".")[0], 16) % SHARES == share


async def test_two_nodes_that_lost_everything(rig: Rig, make: Make) -> None:
    whole = {path: path.read_bytes() for path in rig.fragments()}
    for number in (1, 4):
        shutil.rmtree(rig.path / f"node{number}" / "packs")
    assert 5 <= (await make().scrub()).wrong <= 10  # a pack may be whole again before its second one is read
    await rig.settle()
    assert {path: path.read_bytes() for path in rig.fragments()} == whole


async def test_a_node_that_does_not_answer_is_not_called_wrong(rig: Rig, make: Make) -> None:
    rig.nodes["node2"].faults = [Fault(("get",), error=AWAY)]
    state = await make().scrub()
    assert (state.wrong, state.unanswered) == (0, 5)
    assert not rig.index.packs.to_repair(1)


async def test_an_interrupted_scrub_goes_on_where_it_was(rig: Rig, make: Make) -> None:
    flip(rig.fragments()[0], 5)
    OF_PROCESS.arm("scrub.noted", "eio")
    try:
        with pytest.raises(OSError, match=r"scrub\.noted"):
            await make().scrub()
    finally:
        OF_PROCESS.disarm_all()
    rig.store.repairs.wake()
    await rig.settle()
    state = replace(make().state, position=rig.index.packs.after(b"", 3)[-1].id.hex())
    (rig.path / STATE_FILE).write_text(json.dumps(asdict(state)))
    second = make()
    assert second.is_running
    assert (await second.scrub()).fragments == 12
    assert make().state == second.state


async def test_a_state_of_before_the_copies_were_looked_at_goes_on(rig: Rig, make: Make) -> None:
    kept = {
        name: value for name, value in asdict(make().state).items() if "cop" not in name and name != "commit"
    }
    (rig.path / STATE_FILE).write_text(json.dumps({**kept, "share": 7, "position": "00"}))
    assert make().state == ScrubState(share=7, position="00")


async def test_a_scrub_that_was_interrupted_among_the_commits_goes_on_there(rig: Rig, make: Make) -> None:
    state = replace(make().state, position=rig.index.packs.after(b"", 5)[-1].id.hex(), commit=2)
    (rig.path / STATE_FILE).write_text(json.dumps(asdict(state)))
    setup = Setup()
    await fill(log := await setup.writer(), 5)
    scrub = make(objects=ObjectScrub(setup.objects, log, (), no_mending))
    assert scrub.is_running
    state = await scrub.scrub()
    assert (state.fragments, state.copies, state.copies_wrong, state.commit) == (0, 9, 0, 0)
    assert not make().is_running
    assert (await scrub.scrub()).copies == 15


async def test_of_far_nodes_each_commit_is_read_in_one_of_all_shares(rig: Rig, make: Make) -> None:
    setup = Setup()
    await fill(log := await setup.writer(), 5)
    for number in (2, 5):
        setup.order(number)[0].damage(commit_key(number))
    scrub = make(objects=ObjectScrub(setup.objects, log, (), no_mending), far=[*setup.nodes])
    found: dict[int, int] = {}
    for _ in range(SHARES):
        state = await scrub.scrub()
        found[state.share] = state.copies_wrong
        assert state.copies <= 3
    assert {share for share, wrong in found.items() if wrong} == {2, 5}


async def no_mending(_key: str) -> int:
    await trio.lowlevel.checkpoint()
    return 0


async def test_a_state_file_that_is_damaged_only_begins_anew(rig: Rig, make: Make) -> None:
    for text in (b"", b"{}", b'{"position": 3}', b"\xff", b"[]", b'{"commit": -1}'):
        (rig.path / STATE_FILE).write_bytes(text)
        assert make().state == ScrubState()


async def test_the_rate_is_kept(rig: Rig, make: Make) -> None:
    total = sum(path.stat().st_size for path in rig.fragments())
    began = trio.current_time()
    await make(rate=total).scrub()
    assert trio.current_time() - began < 1
    began = trio.current_time()
    await make(rate=total / 1.5).scrub()
    assert trio.current_time() - began > 0.4


async def test_it_runs_when_it_is_due_or_asked_for(rig: Rig, make: Make) -> None:
    scrub = make(interval=3600.0)
    async with trio.open_nursery() as nursery:
        finished = scrub.finished
        nursery.start_soon(scrub.run)
        with trio.fail_after(5):
            await finished.wait()
        done = scrub.state.finished_ns
        assert abs(time.time_ns() - done) < 60e9
        await trio.testing.wait_all_tasks_blocked()
        assert scrub.state.finished_ns == done
        with trio.fail_after(5):
            await scrub.request().wait()
        assert scrub.state.finished_ns > done
        nursery.cancel_scope.cancel()


async def test_without_an_interval_it_waits_to_be_asked(rig: Rig, make: Make) -> None:
    scrub = make()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(scrub.run)
        await trio.testing.wait_all_tasks_blocked()
        assert scrub.state.finished_ns == 0
        with trio.fail_after(5):
            await scrub.request().wait()
        nursery.cancel_scope.cancel()

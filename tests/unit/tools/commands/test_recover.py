"""`drivefs node recover`: a majority of the nodes that vote is lost for good."""

from __future__ import annotations

import itertools
import os
import shutil
import signal
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import trio

from backend.cluster import check_nodes, recovery
from backend.commits import NO_CLAIM, Lease, ReplicatedCommitLog, lease_record, this_process
from backend.commits.lease_record import LeaseRecord
from backend.commits.object_format import unframe
from backend.errors import (
    ConflictError,
    CorruptError,
    FencedError,
    LeaseHeldError,
    UnavailableError,
    UsageError,
)
from backend.keys import Secret
from backend.nodes import file_systems
from backend.system import THIS_MACHINE
from tests.small_drive import CLEAN, CORRECTED, SmallDrive, copy_of, make_small_drive
from tools import compose
from tools.drive_nodes import open_nodes, patient
from tools.secret_source import SecretSource

pytestmark = pytest.mark.logs_warnings

ROOT = Path(__file__).parents[4]
VOTERS = ("node0", "node1", "node2", "node3", "node4")


@pytest.fixture(scope="module")
def eight(tmp_path_factory: pytest.TempPathFactory) -> SmallDrive:
    made = make_small_drive(tmp_path_factory.mktemp("eight"))
    new = [made.drive / name for name in ("node6", "node7")]
    assert made.drivefs("node", "add", *new, made.drive, *made.secret) == 0
    return made


@pytest.fixture
def made(eight: SmallDrive, tmp_path: Path) -> SmallDrive:
    return copy_of(eight, tmp_path)


def recover(made: SmallDrive) -> int:
    return made.drivefs("node", "recover", made.drive, *made.secret)


def voters(made: SmallDrive) -> set[str]:
    return {entry.name for entry in compose.load_drive(str(made.drive)).nodes if entry.votes}


def commits(made: SmallDrive) -> set[int]:
    """The numbers of which any node that is there has a copy."""
    return {int(path.name, 16) for path in made.drive.glob("node*/commits/*")}


def small_objects(made: SmallDrive) -> set[str]:
    """The keys of the commits and roots that any node that is there has."""
    return {f"{path.parent.name}/{path.name}" for path in made.drive.glob("node*/[cr]o*s/*")}


def require_copies(made: SmallDrive) -> None:
    """Three voters have each of them, and all the same."""
    drive_id = made.unlocked().file.id
    for key in small_objects(made):
        paths = [path for name in voters(made) if (path := made.drive / name / key).exists()]
        assert len(paths) >= 3
        assert len({unframe(drive_id, key, path.read_bytes()).data for path in paths}) == 1


def has_gaps(left: set[int]) -> bool:
    return left != set(range(1, max(left) + 1))


def require_open(made: SmallDrive, left: set[int]) -> None:
    """These are the commits that were left."""
    if has_gaps(left):
        with pytest.raises(CorruptError, match="gap"):
            head_of(made)
    else:
        assert head_of(made) == max(left)


def head_of(made: SmallDrive) -> int:
    """As a mount does: take the lease, open the log, settle its head."""

    async def look() -> int:
        drive = made.unlocked()
        bare = open_nodes(drive.folder, drive.file)
        lease = compose.lease_on(bare, drive)
        log = ReplicatedCommitLog(compose.small_objects(drive, patient(bare, 5)), lease.verify, lease.claimed)
        epoch = await lease.acquire()
        await log.open()
        head = await log.become_writer(epoch)
        await lease.release()
        return head.number

    return trio.run(look)


def test_while_a_majority_answers_there_is_nothing_to_recover(made: SmallDrive) -> None:
    before = (made.drive / "drive.toml").read_bytes()
    for name in VOTERS[:2]:
        shutil.rmtree(made.drive / name)
        with pytest.raises(UsageError, match="nothing is to be recovered"):
            recover(made)
    assert (made.drive / "drive.toml").read_bytes() == before


def test_a_majority_that_comes_back_while_the_passphrase_is_asked_for_is_gone_on_with(
    made: SmallDrive, monkeypatch: pytest.MonkeyPatch
) -> None:
    head, answer = head_of(made), SecretSource.secrets
    for name in VOTERS[:3]:
        (made.drive / name).rename(made.folder / name)

    def plug_in(source: SecretSource) -> list[Secret]:
        for name in VOTERS[:3]:
            (made.folder / name).rename(made.drive / name)
        return answer(source)

    with monkeypatch.context() as patch:
        patch.setattr(SecretSource, "secrets", plug_in)
        with pytest.raises(UsageError, match="nothing is to be recovered"):
            recover(made)
    assert voters(made) == set(VOTERS)
    assert head_of(made) == head


def test_a_node_that_comes_back_while_the_passphrase_is_asked_for_stays(
    made: SmallDrive, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer = SecretSource.secrets
    for name in VOTERS[:3]:
        (made.drive / name).rename(made.folder / name)

    def plug_in(source: SecretSource) -> list[Secret]:
        (made.folder / "node0").rename(made.drive / "node0")
        return answer(source)

    (made.drive / "node4").rename(made.folder / "node4")
    monkeypatch.setattr(SecretSource, "secrets", plug_in)
    assert recover(made) == 0
    names = {entry.name for entry in compose.load_drive(str(made.drive)).nodes}
    assert names == {"node0", "node3", "node5", "node6", "node7"}


def test_a_node_that_comes_back_while_commits_are_copied_is_not_given_up(
    made: SmallDrive, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = (made.drive / "drive.toml").read_bytes()
    for name in VOTERS[:4]:
        (made.drive / name).rename(made.folder / name)
    spread = recovery.Spreading.run

    async def plug_in(spreading: recovery.Spreading) -> list[int]:
        (made.folder / "node0").rename(made.drive / "node0")
        return await spread(spreading)

    with monkeypatch.context() as patch:
        patch.setattr(recovery.Spreading, "run", plug_in)
        with pytest.raises(ConflictError, match="node0: came back just now"):
            recover(made)
    assert (made.drive / "drive.toml").read_bytes() == before
    assert recover(made) == 0
    assert "node0" in voters(made)


def test_the_wrong_key_recovers_nothing(made: SmallDrive, tmp_path: Path) -> None:
    for name in VOTERS[:3]:
        shutil.rmtree(made.drive / name)
    before = (made.drive / "drive.toml").read_bytes()
    (tmp_path / "wrong").write_bytes(bytes(32))
    with pytest.raises(Exception, match="key"):
        made.drivefs("node", "recover", made.drive, "--key-file", str(tmp_path / "wrong"))
    assert (made.drive / "drive.toml").read_bytes() == before


@pytest.mark.parametrize(
    "lost", [VOTERS[:3], VOTERS[1:4], VOTERS[2:], (*VOTERS[:3], "node6", "node7"), (*VOTERS[2:], "node5")]
)
def test_the_drive_goes_on_with_the_highest_commit_that_is_left(
    made: SmallDrive, lost: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    head = head_of(made)
    for name in lost:
        (made.drive / name).rename(made.folder / f"lost-{name}")
    with pytest.raises(UnavailableError):
        head_of(made)
    left, objects = commits(made), small_objects(made)
    capsys.readouterr()
    assert recover(made) == 0
    said = capsys.readouterr()
    assert f"the newest commit that is left is {max(left)}" in said.out
    assert voters(made) == {f"node{number}" for number in range(8)} - set(lost)
    assert commits(made) == left
    if max(left) < head:
        assert "are lost with the nodes" in said.out
    assert ("fsck.drivefs -y goes on from the newest snapshot" in said.err) == has_gaps(left)
    assert small_objects(made) == objects
    require_copies(made)
    require_open(made, left)
    with pytest.raises(UsageError, match="nothing is to be recovered"):
        recover(made)
    for name in lost:
        (made.folder / f"lost-{name}").rename(made.drive / name)
    now = check_nodes.survey(str(made.drive)).file
    assert now == compose.load_drive(str(made.drive)), "who comes back has no vote"
    assert {entry.name for entry in now.nodes}.isdisjoint(lost)


def test_nodes_come_and_go_though_a_commit_is_lost(
    made: SmallDrive, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in VOTERS[:3]:
        shutil.rmtree(made.drive / name)
    gap = max(commits(made)) - 1
    for path in made.drive.glob(f"node*/commits/{gap:016x}"):
        path.unlink()
    left = small_objects(made)
    assert recover(made) == 0
    new = [made.drive / name for name in ("node8", "node9")]
    assert made.drivefs("node", "add", *new, made.drive, *made.secret) == 0
    assert "the other commits are moved" in capsys.readouterr().err
    assert made.drivefs("node", "remove", "node3", made.drive, *made.secret) == 0
    assert small_objects(made) == left
    require_copies(made)


def held_elsewhere(made: SmallDrive, name: str, renewals: int = 0, seconds: float = 0.5) -> None:
    """The record on that node as of a process of another boot, which the machine did not survive, or which
    lives on another one."""
    drive = made.unlocked()
    holder = replace(this_process(), boot="another")
    record = LeaseRecord(
        drive=drive.id_text,
        epoch=1 << 10,
        held=True,
        renewals=renewals,
        token="t",
        nonce=f"{renewals}",
        map=drive.file.epoch,
        claim=NO_CLAIM,
        seconds=seconds,
        until_ns=0,
        holder=holder,
    )
    THIS_MACHINE.disk.write_file(
        str(made.drive / name / "lease"), [lease_record.encode(record, drive.keys.lease)]
    )


def test_a_holder_that_went_with_the_power_is_outlived(made: SmallDrive) -> None:
    for name in VOTERS[:3]:
        shutil.rmtree(made.drive / name)
    for name in VOTERS[3:]:
        held_elsewhere(made, name)
    assert recover(made) == 0
    assert voters(made).isdisjoint(VOTERS[:3])


def test_a_holder_elsewhere_that_renews_on_one_node_is_not_taken_over(
    made: SmallDrive,
) -> None:
    for name in VOTERS[:3]:
        shutil.rmtree(made.drive / name)
    before = (made.drive / "drive.toml").read_bytes()
    ended = threading.Event()

    def renew() -> None:
        for renewals in itertools.count():
            held_elsewhere(made, VOTERS[3], renewals, seconds=10)
            if ended.wait(0.05):
                return

    held_elsewhere(made, VOTERS[3], seconds=10)
    living = threading.Thread(target=renew)
    living.start()
    try:
        with pytest.raises(LeaseHeldError, match="mounted by process"):
            recover(made)
    finally:
        ended.set()
        living.join()
    assert (made.drive / "drive.toml").read_bytes() == before


@pytest.mark.parametrize("served", [("node5", "node6"), ("node3", "node4", "node5", "node6", "node7")])
def test_who_is_served_by_another_machine_gets_no_vote(
    made: SmallDrive, monkeypatch: pytest.MonkeyPatch, served: tuple[str, ...]
) -> None:
    for name in VOTERS[:3]:
        shutil.rmtree(made.drive / name)
    before = (made.drive / "drive.toml").read_bytes()
    monkeypatch.setattr(file_systems, "is_shared", lambda path: os.path.basename(path) in served)
    if len(served) == 2:
        assert recover(made) == 0
        assert voters(made) == {"node3", "node4", "node7"}
    else:
        with pytest.raises(UsageError, match="none of the nodes that are left can vote"):
            recover(made)
        assert (made.drive / "drive.toml").read_bytes() == before


def recover_until(made: SmallDrive, step: str) -> None:
    """In a process that is killed at that failpoint."""
    command = "from tools.drivefs import main; main()"
    environment = os.environ | {"PYTHONPATH": str(ROOT), "DRIVEFS_FAILPOINTS": f"{step}=kill"}
    arguments = [sys.executable, "-c", command, "node", "recover", str(made.drive), *made.secret]
    ended = subprocess.run(
        arguments, env=environment, capture_output=True, text=True, timeout=60, check=False
    )
    assert ended.returncode == -signal.SIGKILL, ended.stderr


BEFORE = ("lease.after-acquire", "node.recover-copied", "node.recovered", "drive-file.nodes-written")
AFTER = ("node.recover-written", "lease.before-release")
STEPS = {name for name in (*BEFORE, *AFTER) if name.startswith("node.")}
"""that nothing else reaches"""


@pytest.mark.parametrize("step", [*BEFORE, *AFTER])
def test_killed_and_run_again(made: SmallDrive, step: str) -> None:
    lost = VOTERS[:3]
    for name in lost:
        shutil.rmtree(made.drive / name)
    left = commits(made)
    recover_until(made, step)
    if step in BEFORE:
        assert recover(made) == 0
    else:
        with pytest.raises(UsageError, match="nothing is to be recovered"):
            recover(made)
    assert voters(made).isdisjoint(lost)
    require_open(made, left)


@pytest.mark.parametrize(
    ("step", "lost"),
    [
        *((step, VOTERS[:3]) for step in (*BEFORE, *AFTER)),
        (BEFORE[-1], (*VOTERS[1:4], "node6", "node7")),
        (AFTER[0], (*VOTERS[1:4], "node6", "node7")),
    ],
)
def test_killed_and_the_lost_nodes_come_back(made: SmallDrive, step: str, lost: tuple[str, ...]) -> None:
    """Whatever looks at the copies of the map next, it is the one that mounts go by."""
    head = head_of(made)
    for name in lost:
        (made.drive / name).rename(made.folder / name)
    left = commits(made)
    recover_until(made, step)
    for name in lost:
        (made.folder / name).rename(made.drive / name)
    in_force = compose.load_drive(str(made.drive))
    assert check_nodes.survey(str(made.drive)).file == in_force
    with pytest.raises(UsageError, match="nothing is to be recovered"):
        recover(made)
    made.forget()
    if step in AFTER:
        assert voters(made).isdisjoint(lost)
        require_open(made, left)
        return
    assert voters(made) == set(VOTERS)
    assert head_of(made) == head
    assert made.read() == made.content
    assert made.fsck("-y") in (CLEAN, CORRECTED)
    assert made.fsck("-n") == CLEAN
    assert voters(made) == set(VOTERS)
    assert made.read() == made.content


async def take_over(made: SmallDrive) -> None:
    """As another process does it that takes this one for dead."""
    drive = made.unlocked()
    left = {
        name: node for name, node in open_nodes(drive.folder, drive.file).items() if name not in VOTERS[:3]
    }
    lease = Lease(
        left,
        drive.file.id,
        drive.keys.lease,
        this_process(),
        map_epoch=drive.file.epoch,
        life=lambda *_: "gone",
    )
    await lease.acquire()


def test_the_lease_is_renewed_meanwhile_and_confirmed_before_the_drive_file_is_written(
    made: SmallDrive, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in VOTERS[:3]:
        shutil.rmtree(made.drive / name)
    before = (made.drive / "drive.toml").read_bytes()
    renewing = trio.Event()
    adopt = recovery.adopt

    async def renew(_lease: Lease) -> None:
        renewing.set()
        await trio.sleep_forever()

    async def adopt_slowly(*arguments: Any) -> None:
        with trio.fail_after(30):
            await renewing.wait()
        await adopt(*arguments)
        await take_over(made)

    monkeypatch.setattr(Lease, "run", renew)
    monkeypatch.setattr(recovery, "adopt", adopt_slowly)
    with pytest.raises(FencedError):
        recover(made)
    assert renewing.is_set()
    assert (made.drive / "drive.toml").read_bytes() == before
    assert all(path.read_bytes() == before for path in made.drive.glob("node*/drive.toml"))

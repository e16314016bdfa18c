"""An hour of everything at once: random load of every kind of content, SIGKILL every few seconds, nodes that
go and come back, fail, are full, slow, cut reads short or are hostile, bytes that rot, disks of state and
cache that fill up, their folders removed under the mount, a drive of which every node is full.

At most two nodes are harmed at a time, as far as the code reaches; before others are, the drive is made
whole by its own tools. Where all that the mount has on its disks is removed, or every node is full, it is not
killed: what it alone holds it is to store. After each round what was acknowledged is compared with the load's
manifests. At the end `fsck.drivefs -f --data` finds nothing, and a machine that has never seen the drive
reads all of it.

`STORM_SECONDS` is how long (3600), `STORM_SEED` repeats the choices.
"""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import pytest

from backend.nodes import OWN_FILES
from tests.contents import content
from tests.crash.test_kill_mount import Rounds
from tests.hostile import ACTIONS, TARGETS, Attack, Hostile
from tests.mount.conftest import drive, fuse, unmade_drive
from tests.mount.faulty_mount import VARIABLE, Faults
from tests.mount.mounted import MountedDrive, run
from tests.mount.test_bad_input import fill_disk
from tests.small_drive import flip
from tools import compose
from tools.errors import PARTLY, SHORT

__all__ = ["drive", "fuse", "unmade_drive"]

SECONDS = int(os.environ.get("STORM_SECONDS", "3600"))
OPTIONS = ("commit_interval=200ms", "journal_size=128M")
STATE_DISK = "512m"
CACHE_DISK = "128m"
AT_ONCE = 2
LOG_SHOWN = 50_000
PATIENCE = 600
"""Seconds for one command: a machine that does other things too may be slow, which is no loss."""
CLEAN, CORRECTED = 0, 1

pytestmark = [pytest.mark.soak, pytest.mark.mount, pytest.mark.timeout(SECONDS + 1800)]


class Storm:
    """Rounds of load and harm on one drive."""

    def __init__(self, drive: MountedDrive, faults: Faults, seed: int) -> None:
        self._drive = drive
        self._faults = faults
        self._chance = random.Random(seed)
        self._rounds = Rounds(drive)
        self._ballast = {"state": drive.state / "ballast", "cache": drive.cache / "ballast"}
        self._number = seed
        self._earlier = drive.folder / "earlier"
        shutil.copytree(drive.drive, self._earlier)
        self._outside = drive.folder / "outside"
        self._outside.mkdir()
        (self._outside / "file").write_bytes(b"nobody's")
        self.counts: Counter[str] = Counter()
        self.changes = 0

    def round(self) -> None:
        """Load, with harm before and meanwhile; mostly a kill; comparison; healing."""
        if self._chance.random() < 0.2:
            self._round(self._chance.choice([self._fill_the_drive, self._remove_state]), kill=False)
        else:
            self._round(self._harm_nodes_and_disks, kill=self._chance.random() < 0.85)

    def _round(self, harm: Callable[[], None], *, kill: bool) -> None:
        self._number += 1
        with self._rounds.load(self._number):
            self._rounds.wait_for_changes(1)
            harm()
            time.sleep(self._chance.uniform(0.5, 6))  # the moment is the point
            if kill:
                self._drive.kill()
                self.counts["kill"] += 1
            else:  # writers may be waiting for the nodes, with the journal full: nothing else ends them
                self._bring_nodes_back()
        for ballast in self._ballast.values():
            ballast.unlink(missing_ok=True)
        if kill:
            self._drive.remount(*OPTIONS)
        self.changes += self._rounds.check(latest=1)
        self._heal()

    # Harm

    def _harm_nodes_and_disks(self) -> None:
        harms: list[Callable[[int], None]] = [self._lose, self._fail, self._fill, self._shorten, self._rot]
        harms += [self._slow, self._be_hostile]
        for node in self._chance.sample(range(6), self._chance.randint(0, AT_ONCE)):
            self._chance.choice(harms)(node)
        if self._chance.random() < 0.3:
            self._chance.choice([self._fill_disk, self._remove_cache])()

    def _lose(self, node: int) -> None:
        self.counts["node lost"] += 1
        self._drive.take_away([node])

    def _fail(self, node: int) -> None:
        self.counts["node with errors"] += 1
        self._faults.set(node, error="EIO")

    def _fill(self, node: int) -> None:
        self.counts["node full"] += 1
        self._faults.set(node, error="ENOSPC", calls="write")

    def _shorten(self, node: int) -> None:
        self.counts["node with short reads"] += 1
        self._faults.set(node, short=3, calls="read")

    def _slow(self, node: int) -> None:
        self.counts["node slow"] += 1
        self._faults.set(node, delay=self._chance.choice([0.5, 5]))

    def _rot(self, node: int) -> None:
        """Bytes of a quarter of a node's files."""
        files = [path for path in self._drive.nodes()[node].rglob("*") if path.is_file()]
        kept = ("lease", *OWN_FILES, "node.toml")
        rotten = [path for path in sorted(files) if path.name not in kept and self._chance.random() < 0.25]
        for path in rotten:
            if size := _size(path):
                self.counts["byte flipped"] += 1
                flip(path, self._chance.randrange(size), self._chance.randrange(8))

    def _be_hostile(self, node: int) -> None:
        """Whoever can write to the node, and knows what it was before."""
        folders = self._drive.nodes()
        others = [path for path in folders if path != folders[node] and path.exists()]
        file = compose.load_drive(str(self._drive.drive))
        enemy = Hostile(folders[node], others, self._earlier / folders[node].name, self._outside, file)
        for _ in range(self._chance.randint(1, 6)):
            target, action = self._chance.choice(TARGETS), self._chance.choice(ACTIONS)
            self.counts[f"hostile node: {action}"] += 1
            enemy.strike(Attack(target, action, self._chance.randrange(1000)))

    def _fill_disk(self) -> None:
        which = self._chance.choice(sorted(self._ballast))
        self.counts[f"{which} disk full"] += 1
        fill_disk(self._ballast[which])

    def _remove_cache(self) -> None:
        self.counts["cache removed"] += 1
        _empty(self._drive.cache)

    def _remove_state(self) -> None:
        """And with it the journal, the only copy of what is not stored."""
        self.counts["state removed"] += 1
        _empty(self._drive.state)

    def _fill_the_drive(self) -> None:
        """Every node is full and says so; what is there can be deleted all the same."""
        self.counts["drive full"] += 1
        surplus = self._drive.mountpoint / f"surplus {self._number}"
        surplus.write_bytes(content("text", 3_000_000, self._number))
        self._faults.set(*range(6), full=True)
        run("rm", surplus)

    # Healing

    def _heal(self) -> None:
        """The disks are well again: the drive's own tools make it whole."""
        self._bring_nodes_back()
        self._sync()
        self._umount()
        assert self._drive.fsck("-y", "--data") in (CLEAN, CORRECTED)
        self._drive.mount(*OPTIONS)
        self._drive.sync()  # all of it with the promised redundancy
        self._rounds.forget()
        assert [path.read_bytes() for path in self._outside.iterdir()] == [b"nobody's"]

    def _bring_nodes_back(self) -> None:
        self._faults.clear()
        self._drive.bring_back()

    def _sync(self) -> None:
        """Everything is stored, perhaps not on nodes that fsck has to mend first. syncfs(2) tells once of
        what could not be written back before."""
        codes = [self._drive.tool("drivefs", "sync", self._drive.mountpoint).returncode for _ in range(2)]
        assert codes[1] in (0, SHORT), codes

    def _umount(self) -> None:
        """The same of the end of a mount."""
        assert self._drive.tool("umount.drivefs", self._drive.mountpoint).returncode in (0, PARTLY)

    def end(self) -> None:
        """The whole comparison."""
        self._rounds.check()
        self._drive.umount()
        assert self._drive.fsck("-f", "-n", "--data") == CLEAN
        for path in (*self._drive.cache.iterdir(), *self._drive.state.iterdir()):
            run("rm", "-r", path)
        self._drive.mount()
        self._rounds.check()
        self._drive.umount()


def _empty(folder: Path) -> None:
    """As a cleaner does it, while somebody works there: what is made meanwhile is met by its next turn."""
    while found := list(folder.iterdir()):
        subprocess.run(["rm", "-rf", *found], stderr=subprocess.DEVNULL, check=False)


def _size(path: Path) -> int:
    """0 if it is gone meanwhile."""
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


@contextmanager
def told_of_failures(drive: MountedDrive) -> Iterator[None]:
    """What the mount had to say goes with its folder: show the end of it if the block fails."""
    try:
        yield
    except BaseException:
        print(f"failed at {datetime.now(UTC).isoformat()}; the mount's log:\n{drive.log()[-LOG_SHOWN:]}")
        raise


@pytest.fixture
def small_disks(drive: MountedDrive) -> MountedDrive:
    """The drive's state and its cache are on disks of their own."""
    if os.geteuid():
        pytest.skip("needs root, to mount small disks")
    drive.state, drive.cache = drive.folder / "small state", drive.folder / "small cache"
    for folder, size in ((drive.state, STATE_DISK), (drive.cache, CACHE_DISK)):
        folder.mkdir()
        run("mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", folder)
    return drive


def test_nothing_is_lost_in_a_storm(small_disks: MountedDrive) -> None:
    drive, seed = small_disks, int(os.environ.get("STORM_SEED", random.randrange(1 << 30)))
    print(f"STORM_SEED={seed} STORM_SECONDS={SECONDS}")
    faults = Faults(drive.folder / "faults.json")
    drive.programs["mount.drivefs"] = "tests.mount.faulty_mount"
    drive.environment[VARIABLE] = str(faults.path)
    drive.patience = PATIENCE
    drive.mount(*OPTIONS)
    storm, end, rounds = Storm(drive, faults, seed), time.monotonic() + SECONDS, 0
    while time.monotonic() < end:
        with told_of_failures(drive):
            storm.round()
        rounds += 1
        print(f"round {rounds}: {storm.changes} changes survived, {dict(storm.counts)}", flush=True)
    storm.end()
    print(f"{rounds} rounds, {storm.changes} changes survived: {dict(storm.counts)}; seed {seed}")
    assert storm.changes > rounds

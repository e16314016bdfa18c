"""Ten writers on mounts of one drive, and a hub whose parts die one after the other: each of its processes,
two nodes, the balancer, the primary of the database. No call of a writer fails, nothing acknowledged is lost.

Every part that dies is seen to be gone, and comes back or is replaced. Under each loss the writers go on, and
after it each has to store. Then a machine that has never seen the drive has all that the manifests tell of,
as every mount has. `STORM_SECONDS` is how long (600, of hub processes only 3600), `STORM_SEED` repeats the
choices.
"""

from __future__ import annotations

import os
import random
import re
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Final

import pytest

from tests.crash import load
from tests.hub_machine import PASSPHRASE, secret_file
from tests.hub_site import NODES, HubSite, hub_site
from tests.mount.conftest import fuse
from tests.mount.hub_mounts import MachineAtHub
from tests.mount.mounted import ROOT, differences, new_folder, run, succeed, taken_away
from tests.servers import NoServerError
from tests.services import Service
from tests.soak import hub_load
from tests.waiting import wait_until

__all__ = ["fuse"]

SECONDS: Final = int(os.environ.get("STORM_SECONDS", "600"))
KILLING_SECONDS: Final = int(os.environ.get("STORM_SECONDS", "3600"))
SEED: Final = int(os.environ.get("STORM_SEED", random.randrange(1 << 30)))
MACHINES: Final = 4
WRITERS: Final = 10
NODES_AT_ONCE: Final = 2
GONE: Final = 2.0
"""Seconds until something that died is started again, as by docs/hub/drivefs-hub@.service."""
PATIENCE: Final = 300
"""Seconds for what has to happen again after a loss: this machine does other things too."""
ROUND: Final = 300.0
"""Seconds of load, where processes are killed every few of them."""
LEEWAY: Final = 3600
"""Seconds for the last round, which is not cut off, and for all comparisons."""
PUT_OFF: Final = r"the hub does not answer: |the hub says 50[234]|^no answer within"
"""What a sync is told that is to be repeated."""
EMAIL: Final = "storm@example.org"
DRIVE: Final = "storm"

pytestmark = [pytest.mark.soak, pytest.mark.mount, pytest.mark.logs_warnings]


class Writer:
    """A process of `tests.soak.hub_load`, and what its manifest says so far."""

    def __init__(self, machine: MachineAtHub, manifests: Path, name: str, seed: int) -> None:
        self.name, self.manifest = name, manifests / name
        command = [sys.executable, "-m", hub_load.__name__]
        self._process = subprocess.Popen(
            [*command, str(machine.mountpoint), str(manifests), name, str(seed)],
            cwd=ROOT,
            env=machine.variables(),
            stdin=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.progress = hub_load.Progress(self.manifest)

    def require_running(self) -> None:
        """A failure, with its words, if one of its calls failed."""
        if self._process.poll() is not None:
            _, said = self._process.communicate()
            pytest.fail(f"{self.name} ended with code {self._process.returncode}: {said}")

    def end(self) -> None:
        """It has finished what it was doing, and stored all."""
        _, said = self._process.communicate(timeout=PATIENCE)
        assert self._process.returncode == 0, said

    def kill(self) -> None:
        """Nothing of it runs. Idempotent."""
        self._process.kill()
        self._process.communicate()


class Storm:
    """A hub, and the machines of an account that have its drive mounted."""

    def __init__(self, site: HubSite, folder: Path, machines: ExitStack) -> None:
        self.site = site
        self.chance = random.Random(SEED)
        self.counts: Counter[str] = Counter()
        self.longest: dict[str, float] = {}
        self._folder = folder
        self._rounds = 0
        self._writers: list[Writer] = []
        self._passphrase = secret_file(folder, "passphrase", PASSPHRASE)
        recovery = ["--recovery-file", f"{folder}/recovery"]
        with self._machine() as first:
            succeed(first.tool("drivefs", "account", "create", *self._login(), *recovery))
            succeed(first.tool("drivefs", "drives", "create", DRIVE))
        self._machines = [machines.enter_context(self._mounted()) for _ in range(MACHINES)]

    def _login(self) -> list[str]:
        balancer = self.site.balancer
        secrets = ["--passphrase-file", self._passphrase, "--ca-file", balancer.certificate]
        return [balancer.url, "--email", EMAIL, *secrets]

    @contextmanager
    def _machine(self) -> Iterator[MachineAtHub]:
        with taken_away(MachineAtHub(new_folder(), f"{self.site.balancer.url}/{DRIVE}")) as machine:
            machine.patience = PATIENCE
            yield machine

    @contextmanager
    def _mounted(self) -> Iterator[MachineAtHub]:
        """A machine that has never seen the drive, which is unmounted afterwards."""
        with self._machine() as machine:
            succeed(machine.tool("drivefs", "login", *self._login()))
            machine.mount()
            yield machine
            machine.umount()
            succeed(machine.tool("drivefs", "logout"))

    # Rounds

    @contextmanager
    def round(self) -> Iterator[None]:
        """Writers at work while the block runs; then all that they were told is done is on every machine."""
        self._rounds += 1
        manifests = self._folder / f"round{self._rounds}"
        manifests.mkdir()
        self._writers = [self._writer(manifests, number) for number in range(WRITERS)]
        try:
            self.go_on()
            yield
            self.store()
            for writer in self._writers:
                writer.end()
        finally:
            for writer in self._writers:
                writer.kill()
        self._compare()
        self._forget()

    def _writer(self, manifests: Path, number: int) -> Writer:
        machine, name = self._machines[number % MACHINES], f"writer-{self._rounds}-{number}"
        (machine.mountpoint / name).mkdir()
        return Writer(machine, manifests, name, SEED + self._rounds * WRITERS + number)

    def go_on(self, changes: int = 2) -> None:
        """Return when each writer has made so many changes more."""
        self._wait(lambda progress: progress.manifest.changes, changes)

    def store(self) -> None:
        """Return when each has begun and ended to store what it has."""
        self._wait(lambda progress: progress.stores, 2)

    def _wait(self, done: Callable[[hub_load.Progress], int], more: int) -> None:
        wanted = {writer.progress: done(writer.progress.now()) + more for writer in self._writers}
        wait_until(
            lambda: self._all_run() and all(done(each.now()) >= wanted[each] for each in wanted), PATIENCE
        )

    def _all_run(self) -> bool:
        for writer in self._writers:
            writer.require_running()
        return True

    def _compare(self) -> None:
        with self._mounted() as machine:
            here, newest = machine.mountpoint, machine.status().commit
            for writer in self._writers:
                assert load.survived(here / writer.name, writer.manifest) == []
            for other in self._machines:
                other.sync()
                wait_until(partial(_follows, other, newest))
                assert differences(here, other.mountpoint) == ""

    def _forget(self) -> None:
        """The drive need not grow without end."""
        for writer in self._writers:
            progress = writer.progress.now()
            self.counts["changes"] += progress.manifest.changes
            self.counts["syncs"] += progress.stores
            self.counts["syncs that were put off"] += len(progress.told)
            strange = [said for said in progress.told if not re.search(PUT_OFF, said)]
            assert strange == [], "what else than the hub's absence kept a sync from its end?"
            for call, seconds in progress.longest.items():
                self.longest[call] = max(seconds, self.longest.get(call, 0.0))
            run("rm", "-r", self._machines[0].mountpoint / writer.name, timeout=PATIENCE)

    # Losses

    def _kill(self, service: Service, name: str) -> None:
        self.counts[f"kill of {name}"] += 1
        service.kill()
        assert not service.is_running
        time.sleep(GONE)  # as the supervisor waits

    def lose_process(self, number: int) -> None:
        """The other answers meanwhile."""
        service = [*self.site.processes.values()][number]
        self._kill(service, "a hub process")
        self.go_on()
        service.start()

    def kill_process(self) -> None:
        """One of them; the other may just be beginning."""
        service = self.chance.choice([*self.site.processes.values()])
        self._kill(service, "a hub process")
        service.start()

    def lose_balancer(self) -> None:
        """There is no other: until it is back, who reads what is at the hub only waits."""
        self._kill(self.site.balancer.service, "the balancer")
        self.site.balancer.service.start()
        self.go_on()

    def lose_nodes(self) -> None:
        """Two of them. What is to be stored waits."""
        self.counts["loss of two nodes"] += 1
        chosen = self.chance.sample(range(NODES), NODES_AT_ONCE)
        for number in chosen:
            self.site.take_away(number)
        self.go_on()
        assert not any(self.site.node(number).exists() for number in chosen)
        for number in chosen:
            self.site.bring_back(number)

    def lose_primary(self) -> None:
        """The standby takes its place, and it comes back as the standby."""
        self.counts["kill of the primary"] += 1
        database, begun = self.site.database, time.monotonic()
        lost = database.primary()
        assert lost is not None
        database.kill(lost)
        self.go_on()
        wait_until(lambda: database.primary() not in (None, lost), PATIENCE)
        self.longest["fail-over"] = max(time.monotonic() - begun, self.longest.get("fail-over", 0.0))
        self.store()
        database.revive(lost)

    def all_losses(self) -> list[Callable[[], None]]:
        """Each once, in an order by chance."""
        losses: list[Callable[[], None]] = [self.lose_balancer, self.lose_nodes, self.lose_primary]
        losses += [partial(self.lose_process, number) for number in range(len(self.site.processes))]
        return self.chance.sample(losses, len(losses))

    def lose_each(self) -> None:
        """One after the other; after each all is well again, and each writer stores."""
        for loss in self.all_losses():
            loss()
            self.site.wait()
            self.store()

    # The end

    def check(self) -> None:
        """The hub has nothing to say of its packs, once it has made whole what nodes lacked."""
        wait_until(lambda: self.site.hub.run("check", str(self.site.hub.hub), "--data")[0] == 0, PATIENCE)

    def report(self) -> None:
        figures = ", ".join(f"{name} {seconds:.1f} s" for name, seconds in sorted(self.longest.items()))
        print(f"round {self._rounds}: {dict(self.counts)}; longest: {figures}; STORM_SEED={SEED}", flush=True)


def _follows(machine: MachineAtHub, commit: int) -> bool:
    """Whether it has that commit."""
    return machine.status().commit >= commit


def until(seconds: float) -> Iterator[None]:
    """Once, and again for so long."""
    end = time.monotonic() + seconds
    yield
    while time.monotonic() < end:
        yield


@pytest.fixture
def storm(fuse: None, tmp_path: Path) -> Iterator[Storm]:
    with ExitStack() as stack:
        try:
            site = stack.enter_context(hub_site(tmp_path))
        except NoServerError as error:
            pytest.skip(str(error))
        with ExitStack() as machines:
            found = Storm(site, tmp_path, machines)
            yield found
        found.check()


@pytest.mark.timeout(SECONDS + LEEWAY)
def test_the_parts_of_a_hub_die_again_and_again_and_nothing_is_lost(storm: Storm) -> None:
    for _ in until(SECONDS):
        with storm.round():
            storm.lose_each()
        storm.report()


@pytest.mark.timeout(KILLING_SECONDS + LEEWAY)
def test_hub_processes_are_killed_every_few_seconds_and_nothing_is_lost(storm: Storm) -> None:
    for _ in until(KILLING_SECONDS):
        with storm.round():
            for _ in until(ROUND):
                storm.kill_process()
                time.sleep(storm.chance.uniform(0, 4))  # the moment is the point
            storm.site.wait()
        storm.report()

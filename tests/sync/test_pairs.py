"""All pairs of net changes: one device edits and publishes, another made its edit on the same base."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from shutil import copyfile
from typing import Final

import pytest

from cache.rebase import Row
from cache.rebase.units import base_of
from tests.sync.edits import EDITS, plant
from tests.sync.simulator import Device, Log, check_replicas, check_sound, settle

IS_COPY: Final = re.compile(r" \(conflict [^/]*$")
"""Not what lies in a folder that is one."""


@dataclass
class Stage:
    """Two devices on one log that begins with the same tree. The first one only follows after its edit, so
    that its rows are those of a replay of the log."""

    devices: list[Device]
    log: Log
    hits: Counter[Row] = field(default_factory=Counter)
    saves: int = 0

    def run(self, *edits: str) -> dict[str, str]:
        """Each device makes its edit, then all settle; the tree."""
        del self.log[1:]
        for device in self.devices:
            device.reset(1)
        before = self.hits.total()
        for device, edit in zip(self.devices, edits, strict=True):
            EDITS[edit](device)
        settle(self.devices, self.log)
        first, *others = self.devices
        check_replicas(others, first, self.log)
        self.saves += 1
        if self.hits.total() > before:
            check_sound(first, self.saves)
        return first.tree()


def make_stage(folder: Path, count: int) -> Stage:
    log: Log = []
    hits: Counter[Row] = Counter()
    first = Device(folder / "0.db", 1, hits)
    plant(first)
    first.sync(log)
    first.namespace.save(0)
    first.close()
    for number in range(1, count + 1):
        copyfile(folder / "0.db", folder / f"{number}.db")
    devices = [Device(folder / f"{number}.db", number + 2, hits) for number in range(count)]
    return Stage(devices, log, hits)


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    made = make_stage(tmp_path_factory.mktemp("pairs"), 2)
    yield made
    for device in made.devices:
        device.close()


@pytest.mark.parametrize("theirs", EDITS)
def test_any_edit_after_this_one_converges(stage: Stage, theirs: str) -> None:
    for ours in EDITS:
        try:
            tree = stage.run(theirs, ours)
        except Exception as error:
            raise AssertionError(f"{ours!r} after {theirs!r}") from error
        copies = {base_of(path.encode()) for path in tree if IS_COPY.search(path)}
        assert len(copies) <= 2, f"{ours!r} after {theirs!r} makes {copies}"

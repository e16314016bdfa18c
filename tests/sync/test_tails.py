"""The tail of a rebase: what a device does while a rebase is made on a shadow is done on the shadow too, or
the rebase is made anew: by walks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from copy import copy
from enum import Enum
from pathlib import Path
from random import Random
from typing import ClassVar, Final

import pytest

from cache.namespace import Namespace, Shadow
from cache.rebase import OvertakenError, Resolved, Tail
from tests.sync.random_walks import Walk, prepared, walk
from tests.sync.simulator import Device, Log

SEEDS: Final = 40
"""In each test."""
NUMBERS: Final = 1000
STEPS: Final = 5
"""Things that a device does between two looks of the shadow at most."""
ANYTHING: Final = 0.03
"""How likely a step may be one that writes the database at once."""


class End(Enum):
    """The ends of a shadow."""

    SAME = "the tail was done on it, and the tree is that of one rebase of all of it"
    OTHER = "the tail was done on it, and the tree is another one"
    OVERTAKEN = "the tail touched what was not the same"
    DISPLACED = "the database was written"


class TailWalk(Walk):
    """What a device does during a rebase. `written`: files that it wrote, with what; that waits in the
    journal, so no operation says it."""

    def __init__(self, device: Device, random: Random) -> None:
        super().__init__(device, random)
        self.written: dict[int, str] = {}

    def _steps(self) -> list[Callable[[], None]]:
        if self._random.random() < ANYTHING:
            return super()._steps()
        names = [self._make, self._make_folder, self._unlink, self._remove, self._link, self._exchange]
        moves = [self._rename, self._rename, self._rename_folder, self._move_folder]
        return [*names, *moves, self._chmod, self._touch, self._open, self._close_all, self._append]

    def _make(self) -> None:
        if path := self._free():
            self._device.create(path)

    def _make_folder(self) -> None:
        if path := self._free():
            self._device.mkdir(path)

    def _open(self) -> None:
        """The name goes, and somebody has the file open."""
        if path := self._file():
            self._device.unlink_open(path)

    def _append(self) -> None:
        if path := self._file():
            self.written[self._device.find(path)] = self._text()


class BusyDevice(Device):
    """A device that goes on doing things while its rebases are made on a shadow."""

    ends: ClassVar[Counter[End]] = Counter()
    """of all devices"""

    def go_over(self, log: Log, becomes: int | None = None) -> Resolved:
        if becomes is not None:
            return super().go_over(log, becomes)
        random = Random(f"{self.number} {len(log)} {self.namespace.journal_position()}")
        other = self.clone(Path(f"{self.namespace.path}-{len(log)}-{random.random()}"))
        try:
            return self._rebased_aside(log, other, TailWalk(self, random), random)
        finally:
            other.close()

    def _rebased_aside(self, log: Log, other: Device, walker: TailWalk, random: Random) -> Resolved:
        shadow = self.namespace.shadow(NUMBERS)
        assert shadow is not None
        twin = copy(self)
        twin.namespace, twin.unpublished = shadow.namespace, [*self.unpublished]
        resolved = Device.go_over(twin, log)
        unseen = twin.live_blocks() - other.live_blocks()
        tail = Tail(shadow, resolved.changed)
        end = self._go_on(shadow, twin, tail, walker, other, random)
        if end is End.SAME:
            end = self._compare(other, twin, log, walker.written)
            assert not unseen - twin.live_blocks()
            self.namespace.take_place(shadow)
            self.unpublished = twin.unpublished
        else:
            shadow.give_way()
            self._flush(self, walker.written)
            resolved = super().go_over(log)
        self.ends[end] += 1
        return resolved

    def _go_on(
        self,
        shadow: Shadow[Namespace],
        twin: Device,
        tail: Tail,
        walker: TailWalk,
        other: Device,
        random: Random,
    ) -> End:
        """Do things, which the shadow and the other device do too."""
        for _ in range(random.randrange(1, 3)):
            done, known = len(self.unpublished), {*walker.written}
            for _ in range(random.randrange(STEPS)):
                walker.step()
            operations = self.unpublished[done:]
            other.do(*operations)
            if not shadow.is_there:
                return End.DISPLACED
            try:
                tail.take(operations, {*walker.written} - known)
            except OvertakenError:
                return End.OVERTAKEN
            twin.unpublished += operations
        return End.SAME

    def _flush(self, device: Device, written: dict[int, str]) -> None:
        """The content that waits becomes extents."""
        for inode, text in written.items():
            if device.namespace.inode(inode) is not None:
                device.write_inode(inode, text, 5)

    def _compare(self, other: Device, twin: Device, log: Log, written: dict[int, str]) -> End:
        """The tree is listed as it is. Nothing is lost, and what was written has gone on what was there.
        Whether the other device, which rebases all of it without a pause, has the same tree."""
        assert self.tree() == other.tree()
        self._flush(other, written)
        self._flush(twin, written)
        shown, texts = other.live_blocks(), {other.text(inode) for inode in written if is_named(other, inode)}
        Device.go_over(other, log)
        assert not shown - twin.all_blocks()
        assert texts <= {*twin.tree().values()}
        return End.SAME if twin.tree() == other.tree() else End.OTHER


def is_named(device: Device, inode: int) -> bool:
    row = device.namespace.inode(inode)
    return row is not None and row.nlink > 0


@pytest.mark.parametrize("count", [2, 3])
def test_what_goes_on_during_a_rebase_is_done_on_its_result(tmp_path: Path, count: int) -> None:
    base, before = prepared(tmp_path), Counter(BusyDevice.ends)
    for seed in range(SEEDS):
        try:
            walk(tmp_path, base, seed, count, Counter(), BusyDevice)
        except Exception as error:
            raise AssertionError(f"seed {seed} of {count} devices") from error
    ends = BusyDevice.ends - before
    assert all(ends[end] for end in End if end is not End.OTHER)
    assert ends[End.OTHER] < ends[End.SAME] / 20

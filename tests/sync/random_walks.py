"""Walks: several devices that do things at random, publish and follow at random, and settle: by a seed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from random import Random
from shutil import copyfile
from stat import S_IFREG
from typing import Final

from cache.namespace.operations import Forget, Pin, Unpin
from cache.rebase import Row
from tests.sync.edits import plant
from tests.sync.simulator import Device, Log, check_replicas, check_sound, settle

NAMES: Final = ("a", "b", "a-wal", ".git", "~$a")
PINS: Final = (b"p", b"q")
ROUNDS: Final = 4
CLONES: Final = 0.06
"""How likely a device's state is copied in a round, and the copy runs beside it."""


def paths(device: Device, *, folders: bool) -> list[str]:
    return [path for path, text in device.tree().items() if (text == "/") == folders]


class Walk:
    """The things that a device may do; each does nothing where it cannot."""

    def __init__(self, device: Device, random: Random) -> None:
        self._device = device
        self._random = random

    def step(self) -> None:
        self._random.choice(self._steps())()

    def _steps(self) -> list[Callable[[], None]]:
        return [
            self._write,
            self._write,
            self._save,
            self._create,
            self._mkdir,
            self._unlink,
            self._remove,
            self._rename,
            self._rename,
            self._rename_folder,
            self._rename_folder,
            self._move_folder,
            self._move_folder,
            self._link,
            self._chmod,
            self._touch,
            self._set_xattr,
            self._pin,
            self._pin,
            self._forget,
            self._forget,
            self._exchange,
            self._part,
            self._unlink_open,
            self._close_all,
            self._device.new_epoch,
        ]

    def _file(self) -> str:
        return self._random.choice(paths(self._device, folders=False) or [""])

    def _folder(self) -> str:
        return self._random.choice(["", *paths(self._device, folders=True)])

    def _free(self) -> str:
        """A path that is free, or nothing."""
        path = f"{self._folder()}/{self._random.choice(NAMES)}".lstrip("/")
        return "" if self._device.find(path) else path

    def _text(self) -> str:
        """A content, now and then one that the others have too."""
        own = f"{self._device.number}.{self._random.randrange(10**9)}"
        return own if self._random.random() < 0.8 else "same"

    def _write(self) -> None:
        if path := self._file():
            self._device.write(path, self._text())

    def _part(self) -> None:
        if path := self._file():
            self._device.write_inode(self._device.find(path), self._text(), self._random.randrange(1, 40))

    def _save(self) -> None:
        if path := self._file():
            self._device.save(path, self._text())

    def _create(self) -> None:
        if path := self._free():
            self._device.write(path, self._text())

    def _mkdir(self) -> None:
        if path := self._free():
            self._device.mkdir(path)

    def _unlink(self) -> None:
        if path := self._file():
            self._device.unlink(path)

    def _unlink_open(self) -> None:
        """The name goes, and somebody has the file open, and writes."""
        if path := self._file():
            inode = self._device.find(path)
            self._device.unlink_open(path)
            self._device.write_inode(inode, self._text())

    def _close_all(self) -> None:
        self._device.close_files()

    def _remove(self) -> None:
        if (path := self._folder()) and self._random.random() < 0.5:
            self._device.remove_tree(path)

    def _rename(self) -> None:
        old, new = self._file(), self._random.choice([self._free(), self._file()])
        if old and new and self._device.find(old) != self._device.find(new):
            self._device.rename(old, new)

    def _rename_folder(self) -> None:
        old, new = self._folder(), self._free()
        if old and new and not f"{new}/".startswith(f"{old}/"):
            self._device.rename(old, new)

    def _move_folder(self) -> None:
        """Into another folder."""
        old, above = self._folder(), self._folder()
        new = f"{above}/{old.rpartition('/')[2]}".lstrip("/")
        if old and not self._device.find(new) and not f"{new}/".startswith(f"{old}/"):
            self._device.rename(old, new)

    def _link(self) -> None:
        old, new = self._file(), self._free()
        if old and new:
            self._device.link(old, new)

    def _chmod(self) -> None:
        if path := self._file():
            self._device.chmod(path, S_IFREG | self._random.randrange(0o10000))

    def _touch(self) -> None:
        if path := self._file():
            self._device.touch(path)

    def _set_xattr(self) -> None:
        if path := self._file():
            self._device.set_xattr(path, b"user.a", b"%d" % self._random.randrange(10**9))

    def _pin(self) -> None:
        """One of the pins goes, or names a point."""
        name, points = self._random.choice(PINS), self._device.namespace.points
        if name in points.pins():
            self._device.do(Unpin(name))
        elif found := [point.number for point in points.points() if not points.is_going(point.number)]:
            self._device.do(Pin(name, self._random.choice(found)))

    def _forget(self) -> None:
        """All points between two that stay: the first and the newest one, the pinned ones. Nothing is
        forgotten while what was forgotten before is not recorded: retention waits, too."""
        points = self._device.namespace.points
        if points.is_waiting:
            return
        numbers = [point.number for point in points.points()]
        kept = sorted({numbers[0], numbers[-1], *points.pins().values()})
        gaps = [(low, high) for low, high in pairwise(kept) if any(low < each < high for each in numbers)]
        if gaps:
            self._device.do(Forget((self._random.choice(gaps),)))

    def _exchange(self) -> None:
        old, new = self._file(), self._file()
        if old and self._device.find(old) != self._device.find(new):
            self._device.exchange(old, new)


def walk(
    folder: Path, base: Path, seed: int, count: int, hits: Counter[Row], kind: type[Device] = Device
) -> None:
    """One run, of devices of that kind; on failure the seed is in the message."""
    random, log = Random(seed), Log([()])
    devices = []
    for number in range(count + 1):
        path = folder / f"{seed}-{number}.db"
        copyfile(base, path)
        devices.append(kind(path, number + 2, hits))
    *writers, replay = devices
    copies: list[Device] = []
    try:
        for _ in range(ROUNDS):
            for device in (*writers, *copies):
                walker = Walk(device, random)
                for _ in range(random.randrange(6)):
                    walker.step()
                if random.random() < 0.4:
                    device.sync(log, publish=random.random() < 0.7)
                if random.random() < CLONES:
                    devices.append(device.clone(folder / f"{seed}-{len(devices)}.db"))
                    copies.append(devices[-1])
            if random.random() < 0.4:
                settle([*writers, *copies], log)
        settle([*writers, *copies], log)
        is_open = True
        while is_open:
            for device in (*writers, *copies):
                device.close_files()
            settle([*writers, *copies], log)
            is_open = any(device.opened for device in (*writers, *copies))
        check_replicas([*writers, *copies], replay, log)
        check_sound(replay, 1)
    finally:
        for device in devices:
            device.close()


def prepared(folder: Path) -> Path:
    """A namespace with the first commit."""
    first, log = Device(folder / "base.db", 1), Log()
    plant(first)
    first.sync(log)
    first.namespace.save(0)
    first.close()
    return folder / "base.db"

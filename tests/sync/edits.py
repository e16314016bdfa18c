"""The tree that the pairs of edits begin with, and the edits: each is one net change of a device."""

from __future__ import annotations

from collections.abc import Callable
from stat import S_IFLNK
from typing import Final

from cache.attributes import CLAIM
from tests.sync.simulator import Device

Edit = Callable[[Device], None]


def plant(device: Device) -> None:
    """f and g with content, l a second name of k, d with x, y and d/s with z, e empty, q a database."""
    for path, content in (("f", "F"), ("g", "G"), ("k", "K"), ("q", "Q"), ("q-wal", "W")):
        device.write(path, content)
    device.link("k", "l")
    device.set_xattr("f", b"user.a", b"0")
    for folder in ("d", "d/s", "e"):
        device.mkdir(folder)
    for path, content in (("d/x", "X"), ("d/y", "Y"), ("d/s/z", "Z")):
        device.write(path, content)


def _unlink_and_create(device: Device) -> None:
    device.unlink("f")
    device.write("f", f"anew{device.number}")


def _folder_for_file(device: Device) -> None:
    device.unlink("f")
    device.mkdir("f")
    device.write("f/new", f"in{device.number}")


def _file_into_its_folder(device: Device) -> None:
    device.mkdir("t")
    device.rename("f", "t/f")
    device.rename("t", "f")


def _swap(device: Device) -> None:
    device.rename("f", "t")
    device.rename("g", "f")
    device.rename("t", "g")


def _turn(device: Device) -> None:
    """The folder inside comes outside, and the outer one into it."""
    device.rename("d/s", "s")
    device.rename("d", "s/d")


def _both(*edits: Edit) -> Edit:
    def edit(device: Device) -> None:
        for each in edits:
            each(device)

    return edit


def _write(path: str) -> Edit:
    return lambda device: device.write(path, f"{path[-1]}{device.number}")


def _mkdir(path: str) -> Edit:
    def edit(device: Device) -> None:
        device.mkdir(path)

    return edit


def _symlink(device: Device) -> None:
    device.create("h", S_IFLNK | 0o777, b"f")


EDITS: Final[dict[str, Edit]] = {
    "write f": _write("f"),
    "write the same to f": lambda d: d.write("f", "same"),
    "write the end of f": lambda d: d.write_inode(d.find("f"), f"end{d.number}", 100),
    "write d/x": _write("d/x"),
    "write d/s/z": _write("d/s/z"),
    "write k": _write("k"),
    "save f": lambda d: d.save("f", f"saved{d.number}"),
    "save f the same": lambda d: d.save("f", "same"),
    "save k": lambda d: d.save("k", f"saved{d.number}"),
    "unlink and create f": _unlink_and_create,
    "unlink f": lambda d: d.unlink("f"),
    "unlink d/x": lambda d: d.unlink("d/x"),
    "unlink k": lambda d: d.unlink("k"),
    "unlink l": lambda d: d.unlink("l"),
    "unlink k and l": _both(lambda d: d.unlink("k"), lambda d: d.unlink("l")),
    "link f to h": lambda d: d.link("f", "h"),
    "link f into d": lambda d: d.link("f", "d/h"),
    "link f, unlink f": _both(lambda d: d.link("f", "h"), lambda d: d.unlink("f")),
    "rename f to h": lambda d: d.rename("f", "h"),
    "rename f to i": lambda d: d.rename("f", "i"),
    "rename f into d": lambda d: d.rename("f", "d/f"),
    "rename f into e": lambda d: d.rename("f", "e/f"),
    "rename f over g": lambda d: d.rename("f", "g"),
    "rename g over f": lambda d: d.rename("g", "f"),
    "rename d/x out": lambda d: d.rename("d/x", "h"),
    "rename d/x in its folder": lambda d: d.rename("d/x", "d/h"),
    "rename and write f": _both(lambda d: d.rename("f", "h"), lambda d: d.write("h", f"F{d.number}")),
    "rename f leaving a whiteout": lambda d: d.whiteout("f", "h"),
    "exchange f and g": lambda d: d.exchange("f", "g"),
    "exchange d and e": lambda d: d.exchange("d", "e"),
    "exchange f and d": lambda d: d.exchange("f", "d"),
    "swap f and g": _swap,
    "rename d to h": lambda d: d.rename("d", "h"),
    "rename d over e": lambda d: d.rename("d", "e"),
    "rename d into e": lambda d: d.rename("d", "e/d"),
    "rename e into d": lambda d: d.rename("e", "d/e"),
    "rename d/s out": lambda d: d.rename("d/s", "s"),
    "turn d and d/s": _turn,
    "remove d": lambda d: d.remove_tree("d"),
    "remove d/s": lambda d: d.remove_tree("d/s"),
    "remove e": lambda d: d.unlink("e"),
    "empty d of files": _both(lambda d: d.unlink("d/x"), lambda d: d.unlink("d/y")),
    "create h": _write("h"),
    "create h the same": lambda d: d.write("h", "same"),
    "create d/h": _write("d/h"),
    "create e/h": _write("e/h"),
    "mkdir h": _mkdir("h"),
    "mkdir h with a file": _both(_mkdir("h"), _write("h/n")),
    "move x into new h": _both(_mkdir("h"), lambda d: d.rename("d/x", "h/x")),
    "move d into new h": _both(_mkdir("h"), lambda d: d.rename("d", "h/d")),
    "symlink h": _symlink,
    "a folder for f": _folder_for_file,
    "f into its folder": _file_into_its_folder,
    "a file for e": _both(lambda d: d.unlink("e"), _write("e")),
    "chmod f": lambda d: d.chmod("f", 0o600 + d.number),
    "setuid f": lambda d: d.chmod("f", 0o4755),
    "chmod d": lambda d: d.chmod("d", 0o700),
    "chmod d and create d/h": _both(lambda d: d.chmod("d", 0o700), _write("d/h")),
    "chown f": lambda d: d.chown("f", 1000 + d.number),
    "touch f": lambda d: d.touch("f"),
    "set user.a of f": lambda d: d.set_xattr("f", b"user.a", b"%d" % d.number),
    "remove user.a of f": lambda d: d.remove_xattr("f", b"user.a"),
    "claim f": lambda d: d.set_xattr("f", CLAIM, b"of the base, %d" % d.number),
    "write f with a claim": _both(_write("f"), lambda d: d.set_xattr("f", CLAIM, b"of %d" % d.number)),
    "write q": _write("q"),
    "write q-wal": lambda d: d.write("q-wal", f"w{d.number}"),
    "write the same to q and q-wal": _both(lambda d: d.write("q", "qq"), lambda d: d.write("q-wal", "ww")),
    "checkpoint q": _both(_write("q"), lambda d: d.unlink("q-wal")),
    "save q": lambda d: d.save("q", f"saved{d.number}"),
    "remove q": _both(lambda d: d.unlink("q"), lambda d: d.unlink("q-wal")),
    "rename q": _both(lambda d: d.rename("q", "r"), lambda d: d.rename("q-wal", "r-wal")),
    "write q-journal": lambda d: d.write("q-journal", f"j{d.number}"),
    "nothing that stays": _both(_write("h"), lambda d: d.unlink("h")),
}

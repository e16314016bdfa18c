"""Trees to copy: a part of Python's own library, what such a tree does not have, contents of every kind."""

from __future__ import annotations

import os
import shutil
import sysconfig
from itertools import islice
from pathlib import Path
from typing import Final

from tests.contents import KINDS, content

LIBRARY: Final = Path(sysconfig.get_path("stdlib"))


def library_files(count: int) -> list[Path]:
    """The first `count` files of json, email, the tests (where this Python has them), then of all else;
    relative to the library."""
    folders = [LIBRARY / "json", LIBRARY / "email", LIBRARY / "test", LIBRARY]
    found: dict[Path, None] = {}
    for folder in folders:
        # A tenth of the tests' files makes their whole; the folders stay together.
        for path in islice(_files(folder), None, None, 7 if folder.name == "test" else 1):
            if len(found) >= count:
                return [*found]
            found[path.relative_to(LIBRARY)] = None
    return [*found]


def _files(folder: Path) -> list[Path]:
    found = []
    for base, folders, names in os.walk(folder):
        folders[:] = sorted(set(folders) - {"__pycache__", "site-packages"})
        found += [Path(base, name) for name in sorted(names)]
    return found


def library_part(target: Path, count: int) -> None:
    """Copy `count` files of the library to the new folder `target`."""
    for path in library_files(count):
        (target / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(LIBRARY / path, target / path)


def oddities(target: Path) -> None:
    """In the new folder `target`: links, special files, odd names, modes and times, attributes, holes."""
    target.mkdir()
    (target / "empty folder").mkdir()
    (target / "empty file").touch()
    (target / "file").write_bytes(b"content\n" * 1000)
    (target / "file").chmod(0o4751)
    os.link(target / "file", target / "second name")
    (target / "link").symlink_to("file")
    (target / "dangling").symlink_to("no/such/thing")
    os.mkfifo(target / "fifo")
    with open(os.fsencode(target) + b"/\xff\xfe \n\x01name", "wb") as odd:
        odd.write(b"odd")
    (target / ("n" * 255)).write_bytes(b"long")
    with open(target / "sparse", "wb") as sparse:
        sparse.truncate(50 << 20)
        sparse.seek(30 << 20)
        sparse.write(b"island")
    os.setxattr(target / "file", "user.note", b"a note \0 with any byte \xff")
    os.setxattr(target, "user.on-a-folder", b"")
    os.utime(target / "empty file", ns=(1_234_567_891, 987_654_321_123_456_789))


def kinds(target: Path, sizes: tuple[int, ...] = (0, 1, 5000, 300_000, 3_000_000)) -> None:
    """In the new folder `target`: a file of each kind and size."""
    target.mkdir()
    for kind in KINDS:
        for size in sizes:
            (target / f"{kind} {size}").write_bytes(content(kind, size, size))

"""The move, once, of files that must not be lost from the cache folder, where earlier versions kept them, to
the state folder.

Invariants:
1. Nothing is overwritten or removed before its copy is durable under its new name: what cannot take its
   place, because the state folder has one, is set aside among what is stale.
2. The journal moves before the namespace. A journal without a namespace loses nothing, it is made anew from
   log and journal; a namespace whose journal is gone would be taken back.
3. The old lock is held meanwhile, so that no process of an earlier version uses what is moved.

A move that was interrupted goes on at the next mount. Blocks on the disk.
"""

from __future__ import annotations

import errno
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from backend.system import Durable, at_rest
from cache.local import JOURNAL, LOCK_FILE, NAMESPACE_FILE, STALE, TIME_FORMAT, locked
from tools.host.places import Folders

_NAMES: Final = (JOURNAL, "lost", *(NAMESPACE_FILE + suffix for suffix in at_rest.SUFFIXES))
_STALE_MARK: Final = ".stale-"
_COPY_BYTES: Final = 4 << 20


def bring_over(own: Folders, disk: Durable) -> list[str]:
    """Move what is in the cache folder and belongs to the state; one line for people for each thing that
    was moved or set aside. `LeaseHeldError` if a process uses the old place; `OSError`: nothing is lost."""
    said = [
        _bring_stale(own, path, disk)
        for path in sorted(own.cache.parent.glob(f"{own.cache.name}{_STALE_MARK}*"))
    ]
    if not any((own.cache / name).exists() for name in (JOURNAL, NAMESPACE_FILE)):
        return said
    aside = own.state / STALE / time.strftime(f"{TIME_FORMAT}-from-cache", time.gmtime())
    with _old_lock(own.cache):
        for name in _NAMES:
            if (own.cache / name).exists():
                said += _bring(own, name, aside, disk)
    return said


def _bring(own: Folders, name: str, aside: Path, disk: Durable) -> Iterator[str]:
    source, target = own.cache / name, own.state / name
    if target.exists():
        target = aside / name
        yield f"{source}: the state folder has one already; kept as {target}"
    elif name == JOURNAL:
        yield f"the journal is in {own.state} now: {own.cache} is a cache and may be emptied"
    _move(source, target, disk)


def _bring_stale(own: Folders, source: Path, disk: Durable) -> str:
    target = own.state / STALE / source.name.partition(_STALE_MARK)[2]
    _move(source, target, disk)
    return f"{source}: was set aside before, and is in {target} now"


@contextmanager
def _old_lock(folder: Path) -> Iterator[None]:
    descriptor = locked(folder)
    try:
        yield
        os.unlink(folder / LOCK_FILE)
    finally:
        os.close(descriptor)


def _move(source: Path, target: Path, disk: Durable) -> None:
    """Durable when it returns, also onto another disk."""
    target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    try:
        disk.rename(str(source), str(target))
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        copy = target.with_name(f".moving-{target.name}")
        _remove(copy)
        _copy(source, copy, disk)
        disk.rename(str(copy), str(target))
        disk.sync_folder(str(target.parent))
        _remove(source)
    disk.sync_folder(str(target.parent))
    disk.sync_folder(str(source.parent))


def _copy(source: Path, target: Path, disk: Durable) -> None:
    if not source.is_dir():
        _copy_file(source, target, disk)
        return
    target.mkdir(mode=0o700)
    for each in sorted(source.iterdir()):
        _copy(each, target / each.name, disk)
    disk.sync_folder(str(target))


def _copy_file(source: Path, target: Path, disk: Durable) -> None:
    descriptor = disk.open(str(target), os.O_WRONLY | os.O_CREAT | os.O_EXCL)
    try:
        with open(source, "rb") as file:
            offset = 0
            while data := file.read(_COPY_BYTES):
                offset += disk.write(descriptor, [data], offset)
        disk.sync(descriptor)
    finally:
        os.close(descriptor)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)

"""The file systems that xfstests can be run on: two new drives, or two folders behind libfuse's pass-through.

The latter shows what the kernel's part and the suite's own assumptions make of any FUSE file system.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from shlex import quote
from typing import Final

from tests.conformance.watched import processes_of
from tests.mount.conftest import temporary_drive
from tests.mount.mounted import MountedDrive, end

_DRIVE_OPTIONS: Final = "allow_other,suid,dev"
_PASS_THROUGH_OPTIONS: Final = "xattr,writeback,cache=always,allow_other,default_permissions"
"""what it has, and what a drive asks the kernel for: a write-back cache, and pages that outlive a close"""


@dataclass(frozen=True, slots=True)
class Volume:
    """What is mounted where. `device`: the source as the kernel's table has it."""

    device: str
    mountpoint: Path
    options: str


@dataclass(frozen=True, slots=True)
class Candidate:
    """A file system that mount(8) knows as fuse.SUBTYPE once `helpers` (name: text) are in /sbin."""

    subtype: str
    helpers: dict[str, str]
    test: Volume
    scratch: Volume
    keeper: MountedDrive
    """what runs with its variables is found by it, and ended"""

    def end_file_system(self, suite: int) -> None:
        """End what serves the mounts: who waits for it gets an error. `suite` and its processes stay."""
        for process in {*self.keeper.processes()} - {suite, *processes_of(suite)}:
            end(process)


@contextmanager
def drives() -> Iterator[Candidate]:
    """Two new drives."""
    programs = Path(sys.executable).parent
    with temporary_drive() as scratch, temporary_drive() as test:
        test.make()
        scratch.make()
        yield Candidate(
            "drivefs",
            {
                "mount.fuse.drivefs": _call(programs / "mount.drivefs"),
                "umount.fuse.drivefs": _call(programs / "umount.drivefs"),
                "umount.drivefs": _call(programs / "umount.drivefs"),
            },
            _volume_of(test),
            _volume_of(scratch),
            test,
        )


def _volume_of(drive: MountedDrive) -> Volume:
    options = f"key_file={drive.key},{drive.folder_options()},{_DRIVE_OPTIONS}"
    return Volume(str(drive.drive), drive.mountpoint, options)


@contextmanager
def pass_through(program: Path) -> Iterator[Candidate]:
    """Two folders, each seen through `program`, libfuse's example passthrough_ll."""
    with temporary_drive() as scratch, temporary_drive() as test:
        more_files = "ulimit -n $(ulimit -Hn)"  # it keeps one open for each that the kernel knows
        command = f'{more_files}\nexec {quote(str(program.resolve()))} -ofsname="$@"'
        helpers = {"mount.fuse.pass_through": _script(command)}
        yield Candidate("pass_through", helpers, _folder_behind(test), _folder_behind(scratch), test)


def _folder_behind(place: MountedDrive) -> Volume:
    place.drive.mkdir()
    options = f"source={place.drive},{_PASS_THROUGH_OPTIONS}"
    return Volume(f"pass-through-{place.folder.name}", place.mountpoint, options)


def _call(program: Path) -> str:
    return _script(f'exec {quote(str(program))} "$@"')


def _script(commands: str) -> str:
    return f"#!/bin/bash\n{commands}\n"

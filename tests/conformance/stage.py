"""The machine as xfstests wants to find it, for one mount namespace only: nothing stays behind.

- /sbin has the mount helpers of the file system that is tested, so it need not be installed, and an installed
  one is not taken for it.
- umount(8) finds no note of another mount in /run/mount, and leaves none there.
- The users exist that some tests become.
- df(1) and umount(8) are found first in a folder of their own: xfstests knows a FUSE file system by the type
  "fuse" alone, and a volume by its source, which umount(8) takes for a mountpoint if it is a folder.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
from pathlib import Path
from shlex import quote
from typing import Final

from tests.conformance.candidates import Candidate, Volume

_CLONE_NEWNS: Final = 0x00020000
_USERS: Final = {"fsgqa": 61001, "fsgqa2": 61002, "123456-fsgqa": 61003}


def leave_namespace() -> None:
    """Give this process a mount namespace of its own, from which nothing gets out. OSError if that is not
    allowed."""
    if ctypes.CDLL(None, use_errno=True).unshare(_CLONE_NEWNS) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    _run("mount", "--make-rprivate", "/")


def set_up(folder: Path, candidate: Candidate, results: Path) -> dict[str, str]:
    """Put it all in place, its files in `folder`, which is empty; the environment to run `check` in. It will
    leave its results in `results`. Only after `leave_namespace`: else it changes the whole machine."""
    programs, helpers = folder / "programs", folder / "helpers"
    for name in ("programs", "helpers", "notes", "temporary"):
        (folder / name).mkdir()
    for name, text in candidate.helpers.items():
        _executable(helpers / name, text)
    _executable(programs / "df", _df())
    _executable(programs / "umount", _umount(candidate))
    _add_users(folder)
    _hide_notes(folder / "notes")
    sbin = os.path.realpath("/sbin")
    _run("mount", "-t", "overlay", "overlay", "-o", f"lowerdir={helpers}:{sbin}", sbin)
    configuration = folder / "local.config"
    configuration.write_text(_configuration(candidate))
    environment = candidate.keeper.variables()
    path = os.pathsep.join([str(programs), "/usr/sbin", "/sbin", environment["PATH"]])
    places = {"RESULT_BASE": results.resolve(), "TMPDIR": folder / "temporary", "HOST_OPTIONS": configuration}
    return environment | {"PATH": path} | {name: str(place) for name, place in places.items()}


def _configuration(candidate: Candidate) -> str:
    test, scratch = candidate.test, candidate.scratch
    values = {
        "FSTYP": "fuse",
        "FUSE_SUBTYP": f".{candidate.subtype}",
        "TEST_DEV": test.device,
        "TEST_DIR": test.mountpoint,
        "TEST_FS_MOUNT_OPTS": f"-o {test.options}",
        "SCRATCH_DEV": scratch.device,
        "SCRATCH_MNT": scratch.mountpoint,
        "MOUNT_OPTIONS": f"-o {scratch.options}",
    }
    return "".join(f"export {name}={quote(str(value))}\n" for name, value in values.items())


def _df() -> str:
    return f"""#!/bin/sh
{shutil.which("df")} "$@" | sed 's/ fuse[.][a-z_]* / fuse /'
"""


def _umount(candidate: Candidate) -> str:
    def case(volume: Volume) -> str:
        return f"{quote(volume.device)}) argument={quote(str(volume.mountpoint))};;"

    return f"""#!/bin/bash
arguments=()
for argument in "$@"; do
    case $argument in {case(candidate.test)} {case(candidate.scratch)} esac
    arguments+=("$argument")
done
exec {shutil.which("umount")} "${{arguments[@]}}"
"""


def _add_users(folder: Path) -> None:
    lines = {
        "passwd": [f"{name}:x:{number}:{number}::/tmp:/bin/bash\n" for name, number in _USERS.items()],
        "group": [f"{name}:x:{number}:\n" for name, number in _USERS.items()],
        "shadow": [f"{name}:*:20000::::::\n" for name in _USERS],  # su(1) asks here whether one may log in
    }
    for name, more in lines.items():
        copy, original = folder / name, Path("/etc", name)
        known = original.read_text()
        copy.write_text(known + "".join(line for line in more if f"\n{line.split(':')[0]}:" not in known))
        shutil.copymode(original, copy)
        _run("mount", "--bind", str(copy), str(original))


def _hide_notes(empty: Path) -> None:
    if Path("/run/mount").is_dir():
        _run("mount", "--bind", str(empty), "/run/mount")


def _executable(path: Path, text: str) -> None:
    path.write_text(text)
    path.chmod(0o755)


def _run(*command: str) -> None:
    subprocess.run(command, check=True)

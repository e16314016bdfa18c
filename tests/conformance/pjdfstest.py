"""`make conformance PJDFSTEST=DIR`: what pjdfstest (github.com/pjd/pjdfstest) says of a mount.

A copy of the checkout is built in a new folder and run, as root, on a new drive that is mounted beside it
as its manual wants: for all users, with set-user-ID and devices. Nothing of all that stays. The exit code is
prove's: 0 if every assertion held. Which of them do not apply is said in docs/semantics.md.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Final

from tests.mount.conftest import temporary_drive

NEEDED: Final = ("autoreconf", "automake", "gcc", "make", "openssl", "perl", "prove")
OPTIONS: Final = "allow_other,suid,dev"
BUILD: Final = (["autoreconf", "-ifs"], ["./configure", "--quiet"], ["make", "--quiet", "pjdfstest"])


def missing() -> str:
    """What keeps the suite from being run here; empty if nothing does."""
    absent = [name for name in NEEDED if shutil.which(name) is None]
    if absent:
        return f"these programs are not installed: {', '.join(absent)}"
    if not Path("/dev/fuse").exists():
        return "there is no /dev/fuse: this system cannot mount"
    return "" if os.geteuid() == 0 else "the suite changes owners and makes devices: run it as root"


def conform(checkout: Path, tests: list[str]) -> int:
    """Build, mount, prove; prove's exit code. `tests`: those of the suite's folders and files that are to be
    run, all if it is empty."""
    with temporary_drive() as drive:
        suite = drive.folder / "pjdfstest"
        shutil.copytree(checkout, suite, ignore=shutil.ignore_patterns(".git"))
        for command in BUILD:
            subprocess.run(command, cwd=suite, check=True)
        drive.make()
        drive.mount(OPTIONS)
        place = drive.mountpoint / "place"
        place.mkdir()
        chosen = [suite / "tests" / name for name in tests or ["."]]
        return subprocess.run(["prove", "-r", *map(str, chosen)], cwd=place, check=False).returncode


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(prog="make conformance", description=__doc__)
    parser.add_argument("checkout", type=Path, help="a checkout of pjd/pjdfstest")
    parser.add_argument("tests", nargs="*", help="only these of its tests, as chmod or rename/00.t")
    arguments = parser.parse_args()
    if not (arguments.checkout / "pjdfstest.c").is_file():
        sys.exit(f"{arguments.checkout}: no checkout of pjdfstest (there is no pjdfstest.c)")
    if problem := missing():
        sys.exit(f"pjdfstest cannot be run: {problem}")
    try:
        sys.exit(conform(arguments.checkout, arguments.tests))
    except subprocess.CalledProcessError as error:
        sys.exit(f"pjdfstest cannot be built: {' '.join(error.cmd)} ended with {error.returncode}")


if __name__ == "__main__":
    main()

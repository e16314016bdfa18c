"""`make conformance-xfstests XFSTESTS=DIR`: what xfstests' generic group (xfs/xfstests-dev) says of a mount.

DIR is a checkout that was built (`make` in it); it is not changed. The suite runs as root in a mount
namespace of its own, on two new drives, or with --pass-through on libfuse's example file
system. What fails is compared with known_failures.toml. The exit code is 0 if nothing else failed, 1 if
something did, 2 if the suite could not be run or came to no end.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import signal
import sys
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.conformance import candidates, stage
from tests.conformance.candidates import Candidate
from tests.conformance.watched import WatchedSuite

KNOWN_FAILURES: Final = Path(__file__).with_name("known_failures.toml")
NEEDED: Final = ("xfs_io", "bc", "gawk", "perl", "setfacl", "setfattr", "fusermount3")
DEFAULT: Final = ("-g", "generic/auto", "-x", "dangerous,soak,long_rw", "-e", "generic/551")
"""of check; 551 writes some 200 GiB past the page cache"""
LIMIT: Final = 900.0


@dataclass(frozen=True, slots=True)
class Verdict:
    """The names of the tests, as generic/001, of which each that was tried is in one of the three."""

    passed: list[str]
    failed: list[str]
    not_run: list[str]


class NoEndError(Exception):
    """The suite did not say what came out."""


def read_summary(output: str) -> Verdict:
    """What `check` says at its end. NoEndError if it does not."""
    summary = dict(re.findall(r"^(Ran|Not run|Failures): (.*)$", output, re.MULTILINE))
    if "Ran" not in summary or re.search(r"^Interrupted!$", output, re.MULTILINE):
        raise NoEndError("check did not come to its end")
    tried, not_run, failed = (
        [*dict.fromkeys(summary.get(part, "").split())] for part in ("Ran", "Not run", "Failures")
    )
    passed = [name for name in tried if name not in {*not_run, *failed}]
    return Verdict(passed, failed, not_run)


def known_failures() -> dict[str, str]:
    """The tests that are known to fail on a drive, and why each does."""
    return {name: entry["why"] for name, entry in tomllib.loads(KNOWN_FAILURES.read_text()).items()}


def selection(tests: list[str]) -> list[str]:
    """The arguments of `check` for `tests`: names as 001 or generic/001; DEFAULT if there are none."""
    return [name if "/" in name else f"generic/{name}" for name in tests] or [*DEFAULT]


def report(verdict: Verdict, known: dict[str, str], ended: list[str]) -> int:
    """Print what came out; how many failures are not known."""
    ran = len(verdict.passed) + len(verdict.failed)
    print(f"\n{len(verdict.passed)} of the {ran} that ran passed; {len(verdict.not_run)} were not run")
    for line in ended:
        print(f"ended after its time: {line}")
    for name in verdict.failed:
        print(f"failed: {name}: {known.get(name, 'NOT KNOWN')}")
    for name in verdict.passed:
        if name in known:
            print(f"passed, though it is known to fail: {name}")
    return len([name for name in verdict.failed if name not in known])


def run(checkout: Path, candidate: Candidate, tests: list[str], limit: float, results: Path | None) -> int:
    """Set up, run, compare; how many failures are not known. `results`: the folder that check writes into;
    if it is None, one that does not stay."""
    folder = candidate.keeper.folder / "stage"
    folder.mkdir()
    environment = stage.set_up(folder, candidate, results or folder / "results")
    suite = WatchedSuite(limit, candidate.end_file_system)
    suite.run(["./check", "-T", *selection(tests)], folder=checkout, environment=environment)
    return report(read_summary(suite.output), known_failures(), suite.ended)


def problem(checkout: Path) -> str:
    """What keeps the suite from being run here; empty if nothing does."""
    if not (checkout / "check").is_file():
        return f"{checkout}: no checkout of xfstests (there is no program 'check')"
    if not (checkout / "ltp" / "fsx").is_file():
        return f"{checkout} is not built: run make in it"
    if absent := [name for name in NEEDED if shutil.which(name) is None]:
        return f"these programs are not installed: {', '.join(absent)}"
    if not Path("/dev/fuse").exists():
        return "there is no /dev/fuse: this system cannot mount"
    return "" if os.geteuid() == 0 else "the suite mounts, and changes users: run it as root"


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(prog="make conformance-xfstests", description=__doc__)
    parser.add_argument("checkout", type=Path, help="a built checkout of xfs/xfstests-dev")
    parser.add_argument(
        "tests", nargs="*", help=f"only these, as 001 or generic/001; all of {' '.join(DEFAULT)}"
    )
    parser.add_argument("--limit", type=float, default=LIMIT, metavar="S", help="seconds for one test")
    parser.add_argument("--results", type=Path, metavar="DIR", help="keep what check writes about each test")
    parser.add_argument(
        "--pass-through", type=Path, metavar="PROGRAM", help="libfuse's passthrough_ll, instead"
    )
    given = parser.parse_args()
    if reason := problem(given.checkout):
        print(f"xfstests cannot be run: {reason}", file=sys.stderr)
        sys.exit(2)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # what is mounted goes with it
    stage.leave_namespace()
    chosen = candidates.pass_through(given.pass_through) if given.pass_through else candidates.drives()
    try:
        with chosen as candidate:
            sys.exit(1 if run(given.checkout, candidate, given.tests, given.limit, given.results) else 0)
    except NoEndError as error:
        print(f"xfstests: {error}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()

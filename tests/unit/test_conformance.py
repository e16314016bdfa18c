"""The runner of xfstests: what it reads out of a run, and that a test which hangs does not end the run."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import pytest

from tests.conformance.watched import WatchedSuite
from tests.conformance.xfstests import KNOWN_FAILURES, NoEndError, known_failures, read_summary, report

DOCUMENT = Path(__file__).parents[2] / "docs" / "semantics.md"
SUMMARY = """generic/001  [03:31:39] [03:31:53] 14s
generic/003  [03:31:54] [not run]
generic/013  [failed, exit status 1]- output mismatch
Ran: generic/001 generic/003 generic/013
Not run: generic/003
Failures: generic/013
Failed 1 of 3 tests
"""
HANGING_SUITE = """
import subprocess, sys, time
print("generic/001", end=" ", flush=True)
subprocess.run(["sleep", "600"])
print("ended", flush=True)
print("generic/002", end=" ", flush=True)
print("passed", flush=True)
"""


def test_the_summary_is_read() -> None:
    verdict = read_summary(SUMMARY)
    assert verdict.passed == ["generic/001"]
    assert verdict.failed == ["generic/013"]
    assert verdict.not_run == ["generic/003"]


@pytest.mark.parametrize("output", ["", "generic/001  [03:31:39]\n", SUMMARY + "Interrupted!\n"])
def test_a_run_without_an_end_is_no_success(output: str) -> None:
    with pytest.raises(NoEndError):
        read_summary(output)


@pytest.mark.parametrize(
    ("known", "new"), [({}, 1), ({"generic/013": "so it is"}, 0), ({"generic/001": "?"}, 1)]
)
def test_only_failures_that_are_not_known_count(known: dict[str, str], new: int) -> None:
    assert report(read_summary(SUMMARY), known, []) == new


def test_a_test_that_hangs_is_ended_and_the_suite_goes_on(tmp_path: Path) -> None:
    suite = WatchedSuite(0.5, lambda _: None)
    began = time.monotonic()
    assert suite.run([sys.executable, "-c", HANGING_SUITE], folder=tmp_path, environment=os.environ) == 0
    assert time.monotonic() - began < 60
    assert suite.ended == ["generic/001"]
    assert suite.output == "generic/001 ended\ngeneric/002 passed\n"


def test_the_document_names_each_known_failure_and_no_other() -> None:
    _, _, rest = DOCUMENT.read_text().partition("**xfstests**")
    table = rest.partition("\n## ")[0]
    rows = [line.split("|")[1] for line in table.splitlines() if line.startswith("| ") and "---" not in line]
    named = {
        f"generic/{number}" for row in rows for number in row.replace(",", " ").split() if number.isdigit()
    }
    assert named == {*known_failures()}, f"docs/semantics.md and {KNOWN_FAILURES.name} differ"

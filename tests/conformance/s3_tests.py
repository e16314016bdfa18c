"""`make conformance-s3 S3TESTS=DIR`: what s3-tests (github.com/ceph/s3-tests) says of the S3 door.

A door on a new drive in memory is served, and the functional tests of the checkout are run against it by the
same interpreter; nothing of all that stays. tests/conformance/s3_passing.txt lists what passes. It only
grows: the exit code is 1 if a test that is listed fails. What passes is counted by groups. Tests of services
that the door does not have are left out.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import xml.etree.ElementTree
from pathlib import Path
from typing import Final

from gateway.s3.access_keys import AccessKey
from tests.conformance.s3_groups import table
from tests.unit.gateway.s3.served import Served, serving

PASSING: Final = Path(__file__).with_name("s3_passing.txt")
LEFT_OUT: Final = "not bucket_logging and not bucket_logging_cleanup and not sns and not s3select"
FILES: Final = ("test_s3.py", "test_headers.py", "test_iam.py", "test_sts.py")
CONFIGURATION: Final = """\
[DEFAULT]
host = 127.0.0.1
port = {port}
is_secure = False
ssl_verify = False
[fixtures]
bucket prefix = drivefs-{{random}}-
[s3 main]
{main}
api_name = default
lc_debug_interval = 2
[s3 alt]
{other}
[s3 tenant]
{other}
tenant = tenant
[iam]
{main}
[iam root]
{main}
[iam alt root]
{other}
"""


def section(key: AccessKey) -> str:
    """A user, as the suite's configuration names one."""
    return (
        f"display_name = {key.user}\nuser_id = {key.user}\nemail = {key.user}@example.com\n"
        f"access_key = {key.key_id}\nsecret_key = {key.secret}"
    )


def configuration(served: Served) -> str:
    """The suite's, for this door."""
    return CONFIGURATION.format(port=served.port, main=section(served.user), other=section(served.other))


def run(checkout: Path, tests: list[str], processes: int) -> tuple[dict[str, str], frozenset[str]]:
    """The outcome of each test: `passed`, `failed` or `skipped`; and those that are said to fail on AWS."""
    with tempfile.TemporaryDirectory() as folder, serving(Path(folder) / "drive") as served:
        conf, report = Path(folder) / "s3tests.conf", Path(folder) / "report.xml"
        conf.write_text(configuration(served))
        chosen = tests or [f"s3tests/functional/{name}" for name in FILES]
        pytest = [sys.executable, "-m", "pytest", "-q", "--no-header", "-p", "no:cacheprovider", *chosen]
        running = ["--tb=short", f"--junit-xml={report}", "-m", LEFT_OUT, "-n", str(processes)]
        environment = {
            "S3TEST_CONF": str(conf),
            "PATH": "/usr/bin:/bin",
            "HOME": folder,
            "BOTO_DISABLE_CRT": "true",
        }
        subprocess.run([*pytest, *running], cwd=checkout, env=environment, check=False)
        asked = [*pytest, "--collect-only", "-m", "fails_on_aws"]
        marked = subprocess.run(
            asked, cwd=checkout, env=environment, stdout=subprocess.PIPE, text=True, check=False
        )
        return outcomes(report), named(marked.stdout)


def named(listed: str) -> frozenset[str]:
    """The tests that pytest lists, as the report names them."""
    lines = (line.partition(".py::") for line in listed.splitlines())
    return frozenset(f"{file.rpartition('/')[2]}::{test}" for file, separator, test in lines if separator)


def outcomes(report: Path) -> dict[str, str]:
    """By the name of the test, from pytest's report."""
    found = {}
    for case in xml.etree.ElementTree.parse(report).iter("testcase"):
        name = f"{case.get('classname', '').rpartition('.')[2]}::{case.get('name')}"
        kinds = {child.tag for child in case}
        found[name] = "failed" if kinds & {"failure", "error"} else "skipped" if kinds else "passed"
    return found


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(prog="make conformance-s3", description=__doc__)
    parser.add_argument(
        "checkout", type=Path, help="a checkout of ceph/s3-tests, with its requirements installed"
    )
    parser.add_argument("tests", nargs="*", help="only these, as s3tests/functional/test_s3.py::NAME")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--write", action="store_true", help="add what passes now to the list")
    options = parser.parse_args()
    if not (options.checkout / "s3tests").is_dir():
        sys.exit(f"{options.checkout}: no checkout of s3-tests")
    found, not_on_aws = run(options.checkout.resolve(), options.tests, options.processes)
    passed = {name for name, outcome in found.items() if outcome == "passed"}
    listed = set(PASSING.read_text().split()) if PASSING.exists() else set()
    lost = sorted((listed & found.keys()) - passed)
    if options.write:
        PASSING.write_text("".join(f"{name}\n" for name in sorted(listed | passed)))
    print(table(options.checkout, found, not_on_aws))
    print(f"{len(passed)} of {len(found)} pass; {len(passed - listed)} more than listed")
    if lost:
        sys.exit("listed, and failing: " + " ".join(lost))


if __name__ == "__main__":
    main()

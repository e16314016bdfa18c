"""What `tests.conftest` refuses to collect, and under which limits it has tests run."""

from __future__ import annotations

import re
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import LONGEST

ROOT = Path(__file__).parents[2]
GIVEN = 300


def collected(folder: Path, name: str, text: str) -> subprocess.CompletedProcess[str]:
    """pytest's run of one file, under this name, in a process that may have `GIVEN` descriptors at first."""
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"import pytest, resource\n{text}\n")
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    return subprocess.run(
        [
            *(
                sys.executable,
                "-m",
                "pytest",
                "-q",
                "-c",
                str(ROOT / "pyproject.toml"),
                "--rootdir",
                str(folder),
            ),
            *("-p", "tests.conftest", "-p", "no:cacheprovider", "-m", "", str(path)),
        ],
        cwd=ROOT,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (GIVEN, most)),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        ("tests/mount/test_one.py", "def test_it(): pass", "test_one.py::test_it"),
        ("test_one.py", "@pytest.fixture\ndef drive(fuse): pass\ndef test_it(drive): pass", "not marked"),
        (
            "test_one.py",
            "@pytest.mark.parametrize('a', [1], ids=[' at 0x1'])\ndef test_it(a): pass",
            "called",
        ),
        ("test_one.py", "@pytest.mark.mount\n@pytest.mark.alone\ndef test_it(): pass", "not in tests/mount"),
    ],
    ids=["in the folder", "by the fixture", "by an address", "alone elsewhere"],
)
def test_what_is_not_collected(tmp_path: Path, name: str, text: str, says: str) -> None:
    done = collected(tmp_path, name, text)
    assert done.returncode == pytest.ExitCode.USAGE_ERROR, done.stdout
    assert says in done.stdout


def test_a_mounted_test_has_the_descriptors_of_a_person_and_others_have_all(tmp_path: Path) -> None:
    """Regression: after the first test that has all, all tests had them."""
    found = "assert resource.getrlimit(resource.RLIMIT_NOFILE)"
    done = collected(
        tmp_path,
        "test_one.py",
        f"def test_a(): {found}[0] > {GIVEN}\n"
        f"@pytest.mark.mount\ndef test_b(): {found}[0] == {GIVEN}\n"
        f"def test_c(): {found}[0] > {GIVEN}\n",
    )
    assert done.returncode == pytest.ExitCode.OK, done.stdout
    assert "3 passed" in done.stdout


def test_the_files_that_take_longest_are_there() -> None:
    assert len(LONGEST) == len(set(LONGEST)) > 3
    assert [path for path in LONGEST if not path.is_file()] == []


def test_the_files_that_take_longest_begin_first() -> None:
    """In the order of the list, and before a file that would be first by its name."""
    first, second = (path.relative_to(ROOT) for path in LONGEST[:2])
    wanted = ["tests/contract/test_durable.py", str(second), str(first)]
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--collect-only", *wanted]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    files = [line.partition("::")[0] for line in done.stdout.splitlines() if "::" in line]
    assert list(dict.fromkeys(files)) == [str(first), str(second), wanted[0]], done.stdout + done.stderr


def test_make_test_keeps_the_order_of_the_files() -> None:
    parts = re.findall(
        r"-m pytest .*--dist loadfile.*\"not soak and not mount\"", (ROOT / "Makefile").read_text()
    )
    assert len(parts) == 1
    assert "--no-loadscope-reorder" in parts[0]

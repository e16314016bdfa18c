"""What `tests.conftest` refuses to collect, and under which limits it has tests run."""

from __future__ import annotations

import resource
import subprocess
import sys
from pathlib import Path

import pytest

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

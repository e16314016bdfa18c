"""Programs that read out of order, on a mount that has read nothing yet: a drive is filled, unmounted, and
each program meets it with an empty cache, as on another machine.

What they read is compressible, as most of what people have is; few of them begin at the beginning.
"""

from __future__ import annotations

import os
import random
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from tests.contents import KINDS, STORED_KINDS, content
from tests.mount.conftest import NewDrive
from tests.mount.mounted import MountedDrive, run
from tests.mount.test_programs import git
from tests.mount.trees import kinds, library_part

pytestmark = pytest.mark.mount

LOGS = 30
ROWS = 3000
FIO = [
    *("--name=verify", "--size=24m", "--rw=randrw", "--bsrange=512-128k", "--randseed=7", "--verify=crc32c"),
    *("--verify_fatal=1", "--buffer_compress_percentage=60", "--refill_buffers", "--output-format=terse"),
]
"""Compressible blocks at random places, each with its checksum."""


def log_of(number: int) -> bytes:
    """Small ones and ones of many blocks."""
    return content("log", 700 * (number + 1) ** 2, number)


def row(number: int) -> bytes:
    return content(KINDS[number % len(KINDS)], number * 7919 % 3000, number)


@pytest.fixture(scope="module")
def filled(module_drives: NewDrive) -> MountedDrive:
    """Not mounted."""
    drive = module_drives()
    drive.make()
    drive.mount()
    top = drive.mountpoint
    (top / "logs").mkdir()
    for number in range(LOGS):
        (top / "logs" / f"{number}.log").write_bytes(log_of(number))
    library_part(top / "repository", 150)
    git(top / "repository", "init", "-q", "-b", "main")
    for name in ("json", "email", "."):
        git(top / "repository", "add", name)
        git(top / "repository", "commit", "-q", "--allow-empty", "-m", name)
    git(top / "repository", "repack", "-a", "-d", "-q")
    kinds(top / "kinds")
    # The repository is used later: what is last must not change.
    run("tar", "-C", top, "-cf", top / "archive.tar", "repository", "kinds")
    with closing(sqlite3.connect(top / "database")) as database, database:
        database.execute("create table t (n integer primary key, payload blob)")
        database.executemany("insert into t values (?, ?)", ((number, row(number)) for number in range(ROWS)))
    drive.umount()
    return drive


@pytest.fixture
def cold(filled: MountedDrive) -> Iterator[Path]:
    """The mountpoint, as on another machine."""
    filled.wipe_cache()
    filled.mount()
    yield filled.mountpoint
    filled.umount()


def test_tail_of_thirty_logs(cold: Path) -> None:
    for number in range(LOGS):
        lines = log_of(number).split(b"\n")
        found = run("tail", "-n", "3", cold / "logs" / f"{number}.log")
        assert found.encode() == b"\n".join(lines[-3:]), number


def test_grep_in_the_last_log_first(cold: Path) -> None:
    names = [cold / "logs" / f"{number}.log" for number in reversed(range(LOGS))]
    found = run("grep", "-c", "served in 7[0-9][0-9] ms", *names).splitlines()
    expected = [
        sum(b"served in 7" in line and line.endswith(b" ms") and line[-6:-5] == b"7" for line in each)
        for each in (log_of(number).split(b"\n") for number in reversed(range(LOGS)))
    ]
    assert [int(line.rpartition(":")[2]) for line in found] == expected


def test_git_fsck_and_an_old_commit(cold: Path) -> None:
    git(cold / "repository", "fsck", "--full", "--strict")
    assert git(cold / "repository", "status", "--porcelain") == ""
    git(cold / "repository", "checkout", "-q", "HEAD~2")
    git(cold / "repository", "checkout", "-q", "main")
    assert git(cold / "repository", "log", "--format=%s").split() == [".", "email", "json"]


def test_tar_lists_and_extracts_what_is_last(cold: Path, tmp_path: Path) -> None:
    names = run("tar", "-tf", cold / "archive.tar").splitlines()
    assert {f"kinds/{kind} 300000" for kind in KINDS} <= set(names)
    run("tar", "-C", tmp_path, "-xf", cold / "archive.tar", names[-1])
    assert (tmp_path / names[-1]).read_bytes() == (cold / names[-1]).read_bytes()


def test_compressors_read_what_they_wrote_before(cold: Path, filled: MountedDrive) -> None:
    found = [name for name in ("zstd", "xz", "gzip") if shutil.which(name)]
    for name in found:
        run(name, "-k", cold / "kinds" / "json 3000000")
    filled.umount()
    filled.wipe_cache()
    filled.mount()
    for name in found:
        (packed,) = (cold / "kinds").glob(f"json 3000000.{name[:2].replace('zs', 'zst')}")
        assert run(name, "-dc", packed).encode() == content("json", 3_000_000, 3_000_000)


def test_sqlite_rows_at_random_then_all(cold: Path) -> None:
    source = random.Random(3)
    with closing(sqlite3.connect(cold / "database")) as database:
        for number in source.choices(range(ROWS), k=200):
            found = database.execute("select payload from t where n = ?", (number,)).fetchone()
            assert found == (row(number),), number
        assert database.execute("pragma integrity_check").fetchone() == ("ok",)


def test_cmp_of_two_copies_from_an_offset(cold: Path) -> None:
    for kind in STORED_KINDS:
        copy = cold / f"copy of {kind}"
        shutil.copyfile(cold / "kinds" / f"{kind} 3000000", copy)
        run("cmp", "--ignore-initial=2000000", cold / "kinds" / f"{kind} 3000000", copy)


def test_fio_verifies_what_it_wrote(cold: Path, filled: MountedDrive) -> None:
    if shutil.which("fio") is None:
        pytest.skip("fio is not installed")
    folder = [f"--directory={cold}"]
    run("fio", *FIO, "--do_verify=0", *folder, cwd=filled.folder)
    filled.umount()
    filled.wipe_cache()
    filled.mount()
    run("fio", *FIO, "--verify_only", *folder, cwd=filled.folder)
    os.unlink(cold / "verify.0.0")

"""What `make` does about packages: nothing where all are there, and a clear line where it can do nothing."""

from __future__ import annotations

import os
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MAKE = shutil.which("make")

pytestmark = pytest.mark.skipif(MAKE is None, reason="make is not installed")


def _packages(
    tmp_path: Path, *, without: set[str], programs: dict[str, str]
) -> subprocess.CompletedProcess[str]:
    """`make packages` where the programs `without` are not installed, and `programs` are these scripts."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for path in (*Path("/usr/bin").iterdir(), *Path("/bin").iterdir()):
        if path.name not in without | programs.keys() and not (folder / path.name).exists():
            (folder / path.name).symlink_to(path)
    for name, script in programs.items():
        (folder / name).write_text(f"#!/bin/sh\n{script}\n")
        (folder / name).chmod(0o755)
    return subprocess.run(
        [str(MAKE), "-C", str(ROOT), "packages"],
        env={**os.environ, "PATH": str(folder), "MAKEFLAGS": ""},
        capture_output=True,
        text=True,
        check=False,
    )


AS_A_USER = {"id": "echo 1000"}
ASKED = 'echo "$0 $*" >> "${0%/*}/asked"'


def test_a_user_without_sudo_is_told_what_is_missing(tmp_path: Path) -> None:
    done = _packages(tmp_path, without={"rsync", "git", "sudo"}, programs=AS_A_USER)
    assert done.returncode != 0
    assert "as root: apt-get install rsync git\n" in done.stderr


def test_a_user_whom_sudo_refuses_is_told_likewise(tmp_path: Path) -> None:
    done = _packages(tmp_path, without={"rsync"}, programs=AS_A_USER | {"sudo": "exit 1"})
    assert done.returncode != 0
    assert "as root: apt-get install rsync\n" in done.stderr


@pytest.mark.parametrize("user", [AS_A_USER, {"id": "echo 0"}], ids=["user", "root"])
def test_where_nothing_is_missing_nobody_is_asked(tmp_path: Path, user: dict[str, str]) -> None:
    programs = user | {"sudo": ASKED, "apt-get": ASKED}
    done = _packages(tmp_path, without=set(), programs=programs)
    assert done.returncode == 0, done.stderr
    assert not (tmp_path / "bin/asked").exists()


@pytest.mark.parametrize("user", [AS_A_USER, {"id": "echo 0"}], ids=["user", "root"])
def test_what_is_missing_is_installed(tmp_path: Path, user: dict[str, str]) -> None:
    programs = user | {"sudo": ASKED + '; exec "$@"', "apt-get": ASKED}
    done = _packages(tmp_path, without={"setfacl", "rsync"}, programs=programs)
    assert done.returncode == 0, done.stderr
    asked = (tmp_path / "bin/asked").read_text()
    assert "install -y -qq --no-install-recommends rsync acl" in asked
    assert ("sudo" in asked) is (user is AS_A_USER)


def test_every_tool_is_linked_where_it_is_looked_for(tmp_path: Path) -> None:
    """Each console script of the package, and the two names that util-linux calls."""
    sbin, system_bin = tmp_path / "sbin", tmp_path / "bin"
    sbin.mkdir()
    stamped = ["-o", ".venv/.installed", "SUDO=", f"SBIN={sbin}", f"SYSTEM_BIN={system_bin}"]
    subprocess.run([str(MAKE), "-C", str(ROOT), "install-system", *stamped], check=True)
    linked = {path.name for path in (*sbin.iterdir(), *system_bin.iterdir())}
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    assert linked == {*scripts, "mount.fuse.drivefs", "umount.fuse.drivefs"}
    assert {path.name for path in system_bin.iterdir()} == {"drivefs"}

"""The Makefile. Packages are left alone where all are there; where nothing can be done, a clear line says so.
A demo that is mounted is unmounted before anything of it goes."""

from __future__ import annotations

import ast
import os
import re
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


def _demo(tmp_path: Path, target: str, *, mounted: bool, unmounts: bool) -> subprocess.CompletedProcess[str]:
    """`make TARGET` with a demo that /proc/mounts has or has not, and an `umount.drivefs` that may fail."""
    (tmp_path / "demo/mnt").mkdir(parents=True)
    (tmp_path / "demo/mnt/only copy").write_text("of it")
    shutil.copy(ROOT / "Makefile", tmp_path)
    programs = {".venv/bin/umount.drivefs": "0" if unmounts else "1", "path/grep": "0" if mounted else "1"}
    for name, code in programs.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True)
        path.write_text(f'#!/bin/sh\necho "$*" >> "{tmp_path}/{path.name}"\nexit {code}\n')
        path.chmod(0o755)
    environment = {**os.environ, "PATH": f"{tmp_path}/path:{os.environ['PATH']}", "MAKEFLAGS": ""}
    command = [str(MAKE), "-C", str(tmp_path), target]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


def test_stop_unmounts_what_is_mounted(tmp_path: Path) -> None:
    assert _demo(tmp_path, "stop", mounted=True, unmounts=True).returncode == 0
    assert f" {tmp_path}/demo/mnt  /proc/mounts" in (tmp_path / "grep").read_text()
    assert (tmp_path / "umount.drivefs").read_text() == "demo/mnt\n"


def test_stop_leaves_alone_what_is_not_mounted(tmp_path: Path) -> None:
    assert "is not mounted" in _demo(tmp_path, "stop", mounted=False, unmounts=True).stdout
    assert not (tmp_path / "umount.drivefs").exists()


def test_clean_removes_nothing_that_is_still_mounted(tmp_path: Path) -> None:
    assert _demo(tmp_path, "clean", mounted=True, unmounts=False).returncode != 0
    assert (tmp_path / "demo/mnt/only copy").read_text() == "of it"


def test_clean_removes_a_demo_that_is_unmounted(tmp_path: Path) -> None:
    assert _demo(tmp_path, "clean", mounted=True, unmounts=True).returncode == 0
    assert not (tmp_path / "demo").exists()


def test_no_variable_has_two_meanings() -> None:
    """Recipes are expanded after all is read: the last meaning would count everywhere."""
    names = re.findall(r"^(\w+) *[:?]?=", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert len(names) == len(set(names))


def _marks_mounts(path: Path) -> bool:
    text = path.read_text()
    return "pytest.mark.mount" in text and any(
        ast.unparse(node) == "pytest.mark.mount"
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.Attribute)
    )


def test_all_tests_that_mount_are_run() -> None:
    """`make test` collects the mounted tests of the named files and folders only."""
    asked = [str(MAKE), "-C", str(ROOT), "-n", "-o", "install", "-o", "servers", "test"]
    recipe = subprocess.run(asked, capture_output=True, text=True, check=True).stdout
    command = re.search(r'-m "mount and not alone and not soak" (.*?)\|\|', recipe, re.DOTALL)
    assert command is not None
    folder, *files = command[1].replace("\\", "").split()
    found = [path for path in (ROOT / "tests").rglob("test_*.py") if _marks_mounts(path)]
    outside = {str(path.relative_to(ROOT)) for path in found if path.parent.name not in ("mount", "soak")}
    assert folder == "tests/mount"
    assert outside == set(files)


def test_every_tool_is_linked_where_it_is_looked_for(tmp_path: Path) -> None:
    """Each console script of the package, and the two names that util-linux calls."""
    sbin, system_bin = tmp_path / "sbin", tmp_path / "bin"
    sbin.mkdir()
    stamped = ["-o", ".venv/.installed", "SUDO=", f"SBIN={sbin}", f"SYSTEM_BIN={system_bin}"]
    subprocess.run([str(MAKE), "-C", str(ROOT), "install-system", *stamped], check=True)
    linked = {path.name for path in (*sbin.iterdir(), *system_bin.iterdir())}
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    assert linked == {*scripts, "mount.fuse.drivefs", "umount.fuse.drivefs"}
    assert {path.name for path in system_bin.iterdir()} == {"drivefs", "drivefs-hub"}

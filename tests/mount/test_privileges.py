"""Set-user-ID, set-group-ID and capabilities go when others write: as on the local file system beside it."""

from __future__ import annotations

import os
import stat
import subprocess
from pathlib import Path

import pytest

from tests.mount.mounted import MountedDrive, run

pytestmark = [
    pytest.mark.mount,
    pytest.mark.alone,
    pytest.mark.skipif(os.geteuid() != 0, reason="changes owners"),
]

USER = 65534
CAPABILITY = "security.capability"
CAP_NET_RAW = bytes.fromhex("0100000200200000000000000000000000000000")
DIRECT = "dd if=/dev/zero of=file bs=4096 count=1 conv=notrunc oflag=direct"
ACTIONS = {
    "append": "echo more >> file",
    "overwrite": "echo more 1<> file >&1",
    "overwrite twice": "(echo more; echo and more) 1<> file >&1",
    "truncate": "truncate -s 3 file",
    "lengthen": "truncate -s 300 file",
    "truncate at open": "echo new > file",
    "direct": DIRECT,
    "copy": "cp /etc/hostname file",
    "map": 'python3 -c \'import mmap; f = open("file", "r+b"); mmap.mmap(f.fileno(), 5)[0] = 1\'',
    "read": "cat file; getfattr -n security.capability file; true",
    "chown": "chown --from=:1 :0 file; true",
    "chown to another group of the owner": "chown :65534 file",
    "chown of a pipe": "mkfifo p && chmod 6777 p && chown :65534 p && stat -c %a p && rm p",
    "chown to nothing": "python3 -c 'import os; os.chown(\"file\", -1, -1)'",
}
MODES = (0o6777, 0o4777, 0o2777, 0o2767, 0o777)


def act(folder: Path, action: str, user: int, mode: int) -> tuple[int, int, str]:
    """The mode of a file after the action, as the kernel tells it at once and when it has to ask, and what
    the action said."""
    path = folder / "file"
    path.write_bytes(b"content\n")
    os.chown(path, USER, 1)
    path.chmod(mode)
    said = run("sh", "-c", ACTIONS[action], cwd=folder, user=user, group=user, extra_groups=[1, user])
    at_once = path.stat().st_mode
    descriptor = os.open(path, os.O_RDONLY)
    os.fsync(descriptor)
    os.close(descriptor)
    later = stat.S_IMODE(path.stat().st_mode)
    path.unlink()
    return stat.S_IMODE(at_once), later, said


@pytest.fixture
def places(drive: MountedDrive) -> tuple[Path, Path]:
    """A folder of a mount, and one of the file system that the drive is on."""
    drive.mount("allow_other,suid")
    found = drive.mountpoint / "place", drive.folder / "local"
    for place in found:
        place.mkdir()
        place.chmod(0o777)
    return found


def test_who_writes_takes_them_away(places: tuple[Path, Path]) -> None:
    seen = [
        [
            (action, user, oct(mode), act(place, action, user, mode))
            for action in ACTIONS
            for user in (0, USER)
            for mode in MODES
        ]
        for place in places
    ]
    assert seen[0] == seen[1]
    lost = {action for action, user, _, left in seen[0] if user == USER and left[:2] == (0o777, 0o777)}
    assert lost >= {"append", "overwrite", "truncate", "lengthen", "truncate at open", "direct", "copy"}


def test_root_without_the_capability_takes_them_away(places: tuple[Path, Path]) -> None:
    for place in places:
        path = place / "file"
        path.write_bytes(b"content\n")
        path.chmod(0o6755)
        run(
            "setpriv",
            "--bounding-set",
            "-fsetid",
            "--inh-caps",
            "-fsetid",
            "sh",
            "-c",
            f"echo more >> {path}",
        )
        assert stat.S_IMODE(path.stat().st_mode) == 0o755


def test_bits_that_are_set_while_the_content_is_on_its_way_stay(places: tuple[Path, Path]) -> None:
    """As package tools and compilers do: write, chmod, close."""
    for place in places:
        for user in (0, USER):
            path = place / f"new{user}"
            script = (
                f"import os; f = os.open({str(path)!r}, 65); os.write(f, b'x' * 9000); os.fchmod(f, 0o4755)"
            )
            subprocess.run(["python3", "-c", script], user=user, group=user, check=True)
            os.sync()
            assert stat.S_IMODE(path.stat().st_mode) == 0o4755


def test_a_program_that_was_run_can_be_replaced_in_its_place(places: tuple[Path, Path]) -> None:
    """To run it asks for its capabilities too."""
    for place in places:
        path = place / "program"
        path.write_bytes(Path("/bin/true").read_bytes())
        path.chmod(0o4755)
        run(path, user=USER)
        with open(path, "r+b") as file:
            file.write(Path("/bin/true").read_bytes())
        os.sync()
        assert stat.S_IMODE(path.stat().st_mode) == 0o4755


@pytest.mark.parametrize("user", [0, USER])
def test_capabilities_go_with_the_first_write(places: tuple[Path, Path], user: int) -> None:
    for place in places:
        path = place / "capable"
        path.write_bytes(b"content")
        path.chmod(0o777)
        for _ in range(2):  # the second time the kernel knows that there was none
            run("sh", "-c", f"echo more >> {path}", user=user)
            os.setxattr(path, CAPABILITY, CAP_NET_RAW)
            assert os.getxattr(path, CAPABILITY) == CAP_NET_RAW
            run("sh", "-c", f"echo more >> {path}", user=user)
            assert CAPABILITY not in os.listxattr(path)

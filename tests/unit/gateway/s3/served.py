"""A door on a drive in memory, served on a real socket by a thread, for clients that block."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import boto3
import trio
from botocore import UNSIGNED
from botocore.config import Config

from backend.keys import DriveKeys
from backend.system import THIS_MACHINE, crypto
from cache.drive import Drive
from gateway.http import Address, HttpServer, listeners_at, tls_context
from gateway.s3.access_keys import AccessKey, AccessKeys, Sealing
from gateway.s3.call import Settings
from gateway.s3.door import S3Door
from gateway.s3.objects import ObjectLayer, open_objects
from tests.drives import KEYS, opened
from tests.memory_upstream import MemoryUpstream

REGION = "us-east-1"


def sealing_of(keys: DriveKeys) -> Sealing:
    return Sealing(
        lambda data, what: crypto.seal(keys.access, data, what),
        lambda data, what: crypto.open_sealed(keys.access, data, what),
    )


@dataclass
class Served:
    """`user` and `other` are keys of two users."""

    port: int
    user: AccessKey
    other: AccessKey
    drive: Drive
    keys: AccessKeys
    layer: ObjectLayer
    token: trio.lowlevel.TrioToken
    cancel: trio.CancelScope
    certificate: str | None = None

    @property
    def url(self) -> str:
        return f"{'https' if self.certificate else 'http'}://127.0.0.1:{self.port}"

    def client(self, who: str = "user", **options: Any) -> Any:
        """boto3's, of `user`, `other` or `nobody`."""
        key = {"user": self.user, "other": self.other}.get(who)
        config = Config(
            signature_version="s3v4" if key else UNSIGNED,
            retries={"max_attempts": 0},
            max_pool_connections=16,
            s3={"addressing_style": "path", **options},
        )
        return boto3.client(
            "s3",
            endpoint_url=self.url,
            region_name=REGION,
            config=config,
            verify=self.certificate,
            aws_access_key_id=key.key_id if key else None,
            aws_secret_access_key=key.secret if key else None,
        )

    def run(self, call: Any, *arguments: Any) -> Any:
        """A call, or what it waits for, in the door's thread."""
        return trio.from_thread.run(call, *arguments, trio_token=self.token)


async def _serve(
    folder: Path, settings: Settings, tls: tuple[str, str] | None, ready: SimpleQueue[Served | BaseException]
) -> None:
    async with opened(folder, MemoryUpstream()) as drive:
        keys = AccessKeys(drive, sealing_of(KEYS))
        layer = await open_objects(drive)
        door = S3Door(layer, keys, THIS_MACHINE.wall_clock, settings)
        server = HttpServer(door, "s3", context=tls_context(*tls) if tls else None)
        listeners = await listeners_at(Address("127.0.0.1", 0))
        user, other = await keys.add("user"), await keys.add("other")
        with trio.CancelScope() as scope:
            token = trio.lowlevel.current_trio_token()
            port = listeners[0].socket.getsockname()[1]
            certificate = tls[0] if tls else None
            ready.put(Served(port, user, other, drive, keys, layer, token, scope, certificate))
            await server.serve(listeners)


@contextmanager
def serving(
    folder: Path,
    settings: Settings = Settings(REGION),  # noqa: B008 - frozen
    tls: tuple[str, str] | None = None,
) -> Iterator[Served]:
    """The door, until the block ends; with `tls`, of a certificate and its key, by HTTPS."""
    ready: SimpleQueue[Served | BaseException] = SimpleQueue()

    def run() -> None:
        try:
            trio.run(_serve, folder, settings, tls, ready)
        except BaseException as error:
            ready.put(error)
            raise

    thread = threading.Thread(target=run)
    thread.start()
    served = ready.get(timeout=30)
    if isinstance(served, BaseException):
        raise served
    try:
        yield served
    finally:
        trio.from_thread.run_sync(served.cancel.cancel, trio_token=served.token)
        thread.join()

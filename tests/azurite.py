"""A real server of Azure's protocol for tests: Azurite, of the npm package azurite. It stores in memory."""

from __future__ import annotations

import base64
import datetime
import hashlib
import hmac
import http.client
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import partial
from http import HTTPStatus
from pathlib import Path
from typing import Final

from tests import servers

ACCOUNT: Final = "drivefstests"
KEY: Final = base64.b64encode(bytes(range(64))).decode()
CREDENTIALS: Final = {"credentials": "env:AZURITE"}


@dataclass(frozen=True, slots=True)
class Azurite:
    """`host` is `127.0.0.1:port`."""

    host: str

    def url(self, container: str, prefix: str) -> str:
        """Of a node. The container is `made` first."""
        return f"az+http://{self.host}/{ACCOUNT}/{container}/{prefix}"

    def made(self, container: str) -> None:
        """It is there from now on. `OSError`, `http.client.HTTPException`."""
        with closing(http.client.HTTPConnection(self.host, timeout=5)) as connection:
            connection.request("PUT", f"/{ACCOUNT}/{container}?restype=container", headers=_signed(container))
            status = connection.getresponse().status
        if status not in (HTTPStatus.CREATED, HTTPStatus.CONFLICT):
            raise http.client.HTTPException(f"{container} cannot be made: status {status}")


def _signed(container: str) -> dict[str, str]:
    """The headers of a request that makes a container ("Authorize with Shared Key" in Azure's REST API)."""
    now = datetime.datetime.now(datetime.UTC).strftime("%a, %d %b %Y %H:%M:%S GMT")
    headers = {"x-ms-date": now, "x-ms-version": "2021-08-06"}
    named = "".join(f"{name}:{value}\n" for name, value in headers.items())
    empty = "\n" * 12  # no header that would stand there
    text = f"PUT{empty}{named}/{ACCOUNT}/{ACCOUNT}/{container}\nrestype:container"
    signature = hmac.digest(base64.b64decode(KEY), text.encode(), hashlib.sha256)
    return headers | {"Authorization": f"SharedKey {ACCOUNT}:{base64.b64encode(signature).decode()}"}


@contextmanager
def azurite(folder: Path) -> Iterator[Azurite]:
    """A server that runs while the block does, with its log in `folder`. The environment is to have the
    `env:AZURITE` credentials. `NoServerError`."""
    command = partial(_command, servers.program("azurite-blob", "azurite of the npm registry"))
    account = {"AZURITE_ACCOUNTS": f"{ACCOUNT}:{KEY}"}
    with servers.server(1, command, _require_ready, folder / "log", account) as ports:
        yield _at(ports)


def _command(program: str, ports: Sequence[int]) -> list[str]:
    options = ["--silent", "--disableTelemetry", "--skipApiVersionCheck", "--inMemoryPersistence"]
    return [program, *options, "--blobHost", "127.0.0.1", "--blobPort", str(ports[0])]


def _at(ports: Sequence[int]) -> Azurite:
    return Azurite(f"127.0.0.1:{ports[0]}")


def _require_ready(ports: Sequence[int]) -> None:
    try:
        _at(ports).made("ready")
    except (OSError, http.client.HTTPException) as error:
        raise servers.NotReadyError(str(error)) from None

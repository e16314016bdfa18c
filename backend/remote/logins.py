"""The logins at hubs that this machine keeps: one file for each hub, which the user alone may read.

Spec: docs/format/login.md. The file lets its reader use the account: it holds the device's token and the
account root. Blocks; one thread at a time. Of two processes that save one login the later one counts.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from ipaddress import ip_address
from pathlib import Path
from typing import Final
from urllib.parse import quote, urlsplit

from backend.errors import CorruptError, NotFoundError, UsageError
from backend.remote.hub_route import HubRoute
from backend.remote.kept_form import KeptForm
from backend.system import THIS_MACHINE, Environment

FILE: Final = "login"
LOCK: Final = "token.lock"
"""Beside it; flock(2) while a process replaces the token."""
VERSION: Final = 1
MAX_SIZE: Final = 16384
_FORM: Final = KeptForm("kept login", b"DFLOGIN\0", VERSION, MAX_SIZE)
_PORTS: Final = {"https": 443, "http": 80}


@dataclass(frozen=True, slots=True)
class HubLogin:
    """A device of an account at a hub. `url` is as `hub_url` gives it, `device` the number at the hub. Where
    `ca_file` is empty the system's certificates count; where `proxy` is, the environment says which."""

    url: str
    email: str
    token: bytes = field(repr=False)
    account_root: bytes = field(repr=False)
    device: int
    ca_file: str = ""
    proxy: str = field(default="", repr=False)

    @property
    def route(self) -> HubRoute:
        """The way to the hub that it says, without limits."""
        return HubRoute(self.ca_file or None, self.proxy or None)


def hub_url(text: str) -> str:
    """The one way to write the address of the hub: scheme, host, and the port if it is another than usual.
    `UsageError`: it is none: http is for this machine only, and a hub lies at the root of its host."""
    try:
        parts = urlsplit(text)
        host, port = (parts.hostname or "").rstrip("."), parts.port
    except ValueError:
        raise UsageError(f"{text}: is no address of a hub") from None
    if parts.username is not None:
        raise UsageError("the address of a hub has no user and no password in it")
    if parts.scheme not in _PORTS or not host or "%" in host:
        raise UsageError(f"{text}: the address of a hub is https://HOST or https://HOST:PORT")
    if parts.path not in ("", "/") or parts.query or parts.fragment:
        raise UsageError(f"{text}: the address of a hub ends with its host and port")
    if parts.scheme == "http" and not _is_this_machine(host):
        raise UsageError(f"{text}: http without TLS is for hubs on this machine only")
    shown = f"[{host}]" if ":" in host else host
    usual = port in (None, _PORTS[parts.scheme])
    return f"{parts.scheme}://{shown}" + ("" if usual else f":{port}")


def _is_this_machine(host: str) -> bool:
    try:
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False


def encode_login(login: HubLogin) -> bytes:
    """The file's bytes."""
    said = (login.url, login.email, login.token, login.account_root, login.device)
    return _FORM.encode([*said, login.ca_file, login.proxy])


def decode_login(data: bytes) -> HubLogin:
    """Errors as of `KeptForm.decode`."""
    return HubLogin(*_FORM.decode(data))


class Logins:
    """See the module. They lie in `folder`, each in one of its own."""

    def __init__(self, folder: Path, environment: Environment = THIS_MACHINE) -> None:
        self._folder = folder
        self._disk = environment.disk

    def load(self, url: str) -> HubLogin:
        """`NotFoundError`: there is no login of that hub; `CorruptError`, `FormatError`: its file cannot be
        used; `UsageError`: as of `hub_url`."""
        url = hub_url(url)
        try:
            login = _read(self._path(url))
        except FileNotFoundError:
            raise NotFoundError(f"this machine has no login at {url}: drivefs login {url}") from None
        if login.url != url:
            raise CorruptError(f"{self._path(url)}: is of {login.url}; log in anew: drivefs login {url}")
        return login

    def save(self, login: HubLogin) -> None:
        """Keep it durably, in the place of one at the same hub. `OSError`."""
        path = self._path(hub_url(login.url))
        self._disk.make_folders(os.fspath(path.parent))
        self._disk.write_file(os.fspath(path), [encode_login(login)])

    def remove(self, url: str) -> None:
        """Forget it durably. Idempotent."""
        path = self._path(hub_url(url))
        try:
            self._disk.unlink(os.fspath(path))
        except FileNotFoundError:
            return
        self._disk.sync_folder(os.fspath(path.parent))

    @contextmanager
    def alone(self, url: str) -> Iterator[bool]:
        """Whether no other process has the token of that login in work; none has while the block runs."""
        path = os.fspath(self.folder_of(hub_url(url)) / LOCK)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            is_alone = True
        except BlockingIOError:
            is_alone = False
        try:
            yield is_alone
        finally:
            os.close(descriptor)

    def all(self) -> list[HubLogin]:
        """By address. `CorruptError`, `FormatError`: one of them cannot be used."""
        found = (_read(path) for path in self._folder.glob(f"*/{FILE}"))
        return sorted(found, key=lambda login: login.url)

    def folder_of(self, url: str) -> Path:
        """All that this machine knows of the hub at `url`, which is as `hub_url` gives it, lies there."""
        return self._folder / quote(url.replace("://", "_"), safe="")

    def _path(self, url: str) -> Path:
        return self.folder_of(url) / FILE


def _read(path: Path) -> HubLogin:
    return _FORM.read(path, decode_login, "log in anew: drivefs login")

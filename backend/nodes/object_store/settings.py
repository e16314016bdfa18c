"""The settings of a node in an object store, beside its URL: in `drive.toml`, or behind `?` in a URL on a
command line. Pure. No setting is a secret: `credentials` says only where they are."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from backend.errors import UsageError

_CREDENTIALS: Final = re.compile(r"instance|anonymous|(profile|file|env|command):(.+)", re.DOTALL)
_NAME: Final = re.compile(r"[A-Za-z0-9_.@-]{1,128}")
_MOST_REQUESTS: Final = 256


@dataclass(frozen=True, slots=True)
class StoreSettings:
    """Text that is empty is not set. `timeout` is in seconds, of a whole request. `max_requests`: so many at
    once."""

    credentials: str
    region: str = ""
    style: str = "path"
    ca: str = ""
    proxy: str = ""
    sse: str = ""
    kms_key: str = ""
    checksum: str = ""
    etag: str = "quoted"
    timeout: int = 60
    max_requests: int = 16


def parse(given: Mapping[str, str | int], where: str) -> StoreSettings:
    """`UsageError` that starts with `where`."""
    values: dict[str, str | int] = {}
    for name, value in given.items():
        check = _CHECKS.get(name)
        if check is None:
            raise UsageError(f"{where}: {name} is no setting of a node; there are {', '.join(_CHECKS)}")
        try:
            values[name] = check(value)
        except ValueError as error:
            raise UsageError(f"{where}: {name}: {error}") from None
    if "credentials" not in values:
        raise UsageError(
            f"{where}: where are its credentials? --credentials profile:NAME, file:PATH, env:PREFIX, "
            "command:NAME, instance or anonymous"
        )
    return StoreSettings(**values)  # type: ignore[arg-type]  # each was checked


def _credentials(value: str | int) -> str:
    found = _CREDENTIALS.fullmatch(str(value))
    if found is None:
        raise ValueError("it is profile:NAME, file:PATH, env:PREFIX, command:NAME, instance or anonymous")
    if found[1] == "file" and not found[2].startswith("/"):
        raise ValueError("file: is followed by an absolute path")
    if found[1] in ("profile", "env", "command") and not _NAME.fullmatch(found[2]):
        raise ValueError(f"{found[1]}: is followed by a name of letters, digits, _ . @ -")
    return str(value)


def _text(value: str | int) -> str:
    if not isinstance(value, str) or not 0 < len(value) <= 1024 or not value.isprintable():
        raise ValueError("it is text of 1 to 1024 characters")
    return value


def _one_of(*known: str) -> Callable[[str | int], str]:
    def check(value: str | int) -> str:
        if value not in known:
            raise ValueError(f"it is one of {', '.join(known)}")
        return str(value)

    return check


def _proxy(value: str | int) -> str:
    if not re.fullmatch(r"https?://[^@/?#]+/?", _text(value)):
        raise ValueError("it is http://host:port, without user and password")
    return str(value)


def _number(most: int) -> Callable[[str | int], int]:
    def check(value: str | int) -> int:
        if not re.fullmatch(r"[0-9]{1,6}", str(value)) or not 1 <= int(value) <= most:
            raise ValueError(f"it is a whole number from 1 to {most}")
        return int(value)

    return check


_CHECKS: Final[Mapping[str, Callable[[str | int], str | int]]] = {
    "credentials": _credentials,
    "region": _text,
    "style": _one_of("path", "virtual"),
    "ca": _text,
    "proxy": _proxy,
    "sse": _one_of("AES256", "aws:kms", "aws:kms:dsse"),
    "kms_key": _text,
    "checksum": _one_of("SHA256", "CRC64NVME"),
    "etag": _one_of("quoted", "bare"),
    "timeout": _number(3600),
    "max_requests": _number(_MOST_REQUESTS),
}

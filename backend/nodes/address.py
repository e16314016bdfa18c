"""The URLs of nodes, as `drive.toml` and the command line have them. Pure functions.

A plain path is a folder; relative, it is below the drive's own folder and moves with it. Everything that
begins with `scheme://` is a URL (RFC 3986). No URL holds a secret: credentials stand elsewhere."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import parse_qsl, unquote, urlsplit

from backend.errors import UsageError

_URL: Final = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")
_SECRETS: Final = re.compile(r"secret|token|sas|sig|signature|password|key", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Address:
    """A URL taken apart. `host` is empty for folders, whose `path` is absolute. `query` has what stands
    behind `?`: settings of the node."""

    scheme: str
    host: str
    path: str
    url: str
    query: Mapping[str, str] = field(default_factory=dict)


def parse(url: str, base: str) -> Address:
    """The address that `url` names; a relative path is below the folder `base`. `UsageError`."""
    found = _URL.match(url)
    if found is None:
        return _folder(os.path.join(base, url))
    try:
        _refuse_secrets(url)
    except ValueError as error:
        raise UsageError(f"the URL of a node cannot be understood: {error}") from None
    if found[1].lower() != "file":
        parts = urlsplit(url)
        query = dict(parse_qsl(parts.query, keep_blank_values=True))
        return Address(parts.scheme, parts.netloc, unquote(parts.path), url, query)
    host, slash, path = url[found.end() :].partition("/")
    if host not in ("", "localhost") or not slash:
        raise UsageError(f"{shown(url)}: a file URL has no host and an absolute path: file:///srv/disk")
    return _folder("/" + unquote(path))


def is_folder(url: str) -> bool:
    """Whether it is a path, or `file://`."""
    found = _URL.match(url)
    return found is None or found[1].lower() == "file"


def stored(url: str, base: str) -> str:
    """As `drive.toml` has it: a folder inside the drive's folder `base` relative to it, so that it moves with
    it; another folder by its absolute path; else the URL. `UsageError`."""
    found = parse(url, base)
    if found.scheme != "file":
        return url
    inside = os.path.commonpath([base, found.path]) == base
    return os.path.relpath(found.path, base) if inside else found.path


def shown(url: str) -> str:
    """For messages: without user, password and query."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


def _folder(path: str) -> Address:
    path = os.path.abspath(path)
    if "\0" in path:
        raise UsageError("the path of a node holds a zero byte")
    return Address("file", "", path, path)


def _refuse_secrets(url: str) -> None:
    parts = urlsplit(url)
    names = [name for name, _ in parse_qsl(parts.query, keep_blank_values=True)]
    if "@" in parts.netloc or any(map(_SECRETS.search, names)):
        raise UsageError(
            f"{shown(url)}: a node's URL holds no user, password or key: drive.toml is no place for secrets"
        )

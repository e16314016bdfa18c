"""XML that is answered, put together as text: twelve times as fast as a library that builds trees. Pure."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from functools import lru_cache
from typing import Final
from urllib.parse import quote

NAMESPACE: Final = "http://s3.amazonaws.com/doc/2006-03-01/"
DECLARATION: Final = '<?xml version="1.0" encoding="UTF-8"?>\n'
_SPECIAL: Final = re.compile('[&<>"\x00-\x1f\x7f\ufffe\uffff]')
_ESCAPES: Final = {"&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;"}


def escaped(text: str) -> str:
    """`text` inside an element. Control characters are references, as AWS writes them, though XML 1.0 allows
    most of them in no form: clients that cannot read them ask for `encoding-type=url`."""
    if not _SPECIAL.search(text):
        return text
    return _SPECIAL.sub(lambda found: _ESCAPES.get(found[0], f"&#x{ord(found[0]):x};"), text)


def key_text(key: bytes, encoding: str) -> str:
    """A key, prefix or delimiter inside an element. `encoding`: `url` or empty."""
    if encoding:
        return quote(key, safe="/~-._*")
    return escaped(key.decode("utf-8", "replace"))


def element(name: str, value: object) -> str:
    """An element with this text; an empty text for a value that is empty or None."""
    return f"<{name}>{escaped(str('' if value is None else value))}</{name}>"


def optional(name: str, value: object) -> str:
    """An element if there is a value."""
    return element(name, value) if value not in (None, "") else ""


def document(name: str, content: str) -> bytes:
    """The whole answer."""
    text = f'{DECLARATION}<{name} xmlns="{NAMESPACE}">{content}</{name}>'
    return text.encode("utf-8", "surrogateescape")


def time_text(time_ns: int) -> str:
    """A time of the drive as elements have it: whole seconds, as in HTTP headers, so that both are equal."""
    return _time_text(time_ns // 1_000_000_000)


@lru_cache(maxsize=4096)
def _time_text(second: int) -> str:
    return datetime.fromtimestamp(second, UTC).strftime("%Y-%m-%dT%H:%M:%S.000Z")


def truth(value: bool) -> str:
    """As XML Schema writes it."""
    return "true" if value else "false"

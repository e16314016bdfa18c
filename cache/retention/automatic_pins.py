"""Automatic pins: those that a drive makes for itself, with an end that their names say. Pure functions.

A pin has a name and a commit and nothing else (docs/format/operation.md). So that every mount of the drive
knows when such a pin may go, its name says it, and the number of the device that made it:
`mass-deletion 2026-11-28T18:05:00Z until 2026-12-28T18:05:00Z (1)`.
"""

from __future__ import annotations

import re
from calendar import timegm
from time import gmtime, strftime, strptime
from typing import Final

DAYS: Final = 30
_SECOND: Final = 10**9
_FORM: Final = "%Y-%m-%dT%H:%M:%SZ"
_MOMENT: Final = rb"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ"
_NAME: Final = re.compile(rb"[a-z-]+ %b until (%b) \(\d+\)" % (_MOMENT, _MOMENT))


def pin_name(reason: str, device: int, now_ns: int) -> bytes:
    """The name of a pin that `device` makes now, nanoseconds since 1970, and that may go after `DAYS` days.
    `reason`: small letters and hyphens. Names of one reason are in the order of their times."""
    now = now_ns // _SECOND
    return f"{reason} {_moment(now)} until {_moment(now + DAYS * 24 * 3600)} ({device})".encode()


def is_over(name: bytes, now_ns: int) -> bool:
    """Whether the pin of that name is automatic and its time has come."""
    found = _NAME.fullmatch(name)
    if found is None:
        return False
    try:
        end = timegm(strptime(found[1].decode(), _FORM))
    except ValueError:  # the 31st of a short month: nobody's name but a person's
        return False
    return end * _SECOND <= now_ns


def is_for(reason: str, name: bytes) -> bool:
    """Whether the pin of that name was made automatically for that reason."""
    return _NAME.fullmatch(name) is not None and name.startswith(reason.encode() + b" ")


def _moment(seconds: int) -> str:
    return strftime(_FORM, gmtime(seconds))

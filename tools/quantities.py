"""Sizes and times as people write and read them: `64M`, `1.5G`, `5s`, `100ms`, `30d`, `forever`."""

from __future__ import annotations

import re
import time
from typing import Final

from backend.errors import UsageError

_SIZES: Final = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}
_TIMES: Final = {"ms": 0.001, "": 1.0, "s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0}
_NUMBER: Final = r"(\d{1,15}(?:\.\d{1,9})?)"
FOREVER: Final = 1 << 40
"""Seconds; what `forever` is kept as."""
_UNITS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800, "y": 31536000}


def parse_size(text: str) -> int:
    """Bytes. A number with K, M, G or T (powers of 1024; `KiB` and `KB` mean the same), or none.
    `UsageError` for anything else."""
    match = re.fullmatch(_NUMBER + r"([KMGT]?)(?:i?B)?", text.strip(), re.IGNORECASE)
    if match is None:
        raise UsageError(f"'{text}' is not a size: write for example 64M or 1G")
    return int(float(match[1]) * _SIZES[match[2].upper()])


def parse_duration(text: str) -> float:
    """Seconds. A number with ms, s, m or h, or none (seconds). `UsageError` for anything else."""
    match = re.fullmatch(_NUMBER + r"(ms|s|min|m|h)?", text.strip())
    if match is None:
        raise UsageError(f"'{text}' is not a time: write for example 5s or 500ms")
    return float(match[1]) * _TIMES[match[2] or ""]


def format_duration(seconds: float) -> str:
    """For people, in the largest unit without a rest."""
    for unit in ("h", "m", "s"):
        if seconds % _TIMES[unit] == 0:
            return f"{seconds / _TIMES[unit]:.0f} {unit}"
    return f"{seconds * 1000:.0f} ms"


def moment(text: str) -> str:
    """`text`, which is to mean a time of the drive's past; the mount knows which. `UsageError` if it is empty
    (a variable that was not set): that must not mean now."""
    if not text.strip():
        raise UsageError("TIME is empty: write for example 2h, yesterday, 2026-11-20 or @57")
    return text


def counted(count: int, noun: str) -> str:
    """`1 file`, `2 files`, `0 copies`: for nouns whose plural ends in s."""
    plural = f"{noun[:-1]}ies" if noun.endswith("y") else f"{noun}s"
    return f"{count} {noun if count == 1 else plural}"


def format_size(count: int) -> str:
    """For people: at most three digits before the unit, one after the point."""
    amount, unit = float(count), "B"
    for larger in ("KiB", "MiB", "GiB", "TiB", "PiB"):
        if amount < 1024:
            break
        amount, unit = amount / 1024, larger
    return f"{count} B" if unit == "B" else f"{amount:.1f} {unit}"


def parse_age(text: str) -> int:
    """Seconds of `90m`, `24h`, `30d`, `8w`, `2y`, `0` or `forever`. `UsageError` for anything else."""
    if text == "forever":
        return FOREVER
    match = re.fullmatch(r"(\d{1,9})([smhdwy])", text) or re.fullmatch(r"(0)()", text)
    if match is None:
        raise UsageError(f"'{text}' is no time: write for example 24h, 30d, 1y, 0 or forever")
    return int(match[1]) * _UNITS.get(match[2], 1)


def format_age(seconds: int) -> str:
    """As `parse_age` reads it, in the largest unit without a rest."""
    if seconds >= FOREVER:
        return "forever"
    if not seconds:
        return "0"
    unit = next(unit for unit in "ywdhms" if seconds % _UNITS[unit] == 0)
    return f"{seconds // _UNITS[unit]}{unit}"


def format_moment(time_ns: int) -> str:
    """Nanoseconds since 1970 as a moment, in UTC."""
    return time.strftime("%Y-%m-%dT%H%M%SZ", time.gmtime(time_ns // 10**9))


def format_local(time_ns: int) -> str:
    """The same in this machine's time zone, which it names."""
    return time.strftime("%Y-%m-%d %H:%M:%S %z", time.localtime(time_ns // 10**9))

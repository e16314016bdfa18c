"""The numbers of a status as Prometheus gauges (text format 0.0.4)."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any, Final

MEDIA_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"


def gauge_lines(status: Mapping[str, Any], prefix: str = "drivefs") -> Iterator[str]:
    """Each number (and truth value) in `status` as one gauge, named by its path of keys; what is in lists is
    left out. Prometheus text format 0.0.4."""
    for key, value in status.items():
        name = f"{prefix}_{re.sub('[^a-zA-Z0-9_]', '_', key)}"
        if isinstance(value, Mapping):
            yield from gauge_lines(value, name)
        elif isinstance(value, int | float):
            yield f"# TYPE {name} gauge\n{name} {float(value)!r}\n"

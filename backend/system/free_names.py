"""Names for what is kept beside others of its kind."""

from __future__ import annotations

from itertools import count
from pathlib import Path


def free_path(path: Path) -> Path:
    """The path, or else it with the first number behind its stem, from 2 on, that nothing has."""
    found, numbers = path, count(2)
    while found.exists():
        found = path.with_stem(f"{path.stem}-{next(numbers)}")
    return found

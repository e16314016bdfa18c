"""Quiet names: those beside which no conflict copy is shown. Pure functions.

A copy inside `.git` is taken for a part of the repository, one of a lock file for a lock, and nobody reads
the twentieth copy of a name. The content becomes a version of the past instead (`cache.rebase.versions`).
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Final

MOST_COPIES: Final = 20
"""Of one name in a folder that are shown."""
_REPOSITORY: Final = b".git"


def is_quiet(folders: Collection[bytes], name: bytes) -> bool:
    """Whether no copy of `name` is shown in a folder; `folders`: the names of it and of those above it."""
    is_office_lock = name.startswith(b"~$") or (name.startswith(b".~lock.") and name.endswith(b"#"))
    return is_office_lock or _REPOSITORY in folders

"""The report at the end of a check: the losses of each file, and the number of findings of each kind."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from backend.findings import Findings
from cache.retention import LostRange


def summarised(lost: Sequence[LostRange], *, nodes_are_away: bool) -> list[str]:
    """One line for each file and version."""
    what = "cannot be read while nodes are away" if nodes_are_away else "are lost"
    files: dict[tuple[str, int, str, int | None], int] = {}
    for each in lost:
        key = (each.path, each.first_commit, each.first_time, each.end_commit)
        files[key] = files.get(key, 0) + each.length
    return [
        f"{path}: {length} bytes of the version of {moment or 'now'} (commit {first}"
        f"{'' if end is None else f' to {end - 1}'}) {what}"
        for (path, first, moment, end), length in files.items()
    ]


def counts(findings: Findings) -> Mapping[str, int]:
    """The number of findings of each kind, for the last line."""
    return {state: findings.count(state) for state in ("mended", "left", "lost")}

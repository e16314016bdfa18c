"""The state folder: what is set aside stays there, whatever is set aside after it."""

from __future__ import annotations

from pathlib import Path

from backend.system import THIS_MACHINE
from cache.local import NAMESPACE_FILE, set_namespace_aside


def test_a_namespace_is_set_aside_beside_others_of_the_same_second(tmp_path: Path) -> None:
    """Regression: the second took the place of the first."""
    contents = [b"%d" % number for number in range(20)]
    kept = []
    for content in contents:
        (tmp_path / NAMESPACE_FILE).write_bytes(content)
        kept.append(set_namespace_aside(tmp_path, THIS_MACHINE))
    assert [path.read_bytes() for path in kept] == contents
    assert all(path.name.endswith(".db") for path in kept)

"""All failpoints that the source declares. `backend.failpoints.FAILPOINTS` has those of the modules that a
process has imported: tests that go through all of them cannot depend on what was collected before."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parent.parent
PACKAGES: Final = ("backend", "cache", "gateway", "mountfs", "tools")


def _declared() -> dict[str, str]:
    return {
        name: path.relative_to(ROOT).as_posix()
        for package in PACKAGES
        for path in sorted((ROOT / package).rglob("*.py"))
        for name in re.findall(r'\bdeclare\(\s*"([\w.-]+)"', path.read_text())
    }


DECLARED: Final = _declared()
"""Name -> the path of the module."""

"""One of several processes that do random operations on the same files at once (as fsstress does).

`python -m tests.mount.stress FOLDER OPERATIONS SEED`. There is nothing to compare with; what must not come of
any call, whatever the others do, ends the process with an error.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Final

from tests.mount.random_operations import MANY_FILES, MOUNTED, RandomOperations
from tests.mount.reading import TO_THE_END

NEVER: Final = {"EIO", "ESTALE", "ENOTCONN", "ENOSYS", "EFAULT", "ENOMEM", "ENOSPC", "EROFS"}


class Stress(RandomOperations):
    """Works in a folder in which others work too. A file that another process truncates ends one that has it
    mapped (SIGBUS), and has no byte where there were some."""

    orders = TO_THE_END

    def __init__(self, folder: Path, seed: int) -> None:
        super().__init__([folder], MANY_FILES, seed)

    def _table(self) -> list[tuple[Callable[[], None], int]]:
        left_out = (self.map_write, self.map_read, self.unmap)
        return [entry for entry in super()._table() if entry[0] not in left_out]

    def _wrong(self, found: list[object]) -> str:
        came = found[MOUNTED]
        return came if isinstance(came, str) and came in NEVER else ""


def main() -> None:
    """The command."""
    folder, operations, seed = sys.argv[1:]
    machine = Stress(Path(folder), int(seed))
    machine.run(int(operations))
    machine.close_all()


if __name__ == "__main__":
    main()

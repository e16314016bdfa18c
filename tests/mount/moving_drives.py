"""What is in a drive that moves, and a program that writes it meanwhile."""

from __future__ import annotations

import threading
from pathlib import Path

from tests.contents import KINDS, content
from tests.mount.trees import oddities

SIZE = 400_000


class Writer:
    """A program that writes one file after the other, until the drive takes no more."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self.written: dict[str, bytes] = {}
        self.refused: OSError | None = None

    def start(self) -> None:
        self._thread.start()

    def end(self) -> OSError | None:
        """What it was refused by."""
        self._thread.join(60)
        return self.refused

    def stop(self) -> None:
        self._over.set()
        self._thread.join(60)

    def _run(self) -> None:
        number = 0
        while not self._over.wait(0.02):
            name, data = f"busy{number}", content(KINDS[number % len(KINDS)], 30_000, number)
            try:
                (self._folder / name).write_bytes(data)
            except OSError as error:
                self.refused = error
                return
            self.written[name] = data
            number += 1


def fill(folder: Path) -> None:
    """Files of all kinds, and odd names."""
    (folder / "kinds").mkdir()
    for number, kind in enumerate(KINDS):
        (folder / "kinds" / kind).write_bytes(content(kind, SIZE, number))
    (folder / "odd").mkdir()
    oddities(folder / "odd" / "names")

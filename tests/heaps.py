"""The heaps of a process, as the kernel shows them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Final

ARENA: Final = 64 << 20
"""Bytes that glibc reserves for a heap beside the main one, on machines of 64 bits (HEAP_MAX_SIZE)"""


def heaps_of_threads(process: int) -> Iterator[str]:
    """The arenas of malloc beside its main heap, as lines of proc_pid_maps(5): private memory of no file that
    begins at a multiple of an arena's size and, with what is reserved behind it, is as long."""
    lines = Path(f"/proc/{process}/maps").read_text().splitlines()
    for line, following in zip(lines, [*lines[1:], ""], strict=True):
        start, end = _range(line)
        if line.split()[1:] == ["rw-p", "00000000", "00:00", "0"] and start % ARENA == 0:
            if following.split()[1:2] == ["---p"] and _range(following)[0] == end:
                end = _range(following)[1]
            if end - start >= ARENA:
                yield line


def _range(line: str) -> tuple[int, int]:
    start, _, end = line.split()[0].partition("-")
    return int(start, 16), int(end, 16)

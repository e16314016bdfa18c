"""`mount.drivefs` with a fault: files of `SIZE` bytes cannot be read, for a reason that nobody thought of."""

from __future__ import annotations

from typing import Final

from cache.blocks.content import Content
from tools import mount

SIZE: Final = 4711


def main() -> None:
    """The command."""
    read = Content.read

    async def buggy(self: Content, inode: int, start: int, end: int, size: int) -> bytes | memoryview:
        if size == SIZE:
            raise ZeroDivisionError("a fault")
        return await read(self, inode, start, end, size)

    setattr(Content, "read", buggy)  # noqa: B010 - the class has another
    mount.main()

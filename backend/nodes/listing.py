"""Walking the keys of a node, page by page, in bounded memory."""

from __future__ import annotations

from collections.abc import AsyncIterator

from backend.nodes.node import PAGE, Node


async def pages(node: Node, prefix: str, after: str = "") -> AsyncIterator[list[str]]:
    """The keys that start with the folder `prefix`, from the first above `after`, in order. The last key of a
    page is where to go on, also in another process. What comes and goes meanwhile may be seen or not."""
    while True:
        page = await node.keys(prefix, after)
        if page:
            yield page
        if len(page) < PAGE:
            return
        after = page[-1]


async def all_keys(node: Node, prefix: str) -> list[str]:
    """All of them at once: for folders that are known to be small."""
    return [key async for page in pages(node, prefix) for key in page]

"""Which blocks the rows of a namespace name."""

from __future__ import annotations

from cache.namespace.namespace import Namespace


def block_references(namespace: Namespace) -> set[bytes]:
    """Each block id that a live or past extent names."""
    sql = "SELECT block FROM extent UNION SELECT block FROM past_extent"
    return {block for (block,) in namespace.synced_connection().execute(sql)}

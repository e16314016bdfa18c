"""Listing the keys of a node in a store in their order, from any key on.

Most stores list in the order of bytes, which is that of keys: `a-b`, `a.b`, `a/b`. Some list folder by
folder, as SeaweedFS does: `a/b`, `a-b`, `a.b`. Nobody asks which one a store does: this is right for both.
Everything blocks; errors as of `backend.nodes.object_store.client`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from typing import Final

from backend.nodes.node import is_key
from backend.nodes.object_store.client import Listed, StoreClient

_BEFORE_ALL: Final = ","
"""It sorts before every letter that a key may go on with."""


def list_keys(client: StoreClient, prefix: str, after: str, limit: int) -> list[str]:
    """Up to `limit` keys above `after` in the folder `prefix`, sorted; fewer only if there are no more."""
    if after > prefix and not after.startswith(prefix):
        return []
    pages = client.pages(prefix, _begin(prefix, after))
    found = _taken(pages, after, limit)
    if len(found) >= limit and not _is_complete(client, found, prefix, after, limit):
        found += _taken(pages, after, math.inf)
    return sorted(found)[:limit]


def _begin(prefix: str, after: str) -> str:
    """The beginning of a listing that has all keys above `after`: if that is `a.b`, before `a/b`. Not with
    the folder's own name: SeaweedFS leaves it out then."""
    if after <= prefix:
        return ""
    name, *rest = re.split("[-.]", after[len(prefix) :], maxsplit=1)
    return f"{prefix}{name[:-1]}{_BEFORE_ALL}" if rest else after


def _taken(pages: Iterator[list[Listed]], after: str, most: float) -> list[str]:
    """The keys above `after` from the next pages: `most` or somewhat more, fewer if there are no more."""
    found: list[str] = []
    for page in pages:
        found += [each.key for each in page if is_key(each.key) and each.key > after]
        if len(found) >= most:
            break
    return found


def _is_complete(client: StoreClient, found: list[str], prefix: str, after: str, limit: int) -> bool:
    """Whether the first `limit` keys are among those `found`, though the store has more. Only names that go
    on behind that of a folder on the way to the last one could be missing: they are asked for."""
    if found != sorted(found):
        return False
    last, known = found[limit - 1], set(found)
    ends = (end for end, letter in enumerate(last) if letter == "/" and end >= len(prefix))
    return all(after > last[: end + 1] or known >= _neighbours(client, last[:end], after) for end in ends)


def _neighbours(client: StoreClient, folder: str, after: str) -> set[str]:
    """Some of the names above `after` that go on behind that of the folder, if there are any."""
    above = folder.rpartition("/")[0]
    page = next(client.pages(f"{above}/" if above else "", max(after, f"{folder}{_BEFORE_ALL}")), [])
    return {each.key for each in page if each.key.startswith((f"{folder}-", f"{folder}."))}

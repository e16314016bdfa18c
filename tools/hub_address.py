"""Whether a drive is at a hub, by its name in commands and in the kernel's table of mounts; and the proxies
that may be named on the way to one."""

from __future__ import annotations

import re
from typing import Final

from backend.errors import UsageError

_SCHEMES: Final = ("https://", "http://")


def is_at_hub(drive: str) -> bool:
    """Whether the drive is at a hub, and in no folder."""
    return drive.startswith(_SCHEMES)


def drive_on_nodes(drive: str) -> str:
    """The same, for commands about nodes and what lies beside them; `UsageError` if the drive is at a hub."""
    if is_at_hub(drive):
        raise UsageError(
            f"{drive}: the drive is at a hub, which has its nodes and looks after them; this is for drives "
            "in folders"
        )
    return drive


def proxy_url(text: str) -> str:
    """The URL of a proxy, as it is typed. `UsageError`: it is none, or has a password in it, which everybody
    who lists processes would read."""
    if re.fullmatch(r"https?://[^@/?#]+/?", text) is None:
        raise UsageError(
            "a proxy is http://HOST:PORT, without a password: one that needs it stands in HTTPS_PROXY"
        )
    return text

"""The calls about retention and space: `drivefs retention`, `gc`, `du`, `pin`, `unpin`, `pins`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from cache.messages.call import Call, Nothing
from cache.messages.coding import omitted


@dataclass(frozen=True, slots=True)
class PolicyTimes:
    """How long what is retained, in seconds (`cache.retention.retention.Policy`). None: not said."""

    keep_all: int | None = omitted()
    hourly: int | None = omitted()
    daily: int | None = omitted()
    weekly: int | None = omitted()
    monthly: int | None = omitted()


@dataclass(frozen=True, slots=True)
class PolicyChanged:
    """All of the policy in force now."""

    policy: PolicyTimes


@dataclass(frozen=True, slots=True)
class PolicyShown:
    """The policy, how many states are retained and since when, and why none is dropped now, if so."""

    policy: PolicyTimes
    points: int
    oldest_ns: int | None
    held_back: str


@dataclass(frozen=True, slots=True)
class Sizes:
    """Of distinct blocks, in bytes: what files name of them, what they are sealed (compressed), and what that
    takes on the nodes with parity."""

    blocks: int
    plain: int
    sealed: int
    stored: int


@dataclass(frozen=True, slots=True)
class PolicyPreview:
    """What a policy would drop now: so many points, in these gaps (the first thousand); what that frees; and
    why nothing is dropped, if so."""

    points: int
    gaps: tuple[tuple[int, int], ...]
    freed: Sizes
    held_back: str


@dataclass(frozen=True, slots=True)
class CollectionWanted:
    """`dry_run`: only say what would happen. `grace`: seconds for which what was released stays (None: as
    usual). `trust_clock`: drop points even if the clock has jumped."""

    dry_run: bool = False
    grace: float | None = omitted()
    trust_clock: bool = False


@dataclass(frozen=True, slots=True)
class CollectionDone:
    """Points dropped, and why none, if so; blocks that nobody needs, needed ones that are not stored; the
    grace; what the compaction did (`backend.upstream.CompactionReport`). Of a dry run also bytes."""

    points: int
    held_back: str
    dead: int
    lost: int
    grace: float
    blocks: int
    packs: int
    stored_bytes: int
    rewritten: int
    waiting: int
    debris: int
    dead_bytes: int | None = omitted()
    freed: Sizes | None = omitted()  # noqa: RUF009 - it makes a field


@dataclass(frozen=True, slots=True)
class UsageAsked:
    """Of the tree below `inode`, and of the folders in it to `depth`. The root by default."""

    inode: int = 1
    depth: int = 0


@dataclass(frozen=True, slots=True)
class TreeUsage:
    """The space that a tree takes: see `cache.retention.space.Usage`. `path` is percent-encoded."""

    path: str
    inodes: int
    logical: int
    live: Sizes
    history: Sizes


@dataclass(frozen=True, slots=True)
class UsageShown(TreeUsage):
    """Of the whole tree, and of the folders in it that were asked for."""

    folders: tuple[TreeUsage, ...]


@dataclass(frozen=True, slots=True)
class PinWanted:
    """Pin `commit`, or what `moment` (a name as in .versions) means, or the state now, under `name`."""

    name: str
    commit: int | None = omitted()
    moment: str | None = omitted()


@dataclass(frozen=True, slots=True)
class Pinned:
    """The commit that is retained."""

    commit: int


@dataclass(frozen=True, slots=True)
class UnpinWanted:
    name: str


@dataclass(frozen=True, slots=True)
class PinShown:
    """`time_ns` is None if the commit is not retained, which is a fault."""

    name: str
    commit: int
    time_ns: int | None


@dataclass(frozen=True, slots=True)
class Pins:
    """All of them."""

    pins: tuple[PinShown, ...]


RETENTION_SHOW: Final = Call("retention_show", Nothing, PolicyShown)
RETENTION_SET: Final = Call("retention_set", PolicyTimes, PolicyChanged)
RETENTION_PREVIEW: Final = Call("retention_preview", PolicyTimes, PolicyPreview)
COLLECT: Final = Call("collect", CollectionWanted, CollectionDone)
USAGE: Final = Call("usage", UsageAsked, UsageShown)
PIN: Final = Call("pin", PinWanted, Pinned)
UNPIN: Final = Call("unpin", UnpinWanted, Nothing)
PINS: Final = Call("pins", Nothing, Pins)

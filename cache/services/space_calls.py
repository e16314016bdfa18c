"""The calls about retention and space of a running drive, as `cache.messages.space` has them."""

from __future__ import annotations

from dataclasses import asdict, fields, replace
from typing import Any, Final
from urllib.parse import quote

from cache.drive import Drive
from cache.errors import InvalidArgumentError
from cache.messages import (
    COLLECT,
    PIN,
    PINS,
    RETENTION_PREVIEW,
    RETENTION_SET,
    RETENTION_SHOW,
    UNPIN,
    USAGE,
    CollectionDone,
    CollectionWanted,
    Nothing,
    Pinned,
    Pins,
    PinShown,
    PinWanted,
    PolicyChanged,
    PolicyPreview,
    PolicyShown,
    PolicyTimes,
    Service,
    TreeUsage,
    UnpinWanted,
    UsageAsked,
    UsageShown,
)
from cache.retention import CollectionReport, Policy, Usage

MOST_GAPS: Final = 1000


class SpaceCalls:
    """See the module."""

    def __init__(self, drive: Drive) -> None:
        self._drive = drive

    def services(self) -> list[Service[Any, Any]]:
        """Those of `cache.messages.space`."""
        return [
            Service(RETENTION_SHOW, self.retention_show),
            Service(RETENTION_SET, self.retention_set),
            Service(RETENTION_PREVIEW, self.retention_preview),
            Service(COLLECT, self.collect),
            Service(USAGE, self.usage),
            Service(PIN, self.pin),
            Service(UNPIN, self.unpin),
            Service(PINS, self.pins),
        ]

    async def retention_show(self, _: Nothing) -> PolicyShown:
        """The policy in force, and how much of the past it left."""
        drive = self._drive
        points, policy = drive.points(), _times(drive.retention.policy())
        oldest = points[0].time_ns if points else None
        return PolicyShown(policy, len(points), oldest, drive.retention.held_back())

    async def retention_set(self, times: PolicyTimes) -> PolicyChanged:
        """Change the given times of the policy."""
        self._drive.retention.set_policy(self._changed(times))
        return PolicyChanged(_times(self._drive.retention.policy()))

    async def retention_preview(self, times: PolicyTimes) -> PolicyPreview:
        """Of the policy with the given times changed."""
        keeper = self._drive.retention
        gaps = keeper.gaps(self._changed(times))
        freed = await self._drive.space().freed_by(gaps)
        return PolicyPreview(keeper.count(gaps), tuple(gaps[:MOST_GAPS]), freed, keeper.held_back())

    async def collect(self, wanted: CollectionWanted) -> CollectionDone:
        """Apply the policy and give space back."""
        keeper, space = self._drive.retention, self._drive.space()
        if wanted.dry_run:
            found = await keeper.preview()
            freed = await space.freed_by([] if found.held_back else keeper.gaps())
            dead = await space.sealed_bytes(found.dead.blocks)
            return replace(_done(found), dead_bytes=dead, freed=freed)
        if wanted.grace is not None and not wanted.grace >= 0:  # what is not a number is neither
            raise InvalidArgumentError("grace is a number of seconds")
        return _done(await keeper.collect(grace=wanted.grace, trust_clock=wanted.trust_clock))

    async def usage(self, asked: UsageAsked) -> UsageShown:
        """The space that a tree takes."""
        if not 0 <= asked.depth < 1 << 16:
            raise InvalidArgumentError("the depth is a number from 0 on")
        if not 0 < asked.inode < 1 << 63:
            raise InvalidArgumentError("no such inode: what is in .versions has no space of its own")
        self._drive.attributes(asked.inode)
        *below, whole = await self._drive.space().usage(asked.inode, asked.depth)
        return UsageShown(**_tree(whole), folders=tuple(TreeUsage(**_tree(folder)) for folder in below))

    async def pin(self, wanted: PinWanted) -> Pinned:
        """Pin a state."""
        drive, commit = self._drive, wanted.commit
        if commit is None and wanted.moment is not None:
            commit = drive.past.commit_named(wanted.moment)
        elif commit is None:
            await drive.sync()
            commit = drive.ledger.head.number
        drive.retention.pin(_name(wanted.name), commit)
        await drive.sync()
        return Pinned(commit)

    async def unpin(self, wanted: UnpinWanted) -> Nothing:
        """Remove a pin."""
        self._drive.retention.unpin(_name(wanted.name))
        await self._drive.sync()
        return Nothing()

    async def pins(self, _: Nothing) -> Pins:
        """All of them."""
        times = {point.number: point.time_ns for point in self._drive.points()}
        pins = self._drive.retention.pins().items()
        return Pins(tuple(PinShown(_text(name), commit, times.get(commit)) for name, commit in pins))

    def _changed(self, times: PolicyTimes) -> Policy:
        given = {name: value for name, value in asdict(times).items() if value is not None}
        if any(value < 0 for value in given.values()):
            raise InvalidArgumentError("the times of a retention policy are whole seconds from 0 on")
        return replace(self._drive.retention.policy(), **given)


def _times(policy: Policy) -> PolicyTimes:
    return PolicyTimes(**asdict(policy))


def _text(name: bytes) -> str:
    return name.decode("utf-8", "surrogateescape")


def _name(name: str) -> bytes:
    if not name:
        raise InvalidArgumentError("a pin has a name")
    try:
        return name.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        raise InvalidArgumentError("a pin's name is text") from None


def _tree(found: Usage) -> dict[str, Any]:
    own = {field.name: getattr(found, field.name) for field in fields(found)}
    return {**own, "path": quote(found.path)}


def _done(found: CollectionReport) -> CollectionDone:
    return CollectionDone(
        points=found.points,
        held_back=found.held_back,
        dead=len(found.dead.blocks),
        lost=found.dead.lost,
        grace=found.grace,
        **asdict(found.compaction),
    )

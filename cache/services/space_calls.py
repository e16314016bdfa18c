"""Calls about retention and space, for the commands of `tools.commands.space_commands`
(docs/retention.md)."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import asdict, fields, replace
from typing import Any
from urllib.parse import quote

from cache.drive import Drive
from cache.errors import InvalidArgumentError
from cache.namespace import ROOT_INODE
from cache.retention import Collected, Policy, Usage

Arguments = Mapping[str, Any]
Answer = Mapping[str, Any]


class SpaceCalls:
    """Each method takes the call's arguments and gives its answer."""

    def __init__(self, drive: Drive) -> None:
        self._drive = drive

    def by_name(self) -> dict[str, Callable[[Arguments], Awaitable[Answer]]]:
        """The calls."""
        return {
            "retention_show": self.retention_show,
            "retention_set": self.retention_set,
            "retention_preview": self.retention_preview,
            "collect": self.collect,
            "usage": self.usage,
            "pin": self.pin,
            "unpin": self.unpin,
            "pins": self.pins,
        }

    async def retention_show(self, _arguments: Arguments) -> Answer:
        """The policy in seconds, how many points there are, and why none are dropped now, if so."""
        drive = self._drive
        points = drive.points()
        return {
            "policy": asdict(drive.retention.policy()),
            "points": len(points),
            "oldest_ns": points[0].time_ns if points else None,
            "held_back": drive.retention.held_back(),
        }

    async def retention_set(self, arguments: Arguments) -> Answer:
        """Change the given times of the policy, in seconds; the whole of it then."""
        self._drive.retention.set_policy(self._changed(arguments))
        return {"policy": asdict(self._drive.retention.policy())}

    async def retention_preview(self, arguments: Arguments) -> Answer:
        """What the policy (with the given times changed) would drop now, and what that would free."""
        keeper = self._drive.retention
        gaps = keeper.gaps(self._changed(arguments))
        freed = await self._drive.space().freed_by(gaps)
        return {
            "points": keeper.count(gaps),
            "gaps": [list(gap) for gap in gaps[:1000]],
            "freed": asdict(freed),
            "held_back": keeper.held_back(),
        }

    async def collect(self, arguments: Arguments) -> Answer:
        """Apply the policy and give space back; with `dry_run` only say what would happen."""
        keeper, space = self._drive.retention, self._drive.space()
        if arguments.get("dry_run"):
            found = await keeper.preview()
            freed = await space.freed_by([] if found.held_back else keeper.gaps())
            dead = await space.sealed_bytes(found.dead.blocks)
            return {**_answer(found), "dead_bytes": dead, "freed": asdict(freed)}
        grace = arguments.get("grace")
        if grace is not None and not (isinstance(grace, int | float) and grace >= 0):
            raise InvalidArgumentError("grace is a number of seconds")
        return _answer(
            await keeper.collect(grace=grace, trust_clock=bool(arguments.get("trust_clock", False)))
        )

    async def usage(self, arguments: Arguments) -> Answer:
        """What the tree below `inode` takes, and `folders`: the folders in it to `depth`, by path."""
        inode, depth = arguments.get("inode", ROOT_INODE), arguments.get("depth", 0)
        if not isinstance(depth, int) or not 0 <= depth < 1 << 16:
            raise InvalidArgumentError("the depth is a number from 0 on")
        if not isinstance(inode, int) or not 0 < inode < 1 << 63:
            raise InvalidArgumentError("no such inode: what is in .versions has no space of its own")
        self._drive.attributes(inode)
        *below, whole = await self._drive.space().usage(inode, depth)
        return {**_usage(whole), "folders": [_usage(folder) for folder in below]}

    async def pin(self, arguments: Arguments) -> Answer:
        """Pin `commit`, or what `moment` (a name as in .versions) means, or the state now, under `name`."""
        drive = self._drive
        commit = arguments.get("commit")
        if commit is None and arguments.get("moment") is not None:
            commit = drive.past.commit_named(str(arguments["moment"]))
        elif commit is None:
            await drive.sync()
            commit = drive.ledger.head.number
        if not isinstance(commit, int):
            raise InvalidArgumentError("no state of the drive is known by that time")
        drive.retention.pin(_name(arguments), commit)
        await drive.sync()
        return {"commit": commit}

    async def unpin(self, arguments: Arguments) -> Answer:
        """Remove the pin `name`."""
        self._drive.retention.unpin(_name(arguments))
        await self._drive.sync()
        return {}

    async def pins(self, _arguments: Arguments) -> Answer:
        """All pins: name, commit and its time."""
        times = {point.number: point.time_ns for point in self._drive.points()}
        pins = self._drive.retention.pins().items()
        return {
            "pins": [
                {"name": _text(name), "commit": commit, "time_ns": times.get(commit)} for name, commit in pins
            ]
        }

    def _changed(self, arguments: Arguments) -> Policy:
        names = {field.name for field in fields(Policy)}
        for name, value in arguments.items():
            if name not in names or not isinstance(value, int) or isinstance(value, bool) or value < 0:
                raise InvalidArgumentError(f"'{name}' is no time of a retention policy, in whole seconds")
        return replace(self._drive.retention.policy(), **arguments)


def _text(name: bytes) -> str:
    return name.decode("utf-8", "surrogateescape")


def _name(arguments: Arguments) -> bytes:
    name = arguments.get("name")
    if not isinstance(name, str) or not name:
        raise InvalidArgumentError("a pin has a name")
    try:
        return name.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        raise InvalidArgumentError("a pin's name is text") from None


def _usage(found: Usage) -> dict[str, Any]:
    return {**asdict(found), "path": quote(found.path)}


def _answer(found: Collected) -> dict[str, Any]:
    return {
        "points": found.points,
        "held_back": found.held_back,
        "dead": len(found.dead.blocks),
        "lost": found.dead.lost,
        "grace": found.grace,
        **asdict(found.compaction),
    }

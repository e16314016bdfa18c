"""Two machines use one drive in turn, each with a cache and a block index of its own, and a third looks on.

hypothesis makes a list of sessions: which cache, which node is away, what is written (few contents, so that
they meet again and again), deleted, synced, collected, and how it ends: closed, or stopped at a failpoint.
After each session a machine without any cache reads the drive: everything that `sync` returned for is there
with its bytes, whatever a cache has noted, forgotten or left half done. Each cache that comes back shows
what it had accepted, or, if the drive has gone on without it, is set aside as stale.
"""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

import pytest
import trio
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from backend.errors import DriveError
from backend.failpoints import OF_PROCESS
from cache.drive import Drive
from cache.errors import FileSystemError
from cache.namespace.operations import ROOT_INODE
from cache.recovery import StaleCacheError
from cache.retention.retention import Policy
from tests.contents import KINDS, content
from tests.declared_failpoints import DECLARED
from tests.drives import content_of, make_file, opened
from tests.memory_node import MemoryNode, memory_nodes
from tests.upstreams import LocalDrive

Files = dict[bytes, bytes]
Step = tuple[Any, ...]
CONTENTS: Final = [content(kind, size, 1) for kind in KINDS for size in (7_000, 90_000)]
NOTHING: Final = Policy(0, 0, 0, 0, 0)
ALL: Final = Policy(keep_all=10**9)
NAMES: Final = (b"a", b"b", b"c", b"d")
OFTEN: Final = ("compaction.deleting", "ledger.extents")
PLACES: Final = sorted(
    name
    for name in DECLARED
    if name.split(".")[0] in ("blocks", "collector", "commit", "compaction", "ledger", "retention", "sealer")
)
Refused = (DriveError, FileSystemError, OSError)

steps = st.one_of(
    st.tuples(st.just("write"), st.sampled_from(NAMES), st.integers(0, len(CONTENTS) - 1)),
    st.tuples(st.just("write"), st.sampled_from(NAMES), st.integers(0, 1)),
    st.tuples(st.just("delete"), st.sampled_from(NAMES)),
    st.tuples(st.just("sync")),
    st.tuples(st.just("retain"), st.sampled_from([NOTHING, ALL])),
    st.tuples(st.just("collect"), st.sampled_from([0.0, 3600.0])),
)


@dataclass(frozen=True)
class Session:
    """`place`: the failpoint at which it stops, when it has been passed `skip` times; "": it is closed."""

    cache: str
    steps: list[Step]
    place: str = ""
    skip: int = 0
    away: int | None = None
    syncs: bool = True
    """before it is closed"""


sessions = st.builds(
    Session,
    cache=st.sampled_from("AB"),
    steps=st.lists(steps, max_size=6),
    place=st.one_of(st.just(""), st.sampled_from(PLACES)),
    skip=st.integers(0, 3),
    away=st.one_of(st.none(), st.integers(0, 5)),
    syncs=st.booleans(),
)


@dataclass
class Cache:
    """What a machine keeps, and the files that it would show: None if it has nothing that is unpublished."""

    folder: Path
    accepted: Files | None = None


@dataclass
class Run:
    """`published` is what the drive holds for everybody; `perhaps`: what an interrupted session may have
    published besides."""

    folder: Path
    nodes: dict[str, MemoryNode] = field(default_factory=lambda: memory_nodes(6))
    published: Files = field(default_factory=dict)
    perhaps: list[Files] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.local = LocalDrive(self.nodes, life="gone")
        self.caches = {name: Cache(self.folder / name) for name in "AB"}

    async def execute(self, run: list[Session]) -> None:
        for session in run:
            await self.one(session)
            await self.look_on()

    async def one(self, session: Session) -> None:
        cache = self.caches[session.cache]
        for number, node in enumerate(self.nodes.values()):
            node.away = number == session.away
        async with self.mounted(cache, crash=bool(session.place)) as drive:
            files = await self.begin(cache, drive)
            if session.place:
                OF_PROCESS.arm(session.place, "eio", session.skip)
            with suppress(*Refused):
                for step in session.steps:
                    await self.step(drive, files, step)
                if session.syncs or session.place:
                    await self.step(drive, files, ("sync",))
            OF_PROCESS.disarm_all()
            cache.accepted = dict(files) if drive.ledger.unpublished else None
        for node in self.nodes.values():
            node.away = False

    @asynccontextmanager
    async def mounted(self, cache: Cache, *, crash: bool) -> AsyncIterator[Drive]:
        """As `tools.compose` does it: a stale cache is kept aside."""
        while True:
            async with self.local.opened(index_path=self.index_of(cache)) as upstream:
                try:
                    async with opened(cache.folder / "state", upstream, crash=crash) as drive:
                        yield drive
                        return
                except StaleCacheError:
                    assert cache.accepted is not None
                    cache.accepted = None
            shutil.rmtree(cache.folder)

    def index_of(self, cache: Cache) -> str:
        cache.folder.mkdir(exist_ok=True)
        return str(cache.folder / "blocks.db")

    async def begin(self, cache: Cache, drive: Drive) -> Files:
        """What the cache shows when it is mounted: all of it can be read."""
        found = await files_of(drive)
        expected = self.published if cache.accepted is None else cache.accepted
        assert found == expected
        return dict(found)

    async def step(self, drive: Drive, files: Files, step: Step) -> None:
        match step:
            case ("write", name, number):
                await self.remove(drive, files, name)
                self.perhaps.append(dict(files))
                files[name] = CONTENTS[number]
                await make_file(drive, name, CONTENTS[number])
            case ("delete", name):
                await self.remove(drive, files, name)
            case ("sync",):
                self.perhaps.append(dict(files))
                await drive.sync()
                self.published, self.perhaps = dict(files), []
            case ("retain", policy):
                drive.retention.set_policy(policy)
            case ("collect", grace):
                self.perhaps.append(dict(files))
                await drive.retention.collect(grace=grace, trust_clock=True)

    async def remove(self, drive: Drive, files: Files, name: bytes) -> None:
        if files.pop(name, None) is not None:
            await drive.unlink(ROOT_INODE, name)

    async def look_on(self) -> None:
        """From a machine that has nothing but the secret."""
        with TemporaryDirectory() as folder:
            async with (
                self.local.opened(writing=False) as upstream,
                opened(Path(folder), upstream, read_only=True) as drive,
            ):
                found = await files_of(drive)
        assert found in (self.published, *self.perhaps)
        self.published, self.perhaps = found, []


async def files_of(drive: Drive) -> Files:
    """Read from the nodes."""
    drive.blocks.clear()
    names = [entry.name for entry in drive.entries(ROOT_INODE, 0, 100)]
    return {name: await content_of(drive, name) for name in names}


def execute(run: list[Session]) -> None:
    with TemporaryDirectory() as folder:
        try:
            trio.run(Run(Path(folder)).execute, run)
        finally:
            OF_PROCESS.disarm_all()


COLLECT, SYNC, FORGET, KEEP = ("collect", 0.0), ("sync",), ("retain", NOTHING), ("retain", ALL)
WRITTEN_AND_DELETED = [FORGET, ("write", b"a", 1), SYNC, ("delete", b"a"), SYNC]
FORGOTTEN = [
    Session("B", [("write", b"d", 1), SYNC, *WRITTEN_AND_DELETED, COLLECT, COLLECT]),
    Session("A", [("write", b"b", 1)]),
    Session("B", [COLLECT, ("write", b"c", 0)]),
]
FORGOTTEN_IN_PART = [
    Session("B", [*WRITTEN_AND_DELETED, COLLECT], away=1),
    Session("A", [("write", b"b", 1)], away=2),
    Session("B", [COLLECT, ("write", b"c", 1)]),
]
DYING = [
    Session("B", [*WRITTEN_AND_DELETED, ("collect", 3600.0), ("collect", 3600.0), KEEP]),
    Session("A", [("write", b"b", 1), SYNC], place="commit.before-copies"),
    Session("B", [COLLECT], syncs=False),
    Session("A", []),
]
STRAGGLING = [
    DYING[0],
    Session("A", [("write", b"b", 1), SYNC], place="commit.after-first-copy"),
    *(Session("B", [COLLECT], syncs=False, away=number) for number in range(6)),
    Session("A", []),
]


@pytest.mark.logs_warnings
@settings(max_examples=6, suppress_health_check=list(HealthCheck))
@given(st.lists(sessions, min_size=2, max_size=6))
@example(FORGOTTEN)
@example(FORGOTTEN_IN_PART)
@example(DYING)
@example(STRAGGLING)
def test_what_sync_returned_for_is_there_for_everybody(run: list[Session]) -> None:
    execute(run)


@pytest.mark.soak
@pytest.mark.logs_warnings
@pytest.mark.timeout(3600)
@settings(max_examples=2000, suppress_health_check=list(HealthCheck))
@given(st.lists(sessions, min_size=2, max_size=12))
def test_what_sync_returned_for_is_there_for_everybody_for_long(run: list[Session]) -> None:
    execute(run)

"""Scrub: every fragment at rest is looked at now and then: it is read, and compared with what its footer and
checksum say. Of a node where reading costs, only size and tag are asked in most scrubs. Copies of commits and
roots come after the packs (`backend.care.scrub_objects`).

Invariants:
1. No key is used for packs: identity, sizes and checksum are in the fragment (docs/format/fragment.md).
2. Nothing is written to a node: a missing or wrong fragment is noted in the block index, whose repair queue
   rebuilds it (`backend.blocks.repair_queue`).
3. A node that does not answer is skipped, never called wrong.
4. The position is kept in a small file: a scrub that was interrupted goes on, and packs that were added
   meanwhile are seen if their ids lie ahead, else by the next scrub.
5. Of a far node each scrub reads another share of the packs and commits; all are read in `SHARES` scrubs. A
   fragment that was written again since it was last seen (its tag is another one) is read at once.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Collection, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Final

import anyio

from backend.blocks import BlockIndex
from backend.care.scrub_objects import ObjectScrub, Seen
from backend.errors import DriveError
from backend.failpoints import declare
from backend.nodes import Node, NodeHealth, NodeSet, NodeSpeed, RateLimitedNode, TokenBucket
from backend.packs import FragmentReader, Pack, PackCodec, is_wrong
from backend.system import THIS_MACHINE, Environment, Threads

STATE_FILE: Final = "scrub.json"
DEFAULT_RATE: Final = 32.0 * (1 << 20)
SHARES: Final = 26
"""Two weeks apart, these make a year."""
_KEEP_EVERY: Final = 10.0
_BATCH: Final = 16
_LONGEST_SLEEP: Final = 3600.0

NOTED: Final = declare(
    "scrub.noted", "a wrong fragment is in the repair queue; the position does not know it"
)

log = logging.getLogger(__name__)


@dataclass(slots=True)
class ScrubState:
    """The kept state. `position`: the last pack that was looked at, hexadecimal, `commit`: the last commit;
    empty and 0 between scrubs. Times are ns since 1970, 0: never. `share`: that which is read of far nodes.
    `fragments`, of which `by_size` were not read and `wrong` are, `copies` of small objects that were read,
    `copies_wrong`, `bytes`, `unanswered` count the scrub under way or the last one."""

    position: str = ""
    begun_ns: int = 0
    finished_ns: int = 0
    share: int = 0
    fragments: int = 0
    by_size: int = 0
    bytes: int = 0
    wrong: int = 0
    unanswered: int = 0
    commit: int = 0
    copies: int = 0
    copies_wrong: int = 0

    def begin(self, now_ns: int) -> None:
        """A scrub begins now."""
        if self.begun_ns:
            self.share = (self.share + 1) % SHARES
        self.begun_ns = now_ns
        self.fragments = self.by_size = self.bytes = self.wrong = self.unanswered = 0
        self.copies = self.copies_wrong = 0

    def add(self, seen: Seen) -> None:
        """This was seen of small objects."""
        self.copies += seen.copies
        self.copies_wrong += seen.wrong
        self.unanswered += seen.unanswered
        self.bytes += seen.bytes


class Scrub:
    """`run` is the one task that scrubs; the others may be called beside it. `wake_repair` is told when
    something was queued; `interval` is in seconds from the end of a scrub to the begin of the next, 0:
    only by `request`. `far`: the names of nodes where reading costs. `objects`: the small ones, if they are
    to be looked at."""

    def __init__(
        self,
        nodes: Mapping[str, Node],
        codec: PackCodec,
        index: BlockIndex,
        wake_repair: Callable[[], None],
        folder: Path,
        *,
        interval: float,
        far: Collection[str] = (),
        objects: ObjectScrub | None = None,
        rate: float = DEFAULT_RATE,
        environment: Environment = THIS_MACHINE,
    ) -> None:
        self._bucket = TokenBucket(rate, rate)
        limited = NodeSet.of(nodes).wrapped(lambda node: RateLimitedNode(node, self._bucket))
        one = Threads(1)
        self._fragments = FragmentReader(limited, codec, NodeHealth(), NodeSpeed(), one, hedge_after=0.0)
        self._total = codec.code.profile.total
        self._index = index
        self._objects = objects
        self._wake_repair = wake_repair
        self._path = folder / STATE_FILE
        self._interval = interval
        self._far = frozenset(far)
        self._environment = environment
        self._requested = anyio.Event()
        self._kept_at = 0.0
        self.state: Final = _load(self._path)
        self.finished = anyio.Event()
        """set, and replaced, whenever a scrub is at its end"""

    @property
    def is_running(self) -> bool:
        """Whether a scrub is under way (or was interrupted and goes on)."""
        return bool(self.state.position or self.state.commit)

    def request(self) -> anyio.Event:
        """Scrub now, or go on with the one under way; the event is set at its end."""
        self._requested.set()
        return self.finished

    def have_far(self, names: Collection[str]) -> None:
        """The nodes where reading costs are these from now on."""
        self._far = frozenset(names)

    async def run(self) -> None:
        """Scrub when it is due, for ever."""
        while True:
            await self._wait_until_due()
            self._requested = anyio.Event()
            try:
                await self.scrub()
            except (DriveError, OSError) as error:
                log.warning("the scrub stops for now and goes on later: %s", error)
                await anyio.sleep(_KEEP_EVERY)

    async def scrub(self) -> ScrubState:
        """One scrub from where the last one stopped to the end. Safe to cancel."""
        state = self.state
        if not self.is_running:
            state.begin(self._environment.wall_clock())
        while batch := self._index.packs.after(bytes.fromhex(state.position), _BATCH):
            for pack in batch:
                await self._look_at(pack)
                state.position = pack.id.hex()
                self._keep(at_once=False)
        if self._objects is not None:
            await self._look_at_objects(self._objects)
        state.position, state.commit, state.finished_ns = "", 0, self._environment.wall_clock()
        self._keep(at_once=True)
        log.info(
            "scrub: %d fragments looked at, %d wrong; %d copies of small objects, %d wrong",
            *(state.fragments, state.wrong, state.copies, state.copies_wrong),
        )
        finished, self.finished = self.finished, anyio.Event()
        finished.set()
        return state

    async def _wait_until_due(self) -> None:
        while not self._requested.is_set() and not self.is_running:
            due = (
                (self.state.finished_ns / 1e9 + self._interval - self._environment.wall_clock() / 1e9)
                if self._interval
                else _LONGEST_SLEEP
            )
            if due <= 0:
                return
            with anyio.move_on_after(min(due, _LONGEST_SLEEP)):
                await self._requested.wait()

    async def _look_at_objects(self, objects: ObjectScrub) -> None:
        state = self.state
        while batch := objects.batch(state.commit):
            listing = await objects.list_far(state.commit, self._far)
            for number in batch:
                listed = frozenset() if number % SHARES == state.share else self._far
                state.add(await objects.look_at_commit(number, self._bucket, listing, listed))
                state.commit = number
                self._keep(at_once=False)
        state.add(await objects.look_at_roots(self._bucket))

    async def _look_at(self, pack: Pack) -> None:
        for index in range(self._total):
            try:
                await self._look_at_fragment(pack, index)
            except DriveError as error:
                self._note(pack, index, error)
            self.state.fragments += 1

    async def _look_at_fragment(self, pack: Pack, index: int) -> None:
        if pack.nodes[index] in self._far:
            await self._look_at_far(pack, index)
        else:
            await self._read(pack, index)

    async def _look_at_far(self, pack: Pack, index: int) -> None:
        """It is read when it is its turn, or when it was written again since it was last seen."""
        tag, known = await self._fragments.tag(pack, index), self._index.packs.tag(pack.id, index)
        if (known and tag != known) or int.from_bytes(pack.id) % SHARES == self.state.share:
            await self._read(pack, index)
        else:
            self.state.by_size += 1
        if tag != known:
            self._index.packs.note_tag(pack.id, index, tag)

    async def _read(self, pack: Pack, index: int) -> None:
        self.state.bytes += len(await self._fragments.fetch(pack, index))

    def _note(self, pack: Pack, index: int, error: DriveError) -> None:
        if not is_wrong(error):
            self.state.unanswered += 1
        elif self._is_there(pack, index):
            log.warning("scrub: fragment %d of pack %s: %s", index, pack.id.hex(), error)
            self.state.wrong += 1
            self._index.packs.want_repair(pack.id, 1 << index)
            self._environment.failpoints.reached(NOTED)
            self._wake_repair()

    def _is_there(self, pack: Pack, index: int) -> bool:
        """Whether the fragment is to be there still: a pack may be deleted or moved meanwhile."""
        now = self._index.packs.get(pack.id)
        return now is not None and now.nodes[index] == pack.nodes[index]

    def _keep(self, *, at_once: bool) -> None:
        now = anyio.current_time()
        if at_once or now >= self._kept_at + _KEEP_EVERY:
            self._kept_at = now
            self._environment.disk.write_file(str(self._path), [json.dumps(asdict(self.state)).encode()])


def _load(path: Path) -> ScrubState:
    """The kept state; after a damaged file the scrub begins anew."""
    try:
        found = {**asdict(ScrubState()), **json.loads(path.read_bytes())}
        values = {field.name: found[field.name] for field in fields(ScrubState)}
        bytes.fromhex(values["position"])
        if any(type(value) is not int or value < 0 for name, value in values.items() if name != "position"):
            return ScrubState()
        return ScrubState(**values)
    except (OSError, ValueError, KeyError, TypeError):
        return ScrubState()

"""The commit log: ordered, hash-chained commits, each in several copies on the voters. Its role is
`CommitLog` of `backend.upstream`.

Invariants:
1. A commit is acknowledged only after enough voters have it under the writer's epoch and after that a
   majority of them took a lease record that names it (`fence`, `Lease.verify`). So whoever gets a later
   epoch gets it after the copies were there, knows the commit, and reads enough voters to find it.
2. One writer per epoch, one commit per number and epoch: what an append left on some nodes when it
   failed is completed before another commit may take its number.
3. Each copy carries the epoch under which it was written (its ballot). Of two commits with one number
   the higher ballot counts and replaces the lower, never the reverse. The loser was never acknowledged.
4. An opener with an epoch writes the newest commit again under its own ballot before it builds upon it:
   a commit that had only reached one node is then in the log for good, or was seen by nobody. (2 to 4
   are Lamport's "Paxos Made Simple", 2001, with the lease as phase 1.)
5. Only authentic copies are believed. The newest commit is found by its number, not by a list
   (`backend.commits.commit_search`), all before it by the hash chain back from it. A missing or unlinked
   commit is an error that names it; nothing is ever cut off to make the chain fit.
6. A log that ends before, or does not contain, what this device knew is refused (`RollbackError`).
7. Epochs do not fall along the log. A commit of epoch 0 was made at a hub, which has no lease: the commits
   before it are of other leases, and their epochs say nothing of those after it. Such commits come by `take`.
   Whoever opens, appends, takes or follows checks that.

A reader without an epoch takes the newest commit as it finds it. If a fenced writer left that one behind
unacknowledged, a later commit may replace it; the reader then gets a `ConflictError` and opens anew.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from contextlib import nullcontext
from typing import Final

import trio

from backend.commits import commit_format
from backend.commits.commit_chain import CommitChain
from backend.commits.commit_mending import CommitMending, Passing
from backend.commits.commit_search import FOLDER, CommitSearch, commit_key
from backend.commits.commits_to_mend import CommitsToMend
from backend.commits.lease_record import NO_CLAIM, Claim
from backend.commits.object_format import Copy
from backend.commits.replicated_objects import ReplicatedObjects
from backend.errors import (
    ConflictError,
    CorruptError,
    DriveError,
    FencedError,
    FormatError,
    MissingCommitError,
    NotFoundError,
    ReadOnlyError,
    RollbackError,
)
from backend.failpoints import declare
from backend.system import THIS_MACHINE, Environment, plain_hash
from backend.upstream import NO_COMMIT, Commit, Head

EMPTY: Final = Head(0, NO_COMMIT)
_AT_ONCE: Final = 16
_LINKS_AT_ONCE: Final = 256
_BYTES_AT_ONCE: Final = 32 * 1024 * 1024
_ANY_EPOCH: Final = 2**64

BEFORE_COPIES: Final = declare("commit.before-copies", "all blocks are stored; no node has the commit")
AFTER_FIRST_COPY: Final = declare("commit.after-first-copy", "one node has the commit; not acknowledged")
AFTER_COPIES: Final = declare("commit.after-copies", "enough nodes have the commit; epoch not confirmed")
AFTER_FENCE: Final = declare("commit.after-fence", "the commit is in the log; the caller does not know")
BEFORE_SETTLE: Final = declare(
    "commit.before-settle", "a new holder has read the newest commit, nothing is written"
)

Fence = Callable[[Head | None], Awaitable[None]]
Claims = Callable[[], Awaitable[Claim]]


async def _no_fence(_: Head | None) -> None:
    await trio.lowlevel.checkpoint()


async def _no_claims() -> Claim:
    await trio.lowlevel.checkpoint()
    return NO_CLAIM


class ReplicatedCommitLog:
    """`open` comes first. `append` has one caller, the rest any number."""

    def __init__(
        self,
        objects: ReplicatedObjects,
        fence: Fence = _no_fence,
        claims: Claims = _no_claims,
        *,
        poll_seconds: float = 2.0,
        environment: Environment = THIS_MACHINE,
    ) -> None:
        """`fence` returns if the epoch given to `become_writer` still counts, and has it known that the log
        has this commit (None: no other than before); it raises `FencedError` if not. `claims` says what is
        so known: a writer's lease what it knew when it was acquired, a reader what the nodes say now.
        `poll_seconds` is how often a reader without an epoch looks for new commits while one waits."""
        self._objects = objects
        to_mend = CommitsToMend()
        self._search = CommitSearch(objects, to_mend.note_damaged)
        self._fence = fence
        self._claims = claims
        self._poll_seconds = poll_seconds
        self._environment = environment
        self._chain = CommitChain(EMPTY)
        self._head_epoch = 0
        self._epoch: int | None = None
        self._torn: tuple[Commit, bytes] | None = None
        self._newest: bytes | None = None
        self._changed = trio.Event()
        self._reading = trio.Lock()
        self.to_mend: Final = to_mend
        """The commits that `mend` is to look at."""
        self._mending = CommitMending(objects, to_mend, self._linked, lambda: self._chain.first)
        self.highest_epoch = 0
        """The highest epoch met in the log: a lease below it has been tampered with or lost."""

    @property
    def head(self) -> Head:
        """The newest verified commit."""
        return self._chain.head

    @property
    def needs_mending(self) -> trio.Event:
        """Set when `mend` has something to do."""
        return self.to_mend.wanted

    async def open(self, *, known: Head | None = None, trusted: Head | None = None) -> Head:
        """Find and verify the head, for reading. The chain is checked back to `known` (what this device saw
        last), else to `trusted` (what a snapshot names), else to commit 1. `RollbackError`; `CorruptError`
        (gap, fork, damage, each naming the number); `UnavailableError` if too many are away. Idempotent."""
        base = known if known is not None else trusted or EMPTY
        claim = await self._claims()
        listing = await self._objects.list_known(FOLDER)
        found = await self._search.newest(listing, base.number, claim)
        self._chain = CommitChain(base)
        if found is not None:
            await self._verify_from(*found, base)
        self.to_mend.note_thin(listing, self._objects.copies)
        return self.head

    async def become_writer(self, epoch: int) -> Head:
        """Let `append` work, under `epoch`: of a lease that was acquired before `open` was called, else
        commits of the last holder may be missed. Called once, right after `open`. Makes the head this
        epoch's own. `FencedError` if the log has this epoch or a higher one; else as `append`."""
        if self.highest_epoch >= epoch:
            raise FencedError(f"the log has epoch {self.highest_epoch}, the lease only {epoch}")
        if self.head.number:
            self._environment.failpoints.reached(BEFORE_SETTLE)
            assert self._newest is not None
            await self._write_copies(self.head, self._newest, epoch)
        self._newest = None
        self._epoch = epoch
        return self.head

    async def append(self, commit: Commit, expected: Head) -> Head:
        """See `CommitLog.append`. A commit that failed with a transient error may be in the log or not:
        append the same commit again. If another one is given instead, the failed one is completed first
        and `ConflictError` raised. `FormatError` if it is over a limit."""
        data = commit_format.encode(commit)
        commit_hash = plain_hash(data)
        if commit_hash == self.head.hash:
            return self.head
        epoch = await self._settled_epoch(data)
        self._check_next(commit, expected)
        if commit.epoch != epoch:
            raise FencedError(f"commit {commit.number} has epoch {commit.epoch}, the lease {epoch}")
        await self._publish(commit, data)
        return self.head

    async def take(self, commit: Commit, expected: Head) -> Head:
        """As `append`, of a commit that was made elsewhere, at a hub or under the lease of other nodes: the
        drive moves here. `CorruptError`: its epoch falls. Who opens next has an epoch above all of these."""
        data = commit_format.encode(commit)
        if plain_hash(data) == self.head.hash:
            return self.head
        await self._settled_epoch(data)
        self._check_next(commit, expected)
        await self._publish(commit, data)
        return self.head

    async def _settled_epoch(self, data: bytes) -> int:
        """The epoch of this writer, when no other commit than `data` is left half written."""
        if self._epoch is None:
            raise ReadOnlyError("the drive is open for reading only")
        if self._torn is not None and self._torn[1] != data:
            await self._publish(*self._torn)
        return self._epoch

    async def commits_after(self, number: int, limit: int = 256) -> list[tuple[Commit, bytes]]:
        """See `CommitLog.commits_after`; fewer than `limit` where they are large (32 MiB)."""
        async with self._reading:
            if number + 1 < self._chain.first:
                await self._extend_back(number + 1)
        found: list[tuple[Commit, bytes]] = []
        last = min(self.head.number, number + limit)
        size = 0
        while number < last and size < _BYTES_AT_ONCE:
            batch = range(number + 1, min(number + _AT_ONCE, last) + 1)
            read = await self._read_many(batch, self._chain.hash_of)
            found.extend(read)
            size += sum(len(commit.payload) for commit, _ in read)
            number = batch[-1]
        return found

    async def wait_for_change(self, number: int) -> None:
        """See `CommitLog.wait_for_change`. A writer is told by its own appends; a reader without an epoch
        asks the nodes now and then."""
        while self.head.number <= number:
            if self._epoch is not None:
                await self._changed.wait()
            elif (await self.refresh()).number <= number:
                await trio.sleep(self._poll_seconds)

    async def refresh(self) -> Head:
        """Look for commits after the head and take them; the head. `ConflictError` if the log went on
        from another commit than this head."""
        async with self._reading:
            while (copy := await self._search.newest_copy(self.head.number + 1)) is not None:
                commit = _decoded(self.head.number + 1, copy)
                if commit.previous != self.head.hash:
                    raise ConflictError(
                        f"the commit log went another way at commit {self.head.number}: open the drive again"
                    )
                _require_no_fall(self.head.number, self._head_epoch, _limit(commit))
                self._grow(commit, plain_hash(copy.data))
        return self.head

    async def mend(self, passing: Passing = nullcontext) -> int:
        """Write again the commits that were found damaged or in too few copies, if that is so, the newest
        first; how many. For a writer. What fails stays noted for the next call; what is lost is left out.
        Each is written within a `passing`."""
        if self._epoch is None:
            raise ReadOnlyError("the drive is open for reading only")
        return await self._mending.run(self.head.number, self._epoch, passing)

    async def _linked(self, number: int) -> bytes:
        return (await self._read_one(number, await self._hash_of(number))).data

    async def _hash_of(self, number: int) -> bytes:
        """Of a commit of the log; the chain is verified back to it, as far as it was not, while others read
        in between."""
        while True:
            async with self._reading:
                if number >= self._chain.first:
                    return self._chain.hash_of(number)
                await self._extend_back(max(number, self._chain.first - _LINKS_AT_ONCE))

    async def _verify_from(self, top: int, copy: Copy, base: Head) -> None:
        newest = _decoded(top, copy)
        self._head_epoch, self.highest_epoch = newest.epoch, max(copy.ballot, newest.epoch)
        # Kept, as a fenced holder may replace every copy of it if it was never acknowledged (invariant 3).
        self._newest = copy.data
        hashes = [plain_hash(copy.data)]
        if top > base.number:
            older, before = await self._walk_back(top - 1, newest.previous, base.number, _limit(newest))
            hashes += [*older, before]
        if hashes.pop() != base.hash:
            raise _other_history(base)
        for commit_hash in reversed(hashes):
            self._chain.append(commit_hash)

    async def _walk_back(self, top: int, wanted: bytes, stop: int, epoch: int) -> tuple[list[bytes], bytes]:
        """The hashes of the commits `top`, whose hash must be `wanted` and whose epoch at most `epoch`, down
        to `stop`+1, and what the last of them names as its previous. Reads ahead in batches, then checks
        link by link."""
        hashes: list[bytes] = []
        while top > stop:
            batch = range(top, max(top - _AT_ONCE, stop), -1)
            for commit, commit_hash in await self._read_many(batch, None):
                if commit_hash != wanted:
                    # Another writer's unacknowledged commit of this number: the right one is elsewhere.
                    commit = _decoded(commit.number, await self._read_one(commit.number, wanted))
                _require_no_fall(commit.number, commit.epoch, epoch)
                hashes.append(wanted)
                wanted, epoch = commit.previous, _limit(commit)
            top = batch[-1] - 1
        return hashes, wanted

    async def _extend_back(self, number: int) -> None:
        first = self._chain.first
        hashes, before = await self._walk_back(
            first, self._chain.hash_of(first), max(number, 1) - 1, _ANY_EPOCH
        )
        if number <= 1 and before != NO_COMMIT:
            raise CorruptError("commit 1 names a commit before it")
        self._chain.prepend(hashes[1:])

    def _check_next(self, commit: Commit, expected: Head) -> None:
        head = self.head
        if expected != head or commit.number != head.number + 1 or commit.previous != head.hash:
            raise ConflictError(f"commit {commit.number} does not follow commit {head.number}, the head")
        _require_no_fall(head.number, self._head_epoch, _limit(commit))

    async def _publish(self, commit: Commit, data: bytes) -> None:
        assert self._epoch is not None
        self._torn = (commit, data)
        self._environment.failpoints.reached(BEFORE_COPIES)
        try:
            await self._write_copies(Head(commit.number, plain_hash(data)), data, self._epoch)
        except ConflictError:
            self._torn = None
            raise
        self._environment.failpoints.reached(AFTER_FENCE)
        self._torn = None
        self._grow(commit, plain_hash(data))

    async def _write_copies(self, head: Head, data: bytes, epoch: int) -> None:
        key = commit_key(head.number)
        try:
            await self._objects.create(
                key, data, epoch, lambda: self._environment.failpoints.reached(AFTER_FIRST_COPY)
            )
        except ConflictError:
            await self._fence(None)
            raise
        self._environment.failpoints.reached(AFTER_COPIES)
        await self._fence(head)

    def _grow(self, commit: Commit, commit_hash: bytes) -> None:
        self._chain.append(commit_hash)
        self._head_epoch = commit.epoch
        changed, self._changed = self._changed, trio.Event()
        changed.set()

    async def _read_one(self, number: int, wanted: bytes | None) -> Copy:
        """A good copy of a commit that must be there, of the hash `wanted` if given."""

        def accept(copy: Copy) -> bool:
            return wanted is None or plain_hash(copy.data) == wanted

        try:
            return await self._objects.find(
                commit_key(number), accept, lambda node: self.to_mend.note_damaged(number, node)
            )
        except NotFoundError:
            raise MissingCommitError(f"the commit log has a gap: commit {number} is on no node") from None
        except CorruptError:
            raise MissingCommitError(
                f"commit {number}: no copy is good and fits the commit after it"
            ) from None

    async def _read_many(
        self, numbers: Sequence[int], wanted: Callable[[int], bytes] | None
    ) -> list[tuple[Commit, bytes]]:
        found: dict[int, tuple[Commit, bytes] | DriveError] = {}

        async def read(number: int) -> None:
            try:
                copy = await self._read_one(number, wanted(number) if wanted else None)
                found[number] = (_decoded(number, copy), plain_hash(copy.data))
            except DriveError as error:
                found[number] = error

        async with trio.open_nursery() as nursery:
            for number in numbers:
                nursery.start_soon(read, number)
        return [_raised(found[number]) for number in numbers]


def _decoded(number: int, copy: Copy) -> Commit:
    try:
        commit = commit_format.decode(copy.data)
    except (CorruptError, FormatError) as error:
        raise type(error)(f"commit {number}: {error}") from None
    if commit.number != number:
        raise CorruptError(f"commit {number}: the object in its place says it is commit {commit.number}")
    return commit


def _limit(commit: Commit) -> int:
    """The highest epoch that the commit before it may have."""
    return commit.epoch or _ANY_EPOCH


def _require_no_fall(number: int, epoch: int, limit: int) -> None:
    """`CorruptError` if commit `number`, of that epoch, has a higher one than the commit after it allows."""
    if epoch > limit:
        raise CorruptError(f"commit {number} has a later epoch than the commit after it")


def _raised(found: tuple[Commit, bytes] | DriveError) -> tuple[Commit, bytes]:
    if isinstance(found, DriveError):
        raise found
    return found


def _other_history(base: Head) -> DriveError:
    if base.number == 0:
        return CorruptError("commit 1 names a commit before it")
    return RollbackError(
        f"the commit log has another commit {base.number} than the one this device has seen: it was rolled "
        "back or is another history; nothing was changed"
    )

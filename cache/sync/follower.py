"""The one follower: it applies published commits to a namespace, at opening and in fsck's check of the log.

Invariants:
1. Every follower checks a commit in the same way. The commit follows the newest one that the namespace has.
   Its payload opens, and its operations are well formed. A device that may make it has signed it
   (`cache.sync.authorship`), under the right key epoch (`cache.sync.key_epochs`). Its envelope names all
   blocks that its operations use. They fit the state. Its time is not before that of the commit before.
2. A commit is applied whole or it is refused. Of a refused commit some operations may be applied: the
   namespace must not be saved then, nor another commit applied to it.

Event-loop thread only.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from backend.commits import is_signed_by, payload_associated_data
from backend.errors import CorruptError, FormatError, RollbackError
from backend.keys import KeyRing
from backend.upstream import Commit, CommitLog
from cache.namespace import (
    MAX_SIZE,
    MalformedError,
    Namespace,
    Operation,
    OutOfDateError,
    SetExtents,
    check_form,
    decode,
)
from cache.publish import commit_key, open_operations
from cache.sync.authorship import check_signature, key_of_author
from cache.sync.key_epochs import check_epoch, learn_ahead


class Follower:
    """See the module. `ring` learns the key epochs that the namespace has and those of the commits that are
    applied."""

    def __init__(self, namespace: Namespace, ring: KeyRing) -> None:
        self._namespace = namespace
        self._ring = ring
        self.makers: set[int] = set()
        """the devices whose commits were applied"""

    def of(self, namespace: Namespace) -> Follower:
        """One that applies commits to another namespace, of the same drive, for the same ring."""
        other = Follower(namespace, self._ring)
        other.makers = self.makers
        return other

    def learn_epochs(self) -> None:
        """Those that the namespace has, published: it came from a snapshot, or the journal gave it them."""
        self._ring.learn_all(self._namespace.epochs.until(self._namespace.head().number))

    async def learn_ahead(self, log: CommitLog, until: int) -> None:
        """Those that begin in the commits up to that number, which are not applied yet. Raises what
        `cache.sync.key_epochs.learn_ahead` raises."""
        head = self._namespace.head().number
        await learn_ahead(self._ring, log, head, until - head)

    def encoded_operations(self, commit: Commit) -> list[bytes]:
        """The operations of a commit, which need not be the next. `MalformedError`: its payload does not
        open."""
        with _named(commit.number):
            return self._opened(commit)

    def is_signed(self, commit: Commit, key: bytes) -> bool:
        """Whether the device of that public key has signed `commit`, as one of this drive."""
        return is_signed_by(self._ring.drive_id, commit, key)

    def _opened(self, commit: Commit) -> list[bytes]:
        binding = payload_associated_data(self._ring.drive_id, commit)
        try:
            return open_operations(commit_key(self._ring, commit), commit.payload, binding)
        except (CorruptError, FormatError) as error:
            raise MalformedError(str(error)) from error

    def apply_all(self, commits: Sequence[tuple[Commit, bytes]]) -> Iterator[Commit]:
        """Apply these, the next ones with their hashes, one with each step; errors as of `apply`. The newest
        commit of each device among them vouches for its others: nothing may be saved before the last step."""
        newest = {commit.device: commit.number for commit, _ in commits}
        for commit, commit_hash in commits:
            self._apply(commit, commit_hash, is_vouched=commit.number < newest[commit.device])
            yield commit

    def apply(self, commit: Commit, commit_hash: bytes) -> list[Operation]:
        """Apply the next commit and record it; its operations. The one after it is open then.
        `RollbackError`: it goes on from another one than the namespace's newest. `MalformedError`: it is
        damaged, whatever the namespace is. `OutOfDateError`: it does not fit this namespace. Each names
        it. Any other `CorruptError` is the namespace's own damage, and says nothing of the commit."""
        return self._apply(commit, commit_hash, is_vouched=False)

    def _apply(self, commit: Commit, commit_hash: bytes, *, is_vouched: bool) -> list[Operation]:
        head = self._namespace.head()
        if commit.number != head.number + 1 or commit.previous != head.hash:
            raise RollbackError(f"commit {commit.number} of the drive's log follows another history")
        with _named(commit.number):
            operations = self._operations(commit)
            key = key_of_author(self._namespace, commit, operations)
            if not is_vouched:
                check_signature(self._ring.drive_id, commit, key)
            begun = check_epoch(self._namespace, self._ring, commit, operations)
            _check_envelope(commit, operations)
            self._namespace.begin_commit(commit.number)
            for operation in operations:
                self._namespace.apply(operation)
            self._namespace.record_commit(commit.number, commit_hash, commit.time_ns, commit.device)
        self._namespace.begin_commit(commit.number + 1)
        self._ring.learn_all(begun)
        self.makers.add(commit.device)
        return operations

    def _operations(self, commit: Commit) -> list[Operation]:
        encoded = self._opened(commit)
        try:
            return list(map(decode, encoded))
        except FormatError as error:
            raise MalformedError(str(error)) from error


def _check_envelope(commit: Commit, operations: list[Operation]) -> None:
    """The block store knows no operations: it takes the blocks that a commit uses from its envelope."""
    if commit.time_ns > MAX_SIZE:
        raise MalformedError(f"its time is out of range: {commit.time_ns}")
    used: set[bytes] = set()
    for operation in operations:
        if isinstance(operation, SetExtents):
            check_form(operation)
            used.update(extent[2] for extent in operation.extents)
    if not used.issubset(commit.added):
        raise MalformedError("it uses blocks that its envelope does not name")


@contextmanager
def _named(number: int) -> Iterator[None]:
    """Refusals that are raised within name commit `number`."""
    try:
        yield
    except OutOfDateError as error:
        raise OutOfDateError(f"commit {number} does not fit what those before it say: {error}") from error
    except MalformedError as error:
        raise MalformedError(f"commit {number} is damaged: {error}") from error

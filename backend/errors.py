"""The errors below the namespace: one class for each thing that a caller does differently.

Every message is one line for a person: what failed, on which path or node, what was kept,
what to do. No message holds a secret or plaintext of a file.
"""

from __future__ import annotations

from collections.abc import Sequence


class DriveError(Exception):
    """Base of every error that drivefs raises on purpose."""


class TransientError(DriveError):
    """The same call may succeed later (time-out, node away, EIO once). Safe to retry."""


class ThrottledError(TransientError):
    """Too many calls: the same again after so many seconds."""

    def __init__(self, message: str, seconds: float = 1.0) -> None:
        super().__init__(message)
        self.seconds = seconds


class AwayError(TransientError):
    """The store as a whole does not answer: there is no network, or its server is down. Whether the call was
    done is not known."""


class NotFoundError(DriveError):
    """The named object, block or node does not exist. Not worth a retry."""


class CorruptError(DriveError):
    """Bytes were found, but they are not the bytes that were written (checksum, tag, length)."""


class MissingCommitError(CorruptError):
    """A commit before the newest is lost: all nodes answer, and none has a good copy of it."""


class UnknownEpochError(CorruptError):
    """Sealed data that names a key epoch of which this machine has not heard: it was changed, or is newer
    than what was followed of the log."""


class FormatError(DriveError):
    """An unknown version, a bad magic, or a size over its limit: refused before allocation."""


class ConflictError(DriveError):
    """Someone else was first: an exclusive put met another object, or the head has moved."""


class BlocksMissingError(DriveError):
    """A commit names blocks that the store has not (any more): their ids. Nothing was appended."""

    def __init__(self, message: str, blocks: Sequence[bytes]) -> None:
        super().__init__(message)
        self.blocks = tuple(blocks)


class ReadOnlyError(DriveError):
    """The target refuses writes (read-only file system, permission, drive opened read-only)."""


class ExpiredError(ReadOnlyError):
    """The token that a device has for its hub was not used for too long."""


class NoSpaceError(DriveError):
    """The target is full. Nothing of the call was kept."""


class QuotaError(NoSpaceError):
    """The account at the hub may store no more. Nothing of the call was kept."""


class WrongKeyError(DriveError):
    """No key slot opens with the secret that was given."""


class FactorNeededError(WrongKeyError):
    """The secret is right; the account asks for a code of its second factor as well."""


class LeaseHeldError(DriveError):
    """The drive is mounted elsewhere; the message says by whom and until when."""


class FencedError(DriveError):
    """This process must not write the drive again, ever: its lease was taken over, or the log cannot be
    followed."""


class RollbackError(DriveError):
    """The commit log is older than what this device has seen. Refused; nothing was changed."""


class UsageError(DriveError):
    """The person asked for something that cannot be done as asked (options, paths, existing drive)."""


class NodeError(DriveError):
    """A node is missing, foreign (of another drive) or not a node at all."""

    def __init__(self, message: str, node: str) -> None:
        super().__init__(message)
        self.node = node


class OverdueError(NodeError):
    """An earlier call to the node is not answered yet: it hangs, or is slow."""


class UnavailableError(DriveError):
    """Too few nodes answered well to read or to store. `nodes` names those that did not."""

    def __init__(self, message: str, nodes: Sequence[str]) -> None:
        super().__init__(message)
        self.nodes = tuple(nodes)


def sole(error: BaseException) -> BaseException:
    """The one error in nested groups, or the first where all are of one kind; else the group."""
    while isinstance(error, BaseExceptionGroup) and len({type(each) for each in error.exceptions}) == 1:
        error = error.exceptions[0]
    return error

"""Who made a commit: the one place where that is judged, for opening, following, rebasing and fsck.

A commit is judged by the devices as of the commit before it. Pure functions of these rows and the commit.
"""

from __future__ import annotations

from collections.abc import Sequence

from backend.commits import is_signed_by
from backend.upstream import Commit
from cache.namespace import AddDevice, MalformedError, Namespace, Operation


def key_of_author(namespace: Namespace, commit: Commit, operations: Sequence[Operation]) -> bytes:
    """The public key of the device that made `commit`, whose operations are these. `MalformedError` unless
    the commit is the next of a device that may make it. `namespace` holds those before it. A device that is
    not there yet adds itself, first of all."""
    devices, device = namespace.devices, commit.device
    row = devices.of(device)
    if row is not None and row.is_revoked:
        raise MalformedError(f"device {device} made it, which was revoked before")
    expected = devices.sequence_of(device) + 1
    if commit.sequence != expected:
        raise MalformedError(
            f"it says that it is commit {commit.sequence} of device {device}, whose next one is {expected}"
        )
    return _added_key(commit, operations) if row is None else row.key


def check_signature(drive_id: bytes, commit: Commit, key: bytes) -> None:
    """`MalformedError` unless the device of that key has signed `commit`. The hashes in it chain those
    before, and a device builds on no commit of its own that it did not make: so this vouches for them too."""
    if not is_signed_by(drive_id, commit, key):
        raise MalformedError(f"device {commit.device}, which it names, has not signed it")


def _added_key(commit: Commit, operations: Sequence[Operation]) -> bytes:
    first = operations[0] if operations else None
    if isinstance(first, AddDevice) and first.device == commit.device:
        return first.key
    raise MalformedError(f"device {commit.device} made it, which was never added")

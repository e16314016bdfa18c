"""The one reducer: what each operation does to the rows. `Namespace.apply` is its only caller.

Invariants:
1. The whole operation is checked before the first row is changed: its form (`cache.namespace.form`), which
   raises `MalformedError`, then whether it fits the state, which raises `OutOfDateError`. Either leaves the
   state as it was.
2. Nothing else than the operation and the rows decides the result: the same operations with the same commit
   numbers give the same rows on every machine. What is malformed is refused everywhere.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from backend.upstream import KeyEpoch
from cache.namespace import reduce_inodes, reduce_names
from cache.namespace.form import CHECKS
from cache.namespace.operations import (
    AddDevice,
    Create,
    Delete,
    Forget,
    Link,
    NewEpoch,
    Operation,
    Pin,
    Release,
    RemoveXattr,
    Rename,
    RenameLeavingWhiteout,
    RevokeDevice,
    SetAttributes,
    SetExtents,
    SetRetention,
    SetWriter,
    SetXattr,
    Unlink,
    Unpin,
)
from cache.namespace.refusals import OutOfDateError
from cache.namespace.state import State
from cache.namespace.writers import CommitWriter


def reduce(state: State, operation: Operation, commit: int | None) -> None:
    """Apply the operation, which belongs to `commit` (None: the open one). Only `SetExtents` may be late."""
    kind = type(operation)
    CHECKS[kind](operation)
    if commit is None or commit == state.rows.commit:
        _REDUCERS[kind](state, operation)
    elif type(operation) is SetExtents and 0 < commit < state.rows.commit:
        reduce_inodes.set_extents(state, operation, commit)
    else:
        raise OutOfDateError(f"an operation of commit {commit} while {state.rows.commit} is open")


def _pin(state: State, operation: Pin) -> None:
    state.points.pin(operation.name, operation.commit)


def _unpin(state: State, operation: Unpin) -> None:
    state.points.unpin(operation.name)


def _set_retention(state: State, operation: SetRetention) -> None:
    o = operation
    state.points.set_policy((o.keep_all, o.hourly, o.daily, o.weekly, o.monthly))


def _forget(state: State, operation: Forget) -> None:
    state.points.forget(operation.gaps)


def _release(_state: State, _operation: Release) -> None:
    """Changes no row: it is for those who keep the blocks."""


def _set_writer(state: State, operation: SetWriter) -> None:
    state.writers.put(CommitWriter(operation.device, operation.host))


def _add_device(state: State, operation: AddDevice) -> None:
    state.devices.add(operation.device, operation.key, operation.host)


def _revoke_device(state: State, operation: RevokeDevice) -> None:
    state.devices.revoke(operation.device)


def _new_epoch(state: State, operation: NewEpoch) -> None:
    state.epochs.add(KeyEpoch(operation.number, operation.wrapped, operation.before))


_REDUCERS: Final[dict[type[Any], Callable[[State, Any], None]]] = {
    Create: reduce_names.create,
    Link: reduce_names.link,
    Unlink: reduce_names.unlink,
    Rename: reduce_names.rename,
    RenameLeavingWhiteout: reduce_names.rename_leaving_whiteout,
    SetAttributes: reduce_inodes.set_attributes,
    SetExtents: reduce_inodes.set_extents,
    SetXattr: reduce_inodes.set_xattr,
    RemoveXattr: reduce_inodes.remove_xattr,
    Delete: reduce_inodes.delete,
    Pin: _pin,
    Unpin: _unpin,
    SetRetention: _set_retention,
    Forget: _forget,
    Release: _release,
    SetWriter: _set_writer,
    AddDevice: _add_device,
    RevokeDevice: _revoke_device,
    NewEpoch: _new_epoch,
}

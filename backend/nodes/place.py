"""The interface of a place for a node: where `drive.toml` says that a node is, or where one is to be made.

Tools use it before there is a lease, a key or an event loop. Every call blocks, and may hang with the disk
(`backend.system.ask` gives such questions a time limit). A mount uses only `node`.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from backend.nodes.identity import NodeIdentity
from backend.nodes.node import Node, Space


@dataclass(frozen=True, slots=True)
class Whereabouts:
    """The thing at a place. Places with the same `thing` are one, by whatever URLs. `by_link`: the URL
    leads there by a link, so another one may be the thing's own."""

    thing: Hashable
    by_link: bool = False


class NodePlace(Protocol):
    """Places are compared by their URL, and shown to people by `str`. Unless a method says otherwise, it
    raises `OSError` where the place cannot be used."""

    def __hash__(self) -> int:
        """By the URL, as equality is."""

    @property
    def url(self) -> str:
        """Absolute: from whatever drive's folder it was named."""

    @property
    def settings(self) -> Mapping[str, str | int]:
        """Its settings in `drive.toml`, beside its URL; a folder has none."""

    @property
    def folder(self) -> str | None:
        """The folder on this machine; None for every other kind of place. Only a folder can have foreign
        things in it, be covered by a mount, or lie on one disk with another."""

    @property
    def way(self) -> tuple[Hashable, ...]:
        """The names that lead there from the top, links resolved. A place lies in another if its way begins
        with the other's."""

    def whereabouts(self) -> Whereabouts | None:
        """None if nothing is there, or it cannot be told. No error."""

    def read(self, name: str, limit: int) -> bytes | None:
        """A small object, one byte more than `limit` at most. None if there is none, or what has its name is
        no object. `OSError` where it cannot be read: what rests on a None is taken, or written over."""

    def write(self, name: str, data: bytes) -> None:
        """Write a small object whole and durably, replacing."""

    def replace(self, name: str, expected: bytes | None, data: bytes) -> bool:
        """As `write`, where the object has the very bytes `expected` (None: there is none); whether it had.
        Of several who replace the same bytes one does."""

    def identity(self, name: str) -> NodeIdentity:
        """Whose node it is. `NodeError` in one line if the place is missing, is no node, or what it says of
        itself cannot be understood; `name` is how messages call it."""

    def prepare(self) -> None:
        """Make the place if it is not there, so that `failure_domain` can be asked. Idempotent. `UsageError`
        if no node can be there: it lies in another one, or a file has its name."""

    def require_fit(self, name: str, *, emptied: bool = False) -> None:
        """`UsageError` or `NodeError` if no node can be made at this place, which is there: it lies in a
        node, something is in it (`emptied`: something that `clear` leaves), or the store may tell two writers
        that each was the first. `name` is how messages call the node."""

    def initialise(self, identity: NodeIdentity) -> None:
        """Make it that node; durable when it returns. `NodeError` if it is another node; else the errors of
        `require_fit`. Again with the same identity: no change."""

    def failure_domain(self) -> Hashable:
        """Nodes at places with the same one fail together: the disk, the server, the bucket."""

    def may_vote(self) -> bool:
        """Whether a swap there is atomic among all machines, so that the drive's lease can be there. A
        folder on a file system that other machines serve may not."""

    def fragments(self) -> Iterator[str]:
        """The keys of what is named as a fragment; those that can be listed. No error."""

    def holds(self, *folders: str) -> bool:
        """Whether there is anything in one of the folders (of keys), or such a folder. What rests on a no is
        deleted, so `OSError` where it cannot be told."""

    def tail(self, key: str, size: int) -> bytes:
        """The last bytes of an object."""

    def stored_bytes(self) -> int:
        """Of everything that is named as a fragment."""

    def remove(self, names: Sequence[str], folders: Sequence[str]) -> None:
        """Take the objects of these names away, in this order, then all in these folders; what else is there
        stays. Idempotent."""

    def clear(self) -> None:
        """Take everything away that is there, its identity last, but nodes that lie in it."""

    def space(self) -> Space:
        """Its capacity."""

    def is_writable(self) -> bool:
        """Whether this user may read and write there. No error."""

    def node(self, identity: NodeIdentity) -> Node:
        """The node there, as it should be. No I/O: each call of the node finds out."""

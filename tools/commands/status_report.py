"""A mount's status as a person reads it. Pure: the status is what `GET /status` of the mount says."""

from __future__ import annotations

import time
from collections.abc import Iterator

from backend.health import NodeChange, ScrubStatus
from backend.upstream import Capacity, NodeStatus, StoreStatus
from cache.messages import DiskCacheStatus, KeepingStatus, MountStatus, WaitingStatus
from tools.quantities import counted, format_duration, format_moment, format_size
from tools.terminal import printable


def report(status: MountStatus) -> str:
    """A few aligned lines; what is wrong stands first."""
    rows = [*_rows(status)]
    width = max(len(name) for name, _ in rows)
    return "\n".join(printable(f"{name:<{width}}  {text}") for name, text in rows)


def is_well(status: MountStatus) -> bool:
    """Whether nobody has to do anything: all can be stored, with all redundancy."""
    nodes = status.store.nodes if status.store else []
    troubles = status.problem or status.fenced or status.set_apart
    return not troubles and all(node.state == "ok" for node in nodes)


def _rows(status: MountStatus) -> Iterator[tuple[str, str]]:
    if status.problem:
        yield "problem", str(status.problem)
    if status.fenced:
        yield "fenced", "nothing more can be stored from this mount"
    for apart in status.set_apart:
        yield (
            "not stored",
            f"{apart.path}: {apart.reason}; tried again until that is over, or it is replaced",
        )
    if status.set_aside:
        sets = counted(status.set_aside, "set")
        yield "set aside", f"{sets} of changes that are not in the drive: drivefs stale list MOUNTPOINT"
    if status.notices:
        notices = counted(status.notices, "notice")
        yield "notices", f"{notices} of the last 30 days: drivefs notices MOUNTPOINT"
    if status.hub:
        yield "hub", status.hub
    if status.away:
        yield "offline", f"since {format_moment(status.away.since_ns)}: {status.away.reason}"
        yield "waiting", _waiting(status.waiting)
    yield "state", _state(status)
    if not status.read_only:
        waits = "at once" if status.hub else format_duration(status.commit_interval)
        yield "commits", f"{waits} after a change, or at a sync"
    count = f"{counted(status.files, 'file')} and {counted(status.directories, 'folder')}"
    yield "holds", f"{count} with {format_size(status.file_bytes)}"
    yield "journal", f"{format_size(status.journal_bytes)} of {format_size(status.journal_limit)}"
    yield "cache", _cache(status)
    if status.disk_cache:
        yield "disk cache", _disk_cache(status.disk_cache)
    if status.keeping and (status.keeping.folders or status.keeping.problem):
        yield "kept here", _keeping(status.keeping)
    if status.sealed_bytes:
        yield "this mount", _ratios(status)
    if status.scrub:
        yield "scrub", describe_scrub(status.scrub)
    if status.node_change:
        yield "nodes", describe_node_change(status.node_change)
    if status.store and status.hub:
        yield from _at_hub(status.store)
    elif status.store:
        yield from _store(status.store, status.file_bytes)


def _state(status: MountStatus) -> str:
    mode = "read-only, " if status.read_only else ""
    if status.published and not status.dirty_bytes:
        return f"{mode}all is stored, commit {status.commit}"
    waiting = f"{counted(status.dirty_files, 'file')} with {format_size(status.dirty_bytes)}"
    changes = counted(status.open_operations, "change")
    return f"{mode}not yet stored: {waiting}, {changes}; commit {status.commit}"


def _waiting(waiting: WaitingStatus | None) -> str:
    if waiting is None:
        return "nothing: all that this machine wrote is published"
    what = f"{counted(waiting.changes, 'change')} with {format_size(waiting.bytes)} here, not published"
    return f"{what}, the oldest of {format_moment(waiting.since_ns)}" if waiting.since_ns else what


def _cache(status: MountStatus) -> str:
    return f"{format_size(status.cache_bytes)}{_share(status.cache_hits, status.cache_misses)}"


def _disk_cache(cache: DiskCacheStatus) -> str:
    kept = f"{format_size(cache.bytes)} of {format_size(cache.limit)}"
    return f"{kept}{_share(cache.hits, cache.misses)}"


def _keeping(keeping: KeepingStatus) -> str:
    here = f"{format_size(keeping.here)} of {format_size(keeping.bytes)}"
    why = f"; {keeping.problem}" if keeping.problem else ""
    return f"{here} in {counted(keeping.folders, 'folder')}{why}"


def _share(hits: int, misses: int) -> str:
    asked = hits + misses
    return f", {100 * hits / asked:.0f} % of {counted(asked, 'read')}" if asked else ""


def _ratios(status: MountStatus) -> str:
    sealed, new, stored = status.sealed_bytes, status.new_bytes, status.new_stored_bytes
    # A block has a header: what is tiny does not get smaller.
    compression = f", compressed to {100 * stored / new:.0f} %" if stored < new else ""
    return f"{format_size(sealed)} written, {100 * new / sealed:.0f} % of it new{compression}"


def describe_scrub(scrub: ScrubStatus | None) -> str:
    """One line on a scrub, from a mount's status."""
    if not scrub:
        return "no scrub: the drive is open for reading only"
    read = format_size(scrub.bytes)
    counts = f"{counted(scrub.fragments, 'fragment')}, {read} read, {scrub.wrong} wrong"
    if scrub.by_size:
        counts += f", {scrub.by_size} by their size only"
    if scrub.copies or scrub.copies_wrong:
        counts += f", {counted(scrub.copies, 'copy')} of commits and roots, {scrub.copies_wrong} wrong"
    if scrub.unanswered:
        counts += f", {scrub.unanswered} not answered"
    if scrub.running:
        return f"under way: {counts}"
    if not scrub.finished_ns:
        return "never yet"
    moment = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(scrub.finished_ns / 1e9))
    return f"{moment}: {counts}"


def describe_node_change(change: NodeChange) -> str:
    """One line on a change of nodes, from a mount's status."""
    if not change.running:
        return f"{change.verb}: {change.problem or 'done'}"
    share = f" {change.done} of {change.total}" if change.total else ""
    return f"{change.verb} under way" + (f": {change.step}{share}" if change.step else "")


def _store(store: StoreStatus, file_bytes: int) -> Iterator[tuple[str, str]]:
    share = f", {store.stored_bytes / file_bytes:.2f} x the files" if file_bytes else ""
    yield (
        "blocks",
        f"{store.blocks} with {format_size(store.block_bytes)} in {counted(store.packs, 'pack')}",
    )
    yield "on the nodes", f"{format_size(store.stored_bytes)} with parity{share}"
    if room := _room(store):
        yield "room", room
    if store.pending_bytes:
        yield "on the way", format_size(store.pending_bytes)
    if store.packs_to_repair:
        yield "to repair", counted(store.packs_to_repair, "pack")
    for node in store.nodes:
        yield node.name, _node(node)


def _at_hub(store: StoreStatus) -> Iterator[tuple[str, str]]:
    """Packs and nodes are the hub's."""
    yield "at the hub", f"{counted(store.blocks, 'block')} with {format_size(store.block_bytes)}"
    if store.pending_bytes:
        yield "on the way", format_size(store.pending_bytes)


def _room(store: StoreStatus) -> str:
    """With all its redundancy: what is free beside the reserve; and who limits it. What a node has that does
    not answer is unknown, so the rest may promise more than is left in the end. Empty: nothing is known."""
    if store.takers < store.write_quorum:
        answer = f"of the {store.write_quorum} nodes that this takes {store.takers} answer"
        return f"nothing can be stored now: {answer}; the journal keeps what is written"
    away = [node.name for node in store.nodes if node.state != "ok"]
    if store.capacity is None or not any(node.is_space_known for node in store.nodes if node.state == "ok"):
        return ""
    return _free(store.capacity) + (f", as far as is known without {', '.join(away)}" if away else "")


def _free(capacity: Capacity) -> str:
    free, total = format_size(capacity.available), format_size(capacity.total)
    small = ", ".join(capacity.limited_by)
    limited = f", limited by {small}, which is far smaller than the others" if small else ""
    if capacity.available or not capacity.storable:
        return f"{free} of {total} free{limited}"
    return f"none of {total} with full redundancy, {format_size(capacity.storable)} with less{limited}"


def _node(node: NodeStatus) -> str:
    if node.state != "ok":
        return str(node.state)
    state = "full" if node.full else "ok"
    free = (
        f"{format_size(node.free)} of {format_size(node.total)} free"
        if node.is_space_known
        else "space unknown"
    )
    ballast = "" if node.allocates_ahead else ", no ballast (drivefs doctor)"
    return f"{state}, {free}, zone {node.zone}{ballast}"

"""A drive unlocked, and the parts of its store: index, packs, lease, log and upstream, each built here.

No node is asked anything before `tools.drive_opening` opens them, for a mount, or a tool does.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Final

import trio

from backend.blocks import BlockIndex, PackedBlockStore, SqliteBlockIndex
from backend.care import ObjectScrub, Scrub, StoreHealth, repair_record
from backend.cluster import DriveFile, cluster_change, drive_file
from backend.coding import Profile, code_for, copies_of
from backend.commits import (
    LONGEST_PATIENCE,
    PATIENCE,
    ROOTS,
    Lease,
    LeaseVotes,
    Ranking,
    ReplicatedCommitLog,
    ReplicatedObjects,
    ranking_of,
    this_process,
)
from backend.errors import (
    CorruptError,
    FormatError,
    WrongKeyError,
)
from backend.keys import DriveKeys, Secret, key_slots
from backend.local import Gate, LocalUpstream, Members, RunningNodes, SessionWriter
from backend.nodes import (
    LeasedNode,
    Node,
    NodeEntry,
    NodeHealth,
    NodeSet,
)
from backend.packs import PackCodec, PackStore
from backend.system import THIS_MACHINE, Environment, at_rest
from backend.upstream import Upstream
from cache import defaults
from cache.client import Client, client_of
from cache.disk import BlockFolder, CachedBlocks, DiskCache
from cache.journal import reserve as journal_reserve
from cache.publish import ROOT_NAME
from tools.drive_nodes import (
    cluster_map,
    far_nodes,
    lease_seconds,
    open_nodes,
    patient,
    patient_node,
    voting,
)

INDEX_FILE: Final = "blocks.db"
DISK_CACHE: Final = "sealed"
KEPT: Final = "kept"
MOST_RESERVED: Final = 2 << 30
"""Bytes that the disk cache leaves free, or a twentieth of a smaller disk. It leaves at least twice what the
journal does: half of that is the journal's own."""
OBJECT_PATIENCE: Final = 15.0
LEASE_PATIENCE: Final = PATIENCE
TOOL_LEASE_PATIENCE: Final = LONGEST_PATIENCE
"""A busy machine may keep a tool waiting, a mount does something else meanwhile."""
PACK_PATIENCE: Final = 120.0
"""A mount reads and writes packs around a node that hangs, but waits for its own writes when it ends."""

Waiting = Callable[[str], None]

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class UnlockedDrive:
    """A drive's description and its keys. `folder` is absolute."""

    folder: str
    file: DriveFile
    keys: DriveKeys = field(repr=False)

    @property
    def source(self) -> str:
        """The name of the drive in the kernel's table of mounts."""
        return self.folder

    @property
    def drive_id(self) -> bytes:
        """16 bytes."""
        return self.file.id

    @property
    def id_text(self) -> str:
        """The drive's id as people and folders write it."""
        return self.drive_id.hex()


def load_drive(folder: str) -> DriveFile:
    """The `drive.toml` of the drive in `folder`. `NotFoundError`, `FormatError`, `TransientError`. Blocks."""
    return drive_file.load(os.path.join(folder, drive_file.FILE_NAME))


def unlock(folder: str, file: DriveFile, secrets: Iterable[Secret]) -> UnlockedDrive:
    """Open the drive with the first of `secrets` that fits; `WrongKeyError` if none does. `UsageError` if it
    has moved away. Blocks."""
    drive_file.require_here(folder, file)
    return unlock_moved(folder, file, secrets)


def unlock_moved(folder: str, file: DriveFile, secrets: Iterable[Secret]) -> UnlockedDrive:
    """The same, also of a drive that has moved away: to look at what is left of it."""
    return UnlockedDrive(os.path.abspath(folder), file, DriveKeys(drive_key(file, secrets), file.id))


def drive_key(file: DriveFile, secrets: Iterable[Secret]) -> bytes:
    """The drive key, opened by the first of `secrets` that fits; `WrongKeyError` if none does. Blocks."""
    wrong = WrongKeyError("no secret was given")
    for secret in secrets:
        try:
            return key_slots.open_slots(file.slots, secret, file.id)
        except WrongKeyError as error:
            wrong = error
    raise wrong


def pack_codec(drive: UnlockedDrive) -> PackCodec:
    """The codec of its packs."""
    return PackCodec(code_for(Profile.parse(drive.file.profile)), drive.file.id, drive.keys.pack)


def pack_store(
    drive: UnlockedDrive, nodes: Mapping[str, Node], environment: Environment = THIS_MACHINE
) -> PackStore:
    """For looking at its packs: what is found wrong is not noted."""
    codec, cluster = pack_codec(drive), cluster_map(drive.file)
    return PackStore(nodes, codec, cluster, lambda _pack, _fragment: None, environment=environment)


def block_store(
    drive: UnlockedDrive,
    nodes: Mapping[str, Node],
    index: BlockIndex,
    writer: SessionWriter,
    note_repair: Callable[[int, float], None] = lambda _bytes, _seconds: None,
    environment: Environment = THIS_MACHINE,
) -> PackedBlockStore:
    """Its blocks, by this index. `note_repair`: as of `PackedBlockStore`."""
    codec, cluster = pack_codec(drive), cluster_map(drive.file)
    return PackedBlockStore(
        nodes, codec, cluster, index, writer, note_repair=note_repair, environment=environment
    )


def object_ranking(file: DriveFile) -> Ranking:
    """On which voters small objects belong."""
    return ranking_of(cluster_map(file), _copies(file))


def small_objects(
    drive: UnlockedDrive, nodes: Mapping[str, Node], health: NodeHealth | None = None
) -> ReplicatedObjects:
    """Its commits and roots, in copies on the voters among all its nodes. `health`: as of
    `ReplicatedObjects`."""
    file, ranking = drive.file, object_ranking(drive.file)
    return ReplicatedObjects(voting(nodes, file), ranking, _copies(file), file.id, drive.keys.object, health)


def _copies(file: DriveFile) -> int:
    return copies_of(cluster_map(file), Profile.parse(file.profile).m)


def client(drive: UnlockedDrive, upstream: Upstream, cache_size: int) -> Client:
    """For looking at a drive beside, or without, a mount."""
    return client_of(upstream, drive.file.id, drive.keys, cache_size, trio.CapacityLimiter(2))


def open_index(path: Path, file: DriveFile, environment: Environment = THIS_MACHINE) -> SqliteBlockIndex:
    """The block index at `path`. One that is damaged or of another format is removed and made anew: all
    that it says is in the packs. `NoSpaceError`, `TransientError`."""
    parity = Profile.parse(file.profile).m
    try:
        return SqliteBlockIndex(str(path), file.id, parity, environment)
    except (CorruptError, FormatError) as error:
        log.warning("the block index is made anew from the packs: %s", error)
        at_rest.remove_database(str(path), environment.disk)
        return SqliteBlockIndex(str(path), file.id, parity, environment)


def lease_on(
    nodes: Mapping[str, Node],
    drive: UnlockedDrive,
    waiting: Waiting = log.info,
    environment: Environment = THIS_MACHINE,
    health: NodeHealth | None = None,
    *,
    is_patient: bool = False,
) -> Lease:
    """The drive's lease, of this process, not acquired. `waiting`, `health` and `is_patient`: as of
    `Lease`."""
    file, key = drive.file, drive.keys.lease
    patience = TOOL_LEASE_PATIENCE if is_patient else LEASE_PATIENCE
    leasing = patient(voting(nodes, file), patience, environment)
    return Lease(
        leasing,
        file.id,
        key,
        this_process(),
        map_epoch=file.epoch,
        seconds=lease_seconds(drive.folder, file),
        is_patient=is_patient,
        waiting=waiting,
        environment=environment,
        health=health,
    )


@dataclass(frozen=True, slots=True)
class Built:
    """An upstream that is not open, and the parts of it that are used beside it."""

    store: PackedBlockStore
    upstream: LocalUpstream
    health: StoreHealth
    disk_cache: CachedBlocks | None
    nodes: RunningNodes | None = None
    """None where nothing may be written"""


def disk_cache(
    cache_folder: Path, asked: int | None, is_far: bool, environment: Environment
) -> DiskCache | None:
    """A drive's sealed blocks on this machine, of `asked` bytes beside those of kept folders. 0: none;
    None: there are some if some of the drive `is_far`, in no folder of this machine. Blocks."""
    if asked == 0 or (asked is None and not is_far):
        return None
    total, free = environment.disk.free_space(str(cache_folder))
    limit = min(defaults.CACHE_DISK, free // 10) if asked is None else asked
    reserve = max(min(total // 20, MOST_RESERVED), 2 * journal_reserve(total))
    used = BlockFolder(cache_folder / DISK_CACHE, limit, reserve, environment)
    return DiskCache(used, BlockFolder(cache_folder / KEPT, None, reserve, environment))


def build_upstream(
    drive: UnlockedDrive,
    bare: Mapping[str, Node],
    cache_folder: Path,
    scrub_interval: float,
    lease: Lease | None,
    slow_voters: NodeHealth,
    environment: Environment,
    disk: DiskCache | None,
) -> Built:
    """`slow_voters`: those that the lease finds slow."""
    file = drive.file
    every = NodeSet.of(bare)
    nodes = every.wrapped(partial(patient_node, PACK_PATIENCE, environment))
    # Packs are read and written around a node that hangs. The small objects and the lease need an answer.
    answering = every.wrapped(partial(patient_node, OBJECT_PATIENCE, environment))
    index = open_index(cache_folder / INDEX_FILE, file, environment)
    written = nodes if lease is None else nodes.wrapped(partial(_leased, lease))
    note = partial(repair_record.keep, cache_folder, environment=environment)
    writer = SessionWriter(lease)
    blocks = block_store(drive, written, index, writer, note, environment)
    cached = None if disk is None else CachedBlocks(blocks, disk)
    beside = () if cached is None else (cached.run,)
    looking, objects = pack_store(drive, nodes, environment), small_objects(drive, answering, slow_voters)
    if lease is None:
        health = StoreHealth(blocks, index, looking, None)
        votes = LeaseVotes(voting(answering, file), file.id, drive.keys.lease, environment, slow_voters)
        claims = partial(votes.claim, LEASE_PATIENCE)
        commits = ReplicatedCommitLog(objects, claims=claims, environment=environment)
        upstream = LocalUpstream(blocks, commits, objects, writer, blocks=cached, beside=beside)
        return Built(blocks, upstream, health, cached)
    require_map = partial(trio.to_thread.run_sync, cluster_change.require_current, drive.folder, file)
    commits = ReplicatedCommitLog(objects, lease.verify, lease.claimed, environment=environment)
    gate = Gate()
    upstream = LocalUpstream(
        blocks, commits, objects, writer, blocks=cached, beside=beside, require_map=require_map, gate=gate
    )
    scrub = Scrub(
        nodes,
        pack_codec(drive),
        index,
        blocks.repairs.wake,
        cache_folder,
        interval=scrub_interval,
        far=[entry.name for entry in far_nodes(drive.folder, file)],
        objects=ObjectScrub(objects, commits, [ROOTS + ROOT_NAME], upstream.roots.mend),
        environment=environment,
    )
    leasing = every.wrapped(partial(patient_node, LEASE_PATIENCE, environment))
    running = RunningNodes(every, leasing, answering, blocks, looking, objects, lease, scrub, gate)
    return Built(blocks, upstream, StoreHealth(blocks, index, looking, scrub), cached, running)


def _leased(lease: Lease, node: Node) -> Node:
    return LeasedNode(node, lease.check)


def members(
    before: UnlockedDrive, nodes: Mapping[str, Node], file: DriveFile, environment: Environment
) -> Members:
    """The members of the map of `file`; `nodes` are those of the drive as it was `before`, and stay where
    nothing of them is changed. What making a node raises."""
    known = {entry.name: entry for entry in before.file.nodes}
    stay = {
        entry.name for entry in file.nodes if entry.name in known and _is_same_place(entry, known[entry.name])
    }
    others = replace(file, nodes=tuple(entry for entry in file.nodes if entry.name not in stay))
    made = open_nodes(before.folder, others, environment)
    return Members(
        {entry.name: made.get(entry.name) or nodes[entry.name] for entry in file.nodes},
        cluster_map(file),
        Profile.parse(file.profile).m,
        [entry.name for entry in far_nodes(before.folder, file)],
        lease_seconds(before.folder, file),
    )


def _is_same_place(one: NodeEntry, other: NodeEntry) -> bool:
    return (one.url, one.zone, one.settings) == (other.url, other.zone, other.settings)

"""The one place that builds concrete objects: from a drive's folder and a secret to a `Drive`.

Invariants:
1. The order of opening is: state folder (locked), lease, commit log, block index, background work,
   recovery. Each step that fails lets go of what the steps before it took.
2. The block index agrees with the nodes before recovery reads a block (I4): an index that is new,
   damaged or behind is completed from the packs.
3. State that the drive has gone past is kept aside, never merged and never deleted.
"""

from __future__ import annotations

import logging
import math
import os
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Final

import trio

from backend.blocks import BlockIndex, PackedBlockStore, SqliteBlockIndex
from backend.care import Scrub, StoreHealth, repair_record
from backend.cluster import DriveFile, cluster_change, drive_file
from backend.coding import Profile, code_for, copies_of
from backend.commits import (
    DEFAULT_SECONDS,
    REMEMBERED,
    SILENT_SECONDS,
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
    DriveError,
    FormatError,
    LeaseHeldError,
    WrongKeyError,
    sole,
)
from backend.keys import DriveKeys, Secret, key_slots
from backend.local import LocalUpstream, SessionWriter
from backend.nodes import (
    LeasedNode,
    Node,
    NodeHealth,
    PatientNode,
)
from backend.packs import PackCodec, PackStore
from backend.system import THIS_MACHINE, Environment, at_rest
from backend.upstream import Head, Upstream
from cache import defaults
from cache.blocks import BlockCache
from cache.disk import BlockFolder, CachedBlocks
from cache.drive import Circumstances, Drive
from cache.journal import reserve as journal_reserve
from cache.local import LocalState, stale
from cache.opening import Client, DriveOptions, StaleCacheError, client_of, open_drive
from tools import old_place, pairing, second_mount
from tools.drive_nodes import cluster_map, far_nodes, lease_seconds, node_folders, open_nodes, patient, voting
from tools.host import mounts
from tools.host.places import Folders

INDEX_FILE: Final = "blocks.db"
DISK_CACHE: Final = "sealed"
MOST_RESERVED: Final = 2 << 30
"""Bytes that the disk cache leaves free, or a twentieth of a smaller disk. It leaves at least twice what the
journal does: half of that is the journal's own."""
ENDING_SECONDS: Final = 15.0
OBJECT_PATIENCE: Final = 15.0
RESTORING_CACHE: Final = 64 << 20
LEASE_PATIENCE: Final = DEFAULT_SECONDS / 6
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
    def id_text(self) -> str:
        """The drive's id as people and folders write it."""
        return self.file.id.hex()


def load_drive(folder: str) -> DriveFile:
    """The `drive.toml` of the drive in `folder`. `NotFoundError`, `FormatError`, `TransientError`. Blocks."""
    return drive_file.load(os.path.join(folder, drive_file.FILE_NAME))


def unlock(folder: str, file: DriveFile, secrets: Iterable[Secret]) -> UnlockedDrive:
    """Open the drive with the first of `secrets` that fits; `WrongKeyError` if none does. Blocks."""
    wrong = WrongKeyError("no secret was given")
    for secret in secrets:
        try:
            key = key_slots.open_slots(file.slots, secret, file.id)
        except WrongKeyError as error:
            wrong = error
        else:
            return UnlockedDrive(os.path.abspath(folder), file, DriveKeys(key, file.id))
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


@asynccontextmanager
async def opened_drive(
    drive: UnlockedDrive,
    folders: Folders,
    options: DriveOptions,
    *,
    scrub_interval: float = 0.0,
    waiting: Waiting = log.info,
    environment: Environment = THIS_MACHINE,
) -> AsyncIterator[Drive]:
    """The drive, recovered and ready for `Drive.run`; closed when the block ends. Raises what opening
    raises, a single error never wrapped in a group. `scrub_interval`: seconds, 0: only when asked to.
    `waiting` is told what opening waits for, when it has for two seconds, and what one that fails has moved
    aside. `environment`: of the device that opens it."""
    try:
        async with trio.open_nursery() as nursery:
            opened = await _open(nursery, drive, folders, options, scrub_interval, waiting, environment)
            try:
                yield opened
            finally:
                with trio.CancelScope(shield=True):
                    await opened.close()
                    if not (options.read_only or opened.ledger.unpublished):
                        await trio.to_thread.run_sync(pairing.note_closing, folders, environment)
    except BaseExceptionGroup as group:
        raise sole(group) from None


async def _open(
    nursery: trio.Nursery,
    drive: UnlockedDrive,
    folders: Folders,
    options: DriveOptions,
    scrub_interval: float,
    waiting: Waiting,
    environment: Environment,
) -> Drive:
    notices = await trio.to_thread.run_sync(old_place.bring_over, folders, environment.disk)
    open_once = partial(_open_once, nursery, drive, folders, options, scrub_interval, waiting, environment)
    try:
        opened = await open_once(notices, None)
    except _SetAsideError as error:
        notices.append(
            f"{error}; drivefs stale list {drive.folder} shows it, drivefs stale restore brings it back"
        )
        opened = await open_once(notices, error.known)
    for notice in opened.notices:
        log.warning("%s", notice)
    return opened


class _SetAsideError(Exception):
    """The state was stale, and is set aside. `known`: the newest commit that it had seen; `problems`: what of
    its journal cannot be used."""

    def __init__(self, kept: Path, known: Head | None, problems: Sequence[str]) -> None:
        super().__init__(
            "changes that were not stored when the drive was last used here are set aside, as the drive has "
            f"gone on without them: {'; '.join([str(kept), *problems])}"
        )
        self.known = known


async def _open_once(
    nursery: trio.Nursery,
    drive: UnlockedDrive,
    folders: Folders,
    options: DriveOptions,
    scrub_interval: float,
    waiting: Waiting,
    environment: Environment,
    notices: Sequence[str],
    known: Head | None,
) -> Drive:
    await trio.to_thread.run_sync(environment.disk.make_folders, str(folders.cache))
    local = await _local_state(drive, folders.state, waiting, environment)
    known = local.known_head or known
    nodes = open_nodes(drive.folder, drive.file, environment)
    try:
        if not options.read_only:
            await trio.to_thread.run_sync(pairing.require_journal, folders, environment)
        await trio.to_thread.run_sync(pairing.forget_foreign_index, folders, INDEX_FILE, environment)
        if not options.read_only:
            for node in nodes.values():
                nursery.start_soon(_remove_debris, node)
        voters = NodeHealth(REMEMBERED)
        lease = None if options.read_only else lease_on(nodes, drive, waiting, environment, voters)
        disk = await trio.to_thread.run_sync(
            _disk_cache, drive, folders.cache, options.cache_disk, environment
        )
        built = _build_upstream(drive, nodes, folders.cache, scrub_interval, lease, voters, environment, disk)
        upstream = built.upstream
        try:
            await upstream.open(known=known)
            await upstream.prepare(built.store.reconcile)
            await nursery.start(upstream.run)
            set_aside = len(await trio.to_thread.run_sync(stale.found, folders.state))
            circumstances = Circumstances(built.health, tuple(notices), set_aside, built.disk_cache)
            opened = await open_drive(local, upstream, drive.file.id, drive.keys, options, circumstances)
            if not options.read_only:
                # A power cut may not take the files of a journal that the notes say is there.
                await opened.ledger.journal.sync()
                await trio.to_thread.run_sync(pairing.note_opening, folders, environment)
                opened.ledger.custody.on_loss.append(partial(pairing.note_closing, folders, environment))
            return opened
        except BaseException:
            with trio.CancelScope(shield=True):
                await upstream.close()
            raise
    except StaleCacheError:
        # A journal that is set aside is not missed, also if this ends in the middle.
        await trio.to_thread.run_sync(pairing.note_closing, folders, environment)
        problems = local.ledger.journal.problems
        kept = await trio.to_thread.run_sync(local.set_aside)
        _let_go(local, waiting)
        raise _SetAsideError(kept, known, problems) from None
    except BaseException:
        _let_go(local, waiting)
        raise


def _let_go(local: LocalState, tell: Waiting) -> None:
    """Of a state that could not be opened: what was moved aside of it is found by no later opening."""
    for notice in local.notices:
        tell(notice)
    local.close()


@asynccontextmanager
async def opened_blocks(drive: UnlockedDrive, index_folder: Path) -> AsyncIterator[BlockCache]:
    """The blocks on the nodes, for reading only and beside any mount, with an index that is made anew in
    `index_folder`. `UnavailableError`."""
    nodes = open_nodes(drive.folder, drive.file)
    voters = NodeHealth(REMEMBERED)
    built = _build_upstream(drive, nodes, index_folder, 0.0, None, voters, THIS_MACHINE, None)
    try:
        await built.store.reconcile()
        yield client(drive, built.upstream, RESTORING_CACHE).blocks
    finally:
        with trio.CancelScope(shield=True):
            await built.upstream.close()


async def _remove_debris(node: Node) -> None:
    """Let the node remove what interrupted writes left long ago. Nobody waits for that."""
    try:
        await PatientNode(node, OBJECT_PATIENCE).tidy()
    except DriveError as error:
        log.info("%s was not tidied: %s", node.name, error)


async def _local_state(
    drive: UnlockedDrive, folder: Path, waiting: Waiting, environment: Environment
) -> LocalState:
    """The state folder, locked. A process whose mount was just taken away by umount(8) still closes its
    databases: it is waited for. `LeaseHeldError` if the drive is mounted, or the wait is over."""
    deadline = trio.current_time() + ENDING_SECONDS
    silent_until = trio.current_time() + SILENT_SECONDS
    while True:
        try:
            return LocalState(folder, environment)
        except LeaseHeldError:
            for mount in mounts.drives():
                if mount.source == drive.folder and second_mount.shows_the_present(mount):
                    raise LeaseHeldError(f"{drive.folder}: already mounted at {mount.mountpoint}") from None
            if trio.current_time() > deadline:
                raise
        if trio.current_time() > silent_until:
            silent_until = math.inf
            waiting(f"the last mount of the drive still ends; waiting {ENDING_SECONDS:.0f} s at most")
        await trio.sleep(0.05)


def lease_on(
    nodes: Mapping[str, Node],
    drive: UnlockedDrive,
    waiting: Waiting = log.info,
    environment: Environment = THIS_MACHINE,
    health: NodeHealth | None = None,
) -> Lease:
    """The drive's lease, of this process, not acquired. `waiting` and `health`: as of `Lease`."""
    file, key = drive.file, drive.keys.lease
    leasing = patient(voting(nodes, file), LEASE_PATIENCE, environment)
    return Lease(
        leasing,
        file.id,
        key,
        this_process(),
        map_epoch=file.epoch,
        seconds=lease_seconds(drive.folder, file),
        waiting=waiting,
        environment=environment,
        health=health,
    )


@dataclass(frozen=True, slots=True)
class _Built:
    """An upstream that is not open, and the parts of it that are used beside it."""

    store: PackedBlockStore
    upstream: LocalUpstream
    health: StoreHealth
    disk_cache: CachedBlocks | None


def _disk_cache(
    drive: UnlockedDrive, cache_folder: Path, asked: int | None, environment: Environment
) -> BlockFolder | None:
    """The folder of the drive's sealed blocks, of `asked` bytes: 0: none; None: there is one if a node is no
    folder of this machine. Blocks."""
    if asked == 0 or (asked is None and len(node_folders(drive.folder, drive.file)) == len(drive.file.nodes)):
        return None
    total, free = environment.disk.free_space(str(cache_folder))
    limit = min(defaults.CACHE_DISK, free // 10) if asked is None else asked
    reserve = max(min(total // 20, MOST_RESERVED), 2 * journal_reserve(total))
    return BlockFolder(cache_folder / DISK_CACHE, limit, reserve, environment)


def _build_upstream(
    drive: UnlockedDrive,
    bare: Mapping[str, Node],
    cache_folder: Path,
    scrub_interval: float,
    lease: Lease | None,
    voters: NodeHealth,
    environment: Environment,
    disk: BlockFolder | None,
) -> _Built:
    """`voters`: which of them were slow, as the lease finds."""
    file = drive.file
    nodes = patient(bare, PACK_PATIENCE, environment)
    # Packs are read and written around a node that hangs. The small objects and the lease need an answer.
    answering = patient(bare, OBJECT_PATIENCE, environment)
    index = open_index(cache_folder / INDEX_FILE, file, environment)
    written: Mapping[str, Node] = nodes if lease is None else _leased(nodes, lease)
    note = partial(repair_record.keep, cache_folder, environment=environment)
    writer = SessionWriter(lease)
    blocks = block_store(drive, written, index, writer, note, environment)
    cached = None if disk is None else CachedBlocks(blocks, disk)
    beside = () if cached is None else (cached.run,)
    looking, objects = pack_store(drive, nodes, environment), small_objects(drive, answering, voters)
    if lease is None:
        health = StoreHealth(blocks, index, looking, None)
        votes = LeaseVotes(voting(answering, file), file.id, drive.keys.lease, environment, voters)
        claims = partial(votes.claim, LEASE_PATIENCE)
        commits = ReplicatedCommitLog(objects, claims=claims, environment=environment)
        upstream = LocalUpstream(blocks, commits, objects, writer, blocks=cached, beside=beside)
        return _Built(blocks, upstream, health, cached)
    scrub = Scrub(
        nodes,
        pack_codec(drive),
        index,
        blocks.repairs.wake,
        cache_folder,
        interval=scrub_interval,
        far=[entry.name for entry in far_nodes(drive.folder, file)],
        environment=environment,
    )
    require_map = partial(trio.to_thread.run_sync, cluster_change.require_current, drive.folder, file)
    commits = ReplicatedCommitLog(objects, lease.verify, lease.claimed, environment=environment)
    upstream = LocalUpstream(
        blocks, commits, objects, writer, blocks=cached, beside=beside, require_map=require_map
    )
    return _Built(blocks, upstream, StoreHealth(blocks, index, looking, scrub), cached)


def _leased(nodes: Mapping[str, Node], lease: Lease) -> dict[str, Node]:
    return {name: LeasedNode(node, lease.check) for name, node in nodes.items()}

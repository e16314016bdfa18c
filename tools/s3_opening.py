"""One S3 door put together: the objects on a drive, its access keys, a server. Imported when the first is
wanted."""

from __future__ import annotations

import os
import ssl
from dataclasses import dataclass
from stat import S_ISDIR
from typing import Any, Literal

import trio

from backend.errors import UsageError
from backend.keys import DriveKeys
from backend.system import open_sealed, seal
from cache.drive import Drive
from cache.errors import FileSystemError
from cache.messages import S3DoorWanted, Service
from cache.namespace import ROOT_INODE
from gateway.http import Address, HttpServer, listeners_at, tls_context
from gateway.s3 import (
    AccessKeys,
    S3Door,
    Sealing,
    Settings,
    UploadKeeper,
    key_services,
    open_objects,
    upload_services,
)


def services_of_keys(drive: Drive, keys: DriveKeys) -> list[Service[Any, Any]]:
    """The calls about the drive's access keys."""
    return key_services(_access_keys(drive, keys))


def services_of_uploads(drive: Drive) -> list[Service[Any, Any]]:
    """The calls about uploads that are not complete."""
    return upload_services(lambda root: UploadKeeper(drive, _folder(drive, root)))


def _access_keys(drive: Drive, keys: DriveKeys) -> AccessKeys:
    sealing = Sealing(
        lambda record, what: seal(keys.access, record, what),
        lambda sealed, what: open_sealed(keys.access, sealed, what),
    )
    return AccessKeys(drive, sealing)


@dataclass(frozen=True, slots=True)
class NewDoor:
    """A server, where it is to listen, and what ends uploads that were left in the folder that it serves."""

    server: HttpServer
    listeners: list[trio.SocketListener]
    keeper: UploadKeeper


async def new_door(drive: Drive, keys: DriveKeys, wanted: S3DoorWanted) -> NewDoor:
    """`UsageError`."""
    if drive.read_only:
        raise UsageError("an S3 door needs a drive that is open for writing")
    address, context = Address.parse(wanted.listen), await _context(wanted)
    root = _folder(drive, wanted.root)
    layer = await open_objects(drive, root, durability=_durability(wanted.durability))
    settings = Settings(wanted.region, wanted.domains, wanted.external)
    door = S3Door(layer, _access_keys(drive, keys), drive.ledger.environment.wall_clock, settings)
    server = HttpServer(door, "s3", context=context)
    return NewDoor(server, await _listening(address), UploadKeeper(drive, root))


def _durability(name: str) -> Literal["local", "stored"]:
    if name == "local":
        return "local"
    if name == "stored":
        return "stored"
    raise UsageError(f"durability is local or stored, not '{name}'")


async def _context(wanted: S3DoorWanted) -> ssl.SSLContext | None:
    if not wanted.certificate:
        return None
    return await trio.to_thread.run_sync(tls_context, wanted.certificate, wanted.key or None)


def _folder(drive: Drive, path: str) -> int:
    """The inode of the folder whose folders are the buckets. `UsageError`."""
    inode = ROOT_INODE
    for name in filter(None, os.fsencode(path).split(b"/")):
        try:
            found = drive.lookup(inode, name)
        except FileSystemError:
            raise UsageError(f"{path}: no such folder in the drive; make it first") from None
        if not S_ISDIR(found.mode):
            raise UsageError(f"{path}: is no folder of the drive")
        inode = found.inode
    return inode


async def _listening(address: Address) -> list[trio.SocketListener]:
    try:
        return await listeners_at(address)
    except OSError as error:
        raise UsageError(f"{address}: cannot be listened on: {error.strerror or error}") from None

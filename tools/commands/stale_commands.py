"""`drivefs stale list`, `show`, `restore`: changes that were set aside, as the drive went on without them.

They need nothing of a mount: what was not stored is in the state folder. To restore takes the drive's secret
and its nodes, as a part of a file may have been stored.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import Any

import trio

from backend.errors import DriveError, UnavailableError
from backend.system import THIS_MACHINE
from cache.client import Client
from cache.errors import FileSystemError
from cache.local import SetAside, StaleState, Unstored, found, restore
from tools import compose, drive_opening, fsck
from tools.control_client import ControlClient
from tools.drive_ids import drive_id_of
from tools.errors import ToolError, describe
from tools.host import mounts, places
from tools.hub.drives import Address, HubDrives
from tools.hub.opening import opened_reader_at_hub
from tools.hub_address import is_at_hub
from tools.quantities import format_size
from tools.terminal import complain, printable, say


def register(commands: Any) -> None:
    """Add it to the subcommands of `drivefs`."""
    stale = commands.add_parser("stale", help="changes that were set aside: the drive went on without them")
    what = stale.add_subparsers(required=True, metavar="WHAT")
    _add(what, "list", "what was set aside, when, and how large it is", _list)
    show = _add(what, "show", "what of it is not in the drive", _show)
    show.add_argument("name", metavar="NAME", nargs="?", help="as `list` shows it; default: the newest")
    back = _add(what, "restore", "write it into a folder", _restore)
    back.add_argument("name", metavar="NAME", help="as `list` shows it")
    back.add_argument("paths", metavar="PATH", nargs="*", help="only these, and what is in them")
    back.add_argument("--to", metavar="FOLDER", required=True, help="it is made if it is not there")
    fsck.add_secret_options(back)


def _add(what: Any, name: str, text: str, run: Any) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = what.add_parser(name, help=text)
    parser.add_argument(
        "drive", metavar="DRIVE", help="the drive's folder or address, or where it is mounted"
    )
    parser.add_argument("--state-dir", metavar="D", help="as the mount option state_dir")
    parser.set_defaults(command=run)
    return parser


def _source(options: argparse.Namespace) -> str:
    """The drive as the kernel's table of mounts names it."""
    if is_at_hub(options.drive):
        return Address.parse(options.drive).source
    mount = mounts.find(options.drive)
    return mount.source if mount is not None else os.path.abspath(options.drive)


def _state_folder(options: argparse.Namespace) -> Path:
    """The folder where the drive's running mount has it, else where a mount would have it."""
    source, named = _source(options), mounts.find(options.drive)
    if options.state_dir is None:
        # At a hub each state folder is a device, whose mounts have one name: the one named counts.
        for mount in [named] if named is not None else mounts.drives():
            if mount.source == source:
                with suppress(ToolError):
                    return Path(ControlClient.of_mount(mount.mountpoint).status().folders["state"])
    return Path(places.state_folder(drive_id_of(source).hex(), options.state_dir, os.environ))


def _list(options: argparse.Namespace) -> int:
    folder = _state_folder(options)
    for each in found(folder):
        when = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(each.time_ns / 1e9))
        brought = "  brought in" if each.is_brought_in else ""
        say(f"{printable(each.name)}  last changed {when}  {format_size(each.size)}{brought}")
    if not found(folder):
        complain(f"drivefs: nothing was set aside in {folder}")
    return 0


def _chosen(options: argparse.Namespace) -> SetAside:
    folder = _state_folder(options)
    there = {each.name: each for each in found(folder)}
    if not there:
        raise ToolError(f"nothing was set aside in {folder}")
    name = options.name or list(there)[-1]
    if name not in there:
        raise ToolError(f"{name}: nothing of that name was set aside; there is {', '.join(there)}")
    return there[name]


@contextmanager
def _replayed(chosen: SetAside) -> Iterator[StaleState]:
    with looked_at(chosen.folder, chosen.folder.parent.parent) as state:
        state.replay()
        yield state


@contextmanager
def looked_at(folder: Path, within: Path) -> Iterator[StaleState]:
    """The state in `folder`, which nobody uses, in a copy in `within` while the block runs; it is to be
    replayed. Raises what `StaleState` raises."""
    with tempfile.TemporaryDirectory(prefix=".look-", dir=within) as work:
        state = StaleState(folder, Path(work))
        try:
            yield state
        finally:
            state.close()


def _show(options: argparse.Namespace) -> int:
    trio.run(_say_all, _chosen(options))
    return 0


async def _say_all(chosen: SetAside) -> None:
    with _replayed(chosen) as state:
        for item in state.unstored():
            what = "content" if item.is_content else "name or attributes"
            size = format_size(state.size_of(item))
            say(f"{size:>11}  {what:<18}  {printable(os.fsdecode(item.path))}")
        if state.removed():
            say(f"{state.removed()} names were removed")
    complain(f"drivefs: these changes of {chosen.name} are not in the drive; they lie in {chosen.folder}")


def _restore(options: argparse.Namespace) -> int:
    chosen = _chosen(options)
    reader = _reader(_source(options), options)
    done, failed = trio.run(_write_all, reader, chosen, options.paths, Path(options.to))
    if not done + failed:
        raise ToolError(f"{chosen.name} has nothing like that which was not stored")
    say(f"{done} of {done + failed} are in {options.to}")
    return 1 if failed else 0


def _is_asked_for(item: Unstored, paths: list[str]) -> bool:
    wanted = [os.fsencode(path).strip(b"/") for path in paths]
    return not wanted or any(item.path == path or item.path.startswith(path + b"/") for path in wanted)


async def _write_all(
    opening: AbstractAsyncContextManager[Client], chosen: SetAside, paths: list[str], to: Path
) -> tuple[int, int]:
    """The numbers of files written and not written; each of the latter is named."""
    done = failed = 0
    with _replayed(chosen) as state:
        async with opening as reader:
            await _learn_epochs(reader, state)
            content = state.content_of(reader.blocks)
            for item in state.unstored():
                if not _is_asked_for(item, paths):
                    continue
                target = to / os.fsdecode(item.path)
                try:
                    await restore(state, item, content, target)
                    done += 1
                except (DriveError, FileSystemError, OSError) as error:
                    complain(f"drivefs: {printable(str(target))}: {describe(error)}")
                    failed += 1
    return done, failed


async def _learn_epochs(reader: Client, state: StaleState) -> None:
    """A block that it names may have been stored anew since, under a later epoch: the snapshot names more."""
    reader.ring.learn_all(state.key_epochs())
    try:
        await reader.snapshots.newest()
    except UnavailableError as error:
        complain(f"drivefs: the newest snapshot cannot be read: {error}")


def _reader(source: str, options: argparse.Namespace) -> AbstractAsyncContextManager[Client]:
    """The reader of the drive's blocks; a hub's login has the secret."""
    if is_at_hub(source):
        known = HubDrives(Address.parse(source), os.environ, THIS_MACHINE).known()
        return opened_reader_at_hub(known)
    file = compose.load_drive(source)
    return _reader_of(compose.unlock(source, file, fsck.secret_source(options).secrets()))


@asynccontextmanager
async def _reader_of(drive: compose.UnlockedDrive) -> AsyncIterator[Client]:
    """The reader of the drive's blocks, whoever has it mounted."""
    with tempfile.TemporaryDirectory(prefix="drivefs-") as index:
        async with drive_opening.opened_reader(drive, Path(index)) as reader:
            yield reader

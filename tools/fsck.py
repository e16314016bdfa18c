"""`fsck.drivefs`: check an unmounted drive whole, and mend what can be mended.

Exit code: the bits of fsck(8): 0 nothing is wrong, 1 all that was wrong is mended, 4 something is left, 8 the
check could not be done, 16 usage, 32 cancelled. Everything is repeatable: a run that was ended by Ctrl-C,
a kill or a power cut is run again.
"""

from __future__ import annotations

import argparse
import fcntl
import json
import logging
import os
import re
import shutil
import sys
import tempfile
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Final

import trio

from backend.cluster import Survey, check_nodes, check_places, cluster_change, drive_file
from backend.errors import DriveError, FormatError, LeaseHeldError, UsageError, WrongKeyError, sole
from backend.failpoints import OF_PROCESS
from backend.findings import Finding, Findings
from backend.nodes import NodeEntry
from backend.system import THIS_MACHINE, ask, plain_hash
from cache.local import LOCK_FILE, NAMESPACE_FILE, set_namespace_aside
from cache.opening import DriveOptions
from cache.retention import LostRange
from tools import compose, drive_nodes, drive_opening, errors, old_drive
from tools.check.check_drive import DriveCheck
from tools.check.check_report import counts
from tools.check.hub_check import HubCheck
from tools.compose import UnlockedDrive
from tools.errors import ExitCodes, Parser, ReportedError
from tools.host import places
from tools.host.places import Folders
from tools.host.progress import Progress
from tools.hub.drives import Address, HubDrives
from tools.hub_address import is_at_hub
from tools.secret_source import SecretSource
from tools.terminal import complain, is_terminal, say

CORRECTED: Final = 1
LEFT: Final = 4
OPERATIONAL: Final = 8
_COPIES: Final = 4
"""Of the namespace, that a run may have on the disk at once: from the log, this machine's, and their logs."""
FSCK_CODES: Final = ExitCodes(usage=16, system=OPERATIONAL, interrupted=32, failure=OPERATIONAL)


@dataclass(slots=True)
class _FsckRun:
    """The subject of one run."""

    folder: str
    drive: UnlockedDrive
    folders: Folders
    findings: Findings
    progress: Progress
    mend: bool
    data: bool


def main() -> None:
    """The console script."""
    OF_PROCESS.arm_from_environment()
    errors.run("fsck.drivefs", FSCK_CODES, fsck)


def fsck(arguments: Sequence[str]) -> int:
    """The command; its exit code is that of fsck(8), or that of the error that is raised."""
    options = _parse(arguments)
    logging.getLogger().addHandler(logging.StreamHandler() if options.verbose else logging.NullHandler())
    try:
        return _fsck(options)
    except BaseExceptionGroup as group:
        raise sole(group) from None
    except (DriveError, OSError):
        raise
    except Exception as error:
        complain(*"".join(traceback.format_exception(error)).rstrip().split("\n"))
        raise ReportedError(f"internal error, please report it: {error!r}", OPERATIONAL) from None


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    descriptor = None
    rest = []
    for argument in arguments:
        match = re.fullmatch(r"-C(\d*)", argument)
        if match is None:
            rest.append(argument)
        else:
            descriptor = int(match[1] or 0)
    parser = Parser(prog="fsck.drivefs", description="Check a drivefs drive and mend it.")
    add = parser.add_argument
    add("drive", metavar="DRIVE", help="the drive's folder, or https://HUB/NAME; it must not be mounted here")
    how = parser.add_mutually_exclusive_group()
    how.add_argument("-n", dest="how", action="store_const", const="look", help="change nothing")
    for flag in ("-p", "-a", "-y"):
        how.add_argument(flag, dest="how", action="store_const", const="mend", help="mend without asking")
    add("-f", action="store_true", help="accepted: every check is a full one")
    add("-v", dest="verbose", action="store_true", help="log to the terminal")
    add("--data", action="store_true", help="read all fragments (not of a hub) and open all blocks")
    add_folder_options(parser)
    add_secret_options(parser)
    options = parser.parse_intermixed_args(rest)
    options.descriptor = descriptor or None
    return options


def add_folder_options(parser: argparse.ArgumentParser) -> None:
    """The options for the folders that this machine keeps of drives, as mount has them."""
    parser.add_argument("--cache-dir", metavar="D", help="as the mount option cache_dir")
    parser.add_argument("--state-dir", metavar="D", help="as the mount option state_dir")


def add_secret_options(parser: argparse.ArgumentParser) -> None:
    """The sources of a secret, as mkfs has them."""
    parser.add_argument("--passphrase-file", metavar="F", help="its first and only line opens the drive")
    parser.add_argument("--key-file", metavar="F", help="the drive's key file")
    parser.add_argument("--passphrase-command", metavar="C", help="the command's output opens the drive")


def secret_source(options: argparse.Namespace) -> SecretSource:
    """The source that was chosen of them."""
    return SecretSource.chosen(
        os.environ, options.passphrase_file, options.key_file, options.passphrase_command
    )


def unlock_any(folder: str, survey: Survey, source: SecretSource) -> UnlockedDrive:
    """The drive, opened by what the survey chose. `WrongKeyError`."""
    try:
        return compose.unlock(folder, survey.file, source.secrets())
    except FormatError as error:
        raise WrongKeyError(str(error)) from None


def _fsck(options: argparse.Namespace) -> int:
    if is_at_hub(options.drive):
        return _fsck_at_hub(options)
    folder = os.path.abspath(options.drive)
    survey = check_nodes.survey(folder)
    drive_file.require_here(folder, survey.file)
    old_drive.require_unused(folder, survey.file)
    drive = unlock_any(folder, survey, secret_source(options))
    own = places.folders(drive.id_text, options.cache_dir, options.state_dir, os.environ)
    places.check_not_inside(own, drive_nodes.node_folders(folder, survey.file))
    places.check_state_disk(own.state, room=options.how == "mend")
    progress = Progress(folder, options.descriptor)
    with _locked(own.state) as unlock:
        run = partial(_FsckRun, folder, drive, own, progress=progress, data=options.data)
        found = _once(run(findings=Findings(partial(_say, progress)), mend=options.how == "mend"), unlock)
        if options.how is None and found.count("left") and _agrees(progress):
            found = _once(run(findings=Findings(partial(_say, progress)), mend=True), unlock)
    return _exit_code(found)


def _exit_code(found: Findings) -> int:
    corrected = CORRECTED if found.count("mended") else 0
    return LEFT | corrected if found.count("left", "lost") else corrected


def _fsck_at_hub(options: argparse.Namespace) -> int:
    """Of a drive at a hub, where only what lies on this machine may be mended."""
    if options.passphrase_file or options.key_file or options.passphrase_command:
        raise UsageError("a drive at a hub is opened by this machine's login there, not by a secret")
    drives = HubDrives(Address.parse(options.drive), os.environ, THIS_MACHINE)
    drive = drives.found(drives.login.route, complain)
    own = places.folders(drive.id_text, options.cache_dir, options.state_dir, os.environ)
    is_mending = options.how == "mend"
    places.check_state_disk(own.state, room=is_mending)
    progress = Progress(drive.source, options.descriptor)
    found = Findings(partial(_say, progress))
    with _locked(own.state), _work_folder(own.state) as work:
        check = HubCheck(drive, own.state, work, found, progress, data=options.data, mend=is_mending)
        trio.run(check.run)
        progress.clear()
        if check.namespace_is_wrong:
            _set_aside(own, found)
        if is_mending and check.lost:
            found.add("note", f"what is lost is listed in {_keep_list(drive.id_text, own, check.lost)}")
    _say_summary(drive.source, check.summary, found)
    return _exit_code(found)


def _set_aside(own: Folders, findings: Findings) -> None:
    kept = set_namespace_aside(own.state, THIS_MACHINE)
    findings.add("note", f"the namespace as it was is kept as {kept}")


def _say_summary(name: str, summary: str, findings: Findings) -> None:
    numbers = ", ".join(f"{count} {state}" for state, count in counts(findings).items() if count)
    say(f"{name}: {summary}: {numbers or 'clean'}")


def mend(drive: UnlockedDrive, own: Folders) -> int:
    """Check and mend a drive that was unlocked before; the exit code is 0 if nothing is left."""
    progress = Progress(drive.folder)
    drive = replace(drive, file=check_nodes.survey(drive.folder).file)
    findings = Findings(partial(_say, progress))
    with _locked(own.state) as unlock:
        _once(_FsckRun(drive.folder, drive, own, findings, progress, True, False), unlock)
    return LEFT if findings.count("left", "lost") else 0


def _once(run: _FsckRun, unlock: _Unlock) -> Findings:
    """One check from beginning to end."""
    _check_beside(run)
    with _work_folder(run.folders.state) as work:
        check = DriveCheck(
            run.drive, run.folders, work, run.findings, run.progress, mend=run.mend, data=run.data
        )
        trio.run(check.run)
        run.progress.clear()
        if check.namespace_is_wrong:
            _set_aside(run.folders, run.findings)
        if run.mend and check.lost:
            what = "cannot be read while nodes are away" if run.findings.nodes_are_away else "is lost"
            kept = _keep_list(run.drive.id_text, run.folders, check.lost)
            run.findings.add("note", f"what {what} is listed in {kept}")
    if check.namespace_is_wrong:
        unlock()
        trio.run(_prove_that_it_opens, run.drive, run.folders)
    _say_summary(run.folder, check.summary, run.findings)
    return run.findings


def _check_beside(run: _FsckRun) -> None:
    """The nodes' identities, before anything asks the nodes. `ConflictError` if what was read before a person
    was asked is to be written, and is not the drive file any more."""
    file = run.drive.file
    if run.mend:
        cluster_change.require_unchanged(run.folder, file)
    for entry in file.nodes:
        _clear(run, entry)
    for wrong in check_nodes.wrong_identities(run.folder, file):
        if run.mend and wrong.is_ours:
            check_nodes.rewrite_identity(wrong, file.id)
        run.findings.add("mended" if run.mend and wrong.is_ours else "left", wrong.text)


def _clear(run: _FsckRun, entry: NodeEntry) -> None:
    """Move aside the obstacles on nodes in the place of drivefs' own files and folders."""
    place = entry.place(run.folder)
    look = {place: partial(check_nodes.in_the_way, run.folder, place, run.drive.file)}
    for path in ask(look).get(place, []):
        what = f"{entry.name}: {path} is not drivefs' own (a link, pipe, device, or far too large)"
        if run.mend and place.folder:
            what += f": moved to {check_places.move_aside(place.folder, path)}"
        run.findings.add("mended" if run.mend else "left", what)


async def _prove_that_it_opens(drive: UnlockedDrive, own: Folders) -> None:
    """Make this machine's namespace anew, from the log and the journal."""
    async with drive_opening.opened_drive(drive, own, DriveOptions()) as opened:
        for notice in opened.notices:
            say(notice)
        await trio.lowlevel.checkpoint()


def _keep_list(drive_id: str, own: Folders, lost: Sequence[LostRange]) -> Path:
    """The list of what is lost, in the state folder: names of files never lie in clear where nodes may be.
    Its name is made of what it says, so the same loss is listed once."""
    places.make_private_folder(str(own.state), THIS_MACHINE.disk)
    folder = own.state / "lost"
    folder.mkdir(mode=0o700, exist_ok=True)
    text = json.dumps({"drive": drive_id, "lost": [asdict(each) for each in lost]}, indent=1).encode()
    path = folder / f"files-{plain_hash(text).hex()[:16]}.json"
    THIS_MACHINE.disk.write_file(str(path), [text])
    return path


def _say(progress: Progress, finding: Finding) -> None:
    progress.clear()
    say(str(finding))


def _agrees(progress: Progress) -> bool:
    progress.clear()
    if not is_terminal(sys.stdin):
        say("nothing was changed; -y mends")
        return False
    return input("Mend what can be mended? [y/N] ").strip().lower() in ("y", "yes")


class _Unlock:
    """Lets go of the state folder before the block ends."""

    def __init__(self, descriptor: int | None) -> None:
        self._descriptor = descriptor

    def __call__(self) -> None:
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            os.close(descriptor)


@contextmanager
def _locked(state_folder: Path) -> Iterator[_Unlock]:
    """The state folder, if there is one, held against mounts. `LeaseHeldError` if one has it."""
    if not state_folder.is_dir():
        yield _Unlock(None)
        return
    descriptor = os.open(state_folder / LOCK_FILE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    unlock = _Unlock(descriptor)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield unlock
    except BlockingIOError:
        raise LeaseHeldError(
            f"the state folder {state_folder} is in use by another drivefs process"
        ) from None
    finally:
        unlock()


@contextmanager
def _work_folder(state_folder: Path) -> Iterator[Path]:
    """A private folder for this run; what an ended run left goes first. Where the state folder's disk has no
    room for copies of the namespace, in the place for temporary files (`TMPDIR`)."""
    base = state_folder if state_folder.is_dir() else None
    for stale in base.glob("fsck-*") if base else ():
        shutil.rmtree(stale, ignore_errors=True)
    folder = tempfile.mkdtemp(prefix="fsck-", dir=base if base and _has_room(base) else None)
    try:
        yield Path(folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _has_room(state_folder: Path) -> bool:
    namespace = state_folder / NAMESPACE_FILE
    size = namespace.stat().st_size if namespace.exists() else 0
    return shutil.disk_usage(state_folder).free > _COPIES * size

"""`drivefs key`: the key slots of a drive. Slots are added, removed, changed; the drive key itself never
changes. `new-epoch` has a mounted drive seal what comes under another key of its own.

Every change is written to the nodes' copies of `drive.toml` first and to the drive's folder last, which is
when it is in force (`backend.cluster.check_nodes`). It may be done while the drive is mounted: a mount reads
the slots only when it opens the drive. Who has an old copy of `drive.toml` and the old secret can still open
that copy: removing a slot shuts people out of this drive's folder and nodes, it does not make what they
copied unreadable.
"""

from __future__ import annotations

import argparse
import os
from dataclasses import replace
from typing import Any, Final

from backend.cluster import MAX_SLOTS, DriveFile, check_nodes, cluster_change, drive_file_copies
from backend.errors import UsageError, WrongKeyError
from backend.keys import Secret, Slot, key_slots, new_recovery_key
from backend.system import THIS_MACHINE
from cache.messages import EPOCH_BEGIN, Nothing
from tools.commands.subcommand import add_command, ask_mount
from tools.errors import Parser, ToolError
from tools.hub_address import drive_on_nodes
from tools.secret_source import SecretSource
from tools.terminal import complain, say

_NEW: Final = ("new_passphrase_file", "new_key_file", "new_passphrase_command")


def register(commands: Any) -> None:
    """Add `key ...` to the subcommands of `drivefs`."""
    key = commands.add_parser("key", help="what opens a drive: list, add, remove, change")
    actions = key.add_subparsers(required=True, metavar="ACTION", parser_class=Parser)
    epoch = add_command(actions, "new-epoch", "seal what is written from now on under a new key", _new_epoch)
    epoch.add_argument("mountpoint", metavar="MOUNTPOINT")
    for name, action, text in (
        ("list", _list, "the key slots"),
        ("add", _add, "one more secret that opens the drive"),
        ("change", _change, "another secret in the place of the one that is given"),
        ("remove", _remove, "take slots away; the last one stays"),
    ):
        parser = actions.add_parser(name, help=text)
        parser.add_argument("drive", type=drive_on_nodes, metavar="DRIVE")
        parser.set_defaults(command=action)
        if name != "list":
            _add_old(parser)
        if name in ("add", "change"):
            _add_new(parser)
        if name == "remove":
            parser.add_argument("slots", metavar="N", type=int, nargs="+", help="its number in `key list`")


def _add_old(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--passphrase-file", metavar="F", help="opens the drive now (a recovery key, too)")
    parser.add_argument("--key-file", metavar="F")
    parser.add_argument("--passphrase-command", metavar="C")


def _add_new(parser: argparse.ArgumentParser) -> None:
    new = parser.add_mutually_exclusive_group()
    new.add_argument("--new-passphrase-file", metavar="F", help="shall open it")
    new.add_argument("--new-key-file", metavar="F")
    new.add_argument("--new-passphrase-command", metavar="C")
    new.add_argument("--new-recovery-file", metavar="F", help="write a new recovery key to this new file")


def _new_epoch(options: argparse.Namespace) -> int:
    answer = ask_mount(options.mountpoint, EPOCH_BEGIN, Nothing())
    say(f"{options.mountpoint}: key epoch {answer.key_epoch} has begun")
    return 0


def _list(options: argparse.Namespace) -> int:
    file = check_nodes.survey(os.path.abspath(options.drive)).file
    for number, slot in enumerate(file.slots, 1):
        say(f"{number}  {slot.kind:<10}  {_cost(slot)}".rstrip())
    return 0


def _cost(slot: Slot) -> str:
    if slot.cost is None:
        return ""
    return (
        f"Argon2id, {slot.cost.memory_kib >> 10} MiB, {slot.cost.iterations} passes, {slot.cost.lanes} lanes"
    )


def _add(options: argparse.Namespace) -> int:
    folder, file = _drive(options)
    if len(file.slots) >= MAX_SLOTS:
        raise UsageError(f"the drive has {MAX_SLOTS} key slots already: remove one first")
    _, key = _opened(file, _old(options))
    slot = key_slots.create_slot(_new(options), key, file.id)
    _write(folder, file, (*file.slots, slot))
    say(f"{folder}: key slot {len(file.slots) + 1} added ({slot.kind})")
    return 0


def _change(options: argparse.Namespace) -> int:
    folder, file = _drive(options)
    at, key = _opened(file, _old(options))
    slot = key_slots.create_slot(_new(options), key, file.id)
    _write(folder, file, (*file.slots[:at], slot, *file.slots[at + 1 :]))
    say(f"{folder}: key slot {at + 1} changed ({slot.kind})")
    return 0


def _remove(options: argparse.Namespace) -> int:
    """Whoever removes slots shows a secret that still opens the drive afterwards."""
    folder, file = _drive(options)
    gone = set(options.slots)
    if unknown := sorted(gone - set(range(1, len(file.slots) + 1))):
        raise UsageError(f"there is no key slot {unknown[0]}; the drive has {len(file.slots)}")
    if len(gone) == len(file.slots):
        raise UsageError("the last key slot cannot be removed: nothing would open the drive any more")
    stay = [number for number in range(1, len(file.slots) + 1) if number not in gone]
    left = tuple(file.slots[number - 1] for number in stay)
    secrets = _old(options).secrets()
    _require_opens(replace(file, slots=left), secrets)
    _write(folder, file, left)
    say(f"{folder}: {_removed(sorted(gone), stay)}")
    return 0


def _removed(gone: list[int], stay: list[int]) -> str:
    """One line for people: a slot's number is its place in the list, so those behind have others now."""
    slots = f"key slot{'s' if len(gone) > 1 else ''} {', '.join(map(str, gone))} removed"
    moved = [f"{before} is {now} now" for now, before in enumerate(stay, 1) if before != now]
    return f"{slots}; slot {', '.join(moved)}" if moved else slots


def _require_opens(file: DriveFile, secrets: list[Secret]) -> None:
    try:
        _opened_with(file, secrets)
    except WrongKeyError:
        raise WrongKeyError(
            "the secret that was given opens no slot that would be left: give one that stays"
        ) from None


def _drive(options: argparse.Namespace) -> tuple[str, DriveFile]:
    """The drive, whose copies must agree before one is changed."""
    folder = os.path.abspath(options.drive)
    survey = check_nodes.survey(folder)
    if any(place.folder == folder for place, _ in survey.wrong):
        raise ToolError(f"{folder}: its drive.toml is not what most copies say: run fsck.drivefs first")
    _require_no_later(folder, survey.file)
    return folder, survey.file


def _require_no_later(folder: str, file: DriveFile) -> None:
    """No lease says here that the map is in force: a later one is not written over."""
    if later := check_nodes.later_copies(file, [entry.place(folder) for entry in file.nodes]):
        names = ", ".join(map(str, later))
        raise ToolError(f"{folder}: its drive.toml is older than that of {names}: run fsck.drivefs first")


def _old(options: argparse.Namespace) -> SecretSource:
    return SecretSource.chosen(
        os.environ, options.passphrase_file, options.key_file, options.passphrase_command
    )


def _new(options: argparse.Namespace) -> Secret:
    if options.new_recovery_file is not None:
        recovery = new_recovery_key()
        path = os.path.abspath(options.new_recovery_file)
        THIS_MACHINE.disk.write_file(path, [f"{recovery}\n".encode()], exclusive=True)
        return Secret.recovery(recovery)
    return SecretSource(*(getattr(options, name) for name in _NEW)).new_secret()


def _opened(file: DriveFile, source: SecretSource) -> tuple[int, bytes]:
    return _opened_with(file, source.secrets())


def _opened_with(file: DriveFile, secrets: list[Secret]) -> tuple[int, bytes]:
    """The slot that opens, and the drive key."""
    wrong = WrongKeyError("the secret opens no key slot of the drive")
    for secret in secrets:
        for at, slot in enumerate(file.slots):
            if slot.kind == secret.kind:
                try:
                    return at, key_slots.open_slots([slot], secret, file.id)
                except WrongKeyError as error:
                    wrong = error
    raise wrong


def _write(folder: str, before: DriveFile, slots: tuple[Slot, ...]) -> None:
    """Have these slots in the drive file. `ConflictError` if it is not as it was `before` any more: to ask
    for passphrases takes a while, and who changed it meanwhile was told that it is done."""
    seen = cluster_change.require_unchanged(folder, before)
    _require_no_later(folder, before)
    for line in drive_file_copies.replace_copies(folder, seen, replace(before, slots=slots)):
        complain(f"drivefs: warning: {line}; fsck.drivefs writes it when the node is back")

"""`drivefs device list`, `revoke`: the devices of a mounted drive (`drivefs devices` are an account's)."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from typing import Any

from cache.messages import DEVICE_REVOKE, DEVICES, DeviceNamed, DeviceRevoked, DevicesShown, Nothing
from tools.commands.subcommand import add_command, add_json, ask_mount, show
from tools.terminal import printable_name


def register(commands: Any) -> None:
    """Add `device ...` to the subcommands of `drivefs`."""
    device = commands.add_parser("device", help="the devices of a drive: list, revoke")
    actions = device.add_subparsers(required=True, metavar="ACTION")
    listed = add_command(actions, "list", "all that the drive ever had", _list)
    revoke = add_command(actions, "revoke", "have one make no commit more", _revoke)
    for command in (listed, revoke):
        command.add_argument("mountpoint", metavar="MOUNTPOINT")
        add_json(command)
    revoke.add_argument("number", metavar="N", type=int, help="its number in `device list`")


def _list(options: argparse.Namespace) -> int:
    answer = ask_mount(options.mountpoint, DEVICES, Nothing())
    return show(answer, options.json, _lines(answer))


def _lines(answer: DevicesShown) -> Iterator[str]:
    for device in answer.devices:
        said = ("revoked", device.revoked), ("this machine", device.here)
        notes = "".join(f"  {text}" for text, holds in said if holds)
        yield f"{device.number:>7}  {device.commits:>9} commits  {printable_name(device.host)}{notes}"
    yield f"key epoch {answer.key_epoch}"


def _revoke(options: argparse.Namespace) -> int:
    answer = ask_mount(options.mountpoint, DEVICE_REVOKE, DeviceNamed(options.number))
    return show(answer, options.json, _told(answer))


def _told(answer: DeviceRevoked) -> Iterator[str]:
    device = answer.device
    yield f"device {device.number} ({printable_name(device.host)}) is revoked: it makes no commit more"
    yield f"key epoch {answer.key_epoch} has begun"
    yield (
        "who has a secret of the drive can still read it where they reach its nodes or its hub: take that "
        "away, too, and remove the keys of S3 doors that the device could see"
    )

"""`drivefs`: look at a running mount and at what a drive needs.

`status`, `sync` and `umount` talk to the mount through its control socket; `doctor` looks at the system.
Exit codes: 0; 1 failure, or something that `doctor` found; 2 usage.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence

from backend import failpoints
from tools import (
    doctor,
    durability_report,
    errors,
    history_commands,
    key_commands,
    node_commands,
    space_commands,
    umount,
)
from tools.control_client import ControlClient
from tools.errors import COMMAND_CODES, Parser
from tools.quantities import parse_duration
from tools.status_report import report


def main() -> None:
    """The console script."""
    failpoints.arm_from_environment()
    errors.run("drivefs", COMMAND_CODES, drivefs)


def drivefs(arguments: Sequence[str]) -> int:
    """The command; its exit code is 0 or what the subcommand says, or that of the error that is raised."""
    options = _parser().parse_args(arguments)
    code: int = options.command(options)
    return code


def _parser() -> Parser:
    parser = Parser(prog="drivefs", description="Look at a mounted drivefs drive.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND", parser_class=Parser)
    status = commands.add_parser("status", help="what is stored and what is not yet; the nodes' state")
    status.add_argument("mountpoint", metavar="MOUNTPOINT")
    status.add_argument("--json", action="store_true", help="as one JSON object, for programs")
    status.set_defaults(command=_status)
    sync = commands.add_parser("sync", help="return when all that was written so far is stored")
    sync.add_argument("mountpoint", metavar="MOUNTPOINT")
    sync.add_argument("--timeout", type=parse_duration, metavar="S", help="give up waiting after this time")
    sync.set_defaults(command=_sync)
    unmount = commands.add_parser("umount", help="as umount.drivefs: store everything, then unmount")
    unmount.add_argument("mountpoint", metavar="MOUNTPOINT")
    unmount.add_argument("--timeout", metavar="S", help="give up (and stay mounted) after this time")
    unmount.set_defaults(command=_umount)
    check = commands.add_parser("doctor", help="is everything there that a mount needs?")
    check.add_argument("drive", metavar="DRIVE", nargs="?", help="look at this drive's nodes too")
    durability_report.add_options(check)
    check.set_defaults(command=_doctor)
    history_commands.register(commands)
    space_commands.register(commands)
    node_commands.add_node_commands(commands)
    key_commands.add_key_commands(commands)
    return parser


def _status(options: argparse.Namespace) -> int:
    status = ControlClient.of_mount(options.mountpoint).status()
    print(json.dumps(status, indent=2) if options.json else report(status))
    return 0


def _sync(options: argparse.Namespace) -> int:
    ControlClient.of_mount(options.mountpoint).sync(options.mountpoint, options.timeout)
    return 0


def _umount(options: argparse.Namespace) -> int:
    timeout = [] if options.timeout is None else ["--timeout", options.timeout]
    return umount.umount([*timeout, "--", options.mountpoint])


def _doctor(options: argparse.Namespace) -> int:
    if durability_report.asked(options):
        print(*durability_report.report(options), sep="\n")
        return 0
    findings = doctor.examine(options.drive)
    for finding in findings:
        print(finding)
    return 1 if any(finding.state == "bad" for finding in findings) else 0

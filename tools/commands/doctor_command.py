"""`drivefs doctor`: the system, a drive's nodes, and how likely they are to lose data."""

from __future__ import annotations

import argparse
from typing import Any

from tools.commands import doctor, durability_report
from tools.host import mounts
from tools.terminal import say


def register(commands: Any) -> None:
    """Add it to the subcommands of `drivefs`."""
    check = commands.add_parser("doctor", help="is everything there that a mount needs?")
    check.add_argument(
        "drive", metavar="DRIVE", nargs="?", help="look at this drive's nodes too; or where it is mounted"
    )
    durability_report.add_options(check)
    check.set_defaults(command=_doctor)


def _doctor(options: argparse.Namespace) -> int:
    if options.drive is not None:
        options.drive = mounts.drive_folder(options.drive)
    if durability_report.asked(options):
        say(*durability_report.report(options))
        return 0
    findings = doctor.examine(options.drive)
    say(*map(str, findings))
    return 1 if any(finding.state == "bad" for finding in findings) else 0

"""`drivefs doctor`: the system, a drive's nodes, how likely they are to lose data, and what they cost."""

from __future__ import annotations

import argparse
from typing import Any

from backend.errors import UsageError
from tools.commands import cost_report, doctor, durability_report
from tools.host import mounts
from tools.terminal import say


def register(commands: Any) -> None:
    """Add it to the subcommands of `drivefs`."""
    check = commands.add_parser("doctor", help="is everything there that a mount needs?")
    check.add_argument(
        "drives",
        metavar="DRIVE",
        nargs="*",
        help="look at this drive's nodes too; or where it is mounted; for --cost also the URLs of nodes",
    )
    durability_report.add_options(check)
    cost_report.add_options(check)
    check.set_defaults(command=_doctor)


def _doctor(options: argparse.Namespace) -> int:
    durability, cost = durability_report.asked(options), cost_report.asked(options)
    if durability and cost:
        raise UsageError("--durability and --cost exclude each other")
    if cost:
        say(*cost_report.report(options))
        return 0
    if len(options.drives) > 1:
        raise UsageError("one DRIVE at a time; several URLs are for --cost")
    options.drive = mounts.drive_folder(options.drives[0]) if options.drives else None
    if durability:
        say(*durability_report.report(options))
        return 0
    findings = doctor.examine(options.drive)
    say(*map(str, findings))
    return 1 if any(finding.state == "bad" for finding in findings) else 0

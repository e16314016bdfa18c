"""`drivefs-hub check`: packs against rows, nodes against packs. Exit code: 1 if something is left or lost."""

from __future__ import annotations

import argparse
from typing import Any

from backend.findings import Finding, Findings
from backend.hub import HubCheck
from tools.errors import Parser
from tools.hub_server.opening import HubFolder, add_hub, folder_of, opened, run
from tools.quantities import counted
from tools.terminal import say


def register(commands: Any) -> None:
    """Add `check`."""
    parser: Parser = commands.add_parser(
        "check", help="look whether what is stored is whole; a hub may serve"
    )
    parser.set_defaults(command=_check)
    add_hub(parser)
    parser.add_argument("--data", action="store_true", help="read all fragments; else presence and size")
    parser.add_argument("--repair", action="store_true", help="rebuild fragments that are missing or wrong")


def _check(options: argparse.Namespace) -> int:
    findings = Findings(lambda finding: say(str(finding)))
    run(_run(folder_of(options), findings, mend=options.repair, data=options.data))
    say(f"{options.hub}: {_summary(findings)}")
    return 1 if findings.count("left", "lost") else 0


async def _run(folder: HubFolder, findings: Findings, *, mend: bool, data: bool) -> None:
    async with opened(folder) as parts:
        await HubCheck(parts.packs, parts.blocks, parts.nodes, findings, mend=mend, data=data).run()


def _summary(findings: Findings) -> str:
    problems: list[Finding] = [each for each in findings.all if each.state in ("left", "lost")]
    mended = findings.count("mended")
    said = counted(len(problems), "problem") if problems else "clean"
    return f"{said}, {mended} mended" if mended else said

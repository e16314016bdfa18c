"""`drivefs-hub check`: packs against rows, nodes against packs. Exit code: 1 if something is left or lost.

`--after-restore` first brings back what the nodes know and the database has not, and at the end has this
database be the one that is served. `--repair` without it refuses a database that is older than what was
served: by such a one a pack may seem to be of nobody.
"""

from __future__ import annotations

import argparse
from typing import Any

from backend.errors import UsageError
from backend.findings import Finding, Findings
from backend.hub import AfterRestore, HubCheck, Operator, StrayPackTable
from tools.errors import Parser
from tools.hub_server.opening import HubFolder, HubParts, add_hub, folder_of, opened, run
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
    parser.add_argument(
        "--after-restore",
        action="store_true",
        help="the database was restored: bring back what the nodes know, then let it be served. "
        "No process may serve the hub meanwhile",
    )
    parser.add_argument(
        "--end-logins",
        action="store_true",
        help="with --after-restore: every device logs in anew, as those count again that were revoked since",
    )
    parser.add_argument(
        "--repair",
        action="store_true",
        help="rebuild fragments that are missing or wrong, remove packs that nobody has known for long",
    )


def _check(options: argparse.Namespace) -> int:
    if options.end_logins and not options.after_restore:
        raise UsageError("--end-logins is for a database that was restored: with --after-restore")
    findings = Findings(lambda finding: say(str(finding)))
    run(_run(folder_of(options), findings, options))
    say(f"{options.hub}: {_summary(findings)}")
    return 1 if findings.count("left", "lost") else 0


async def _run(folder: HubFolder, findings: Findings, options: argparse.Namespace) -> None:
    async with opened(folder) as parts:
        if options.repair and not options.after_restore:
            await parts.age.require_newest()
        is_all = await _bring_back(parts, findings) if options.after_restore else False
        strays = StrayPackTable(parts.database, folder.file.limits.retention_seconds)
        check = HubCheck(
            parts.packs, parts.blocks, parts.nodes, strays, findings, mend=options.repair, data=options.data
        )
        await check.run()
        if options.end_logins:
            await Operator(parts.database).end_logins()
        if is_all:
            await parts.age.accept()
            say("this database is the one to be served from now on")


async def _bring_back(parts: HubParts, findings: Findings) -> bool:
    """Whether all is brought back that there can be."""
    is_all = await AfterRestore(parts.database, parts.blocks, parts.nodes, findings).run()
    if not is_all:
        findings.add("left", "nodes that are away may have more: with them run this again, then it is served")
    return is_all


def _summary(findings: Findings) -> str:
    problems: list[Finding] = [each for each in findings.all if each.state in ("left", "lost")]
    mended = findings.count("mended")
    said = counted(len(problems), "problem") if problems else "clean"
    return f"{said}, {mended} mended" if mended else said

"""`drivefs-hub node replace`: a node whose disk is lost begins anew, empty, there or elsewhere.

What it had is missing then; `drivefs-hub check --repair` rebuilds it from the others. A run that was cut off
is repeated.
"""

from __future__ import annotations

import argparse
import os
from dataclasses import replace
from typing import Any

from backend.errors import UsageError
from backend.hub import hub_file
from backend.nodes import NodeEntry
from backend.system import THIS_MACHINE
from tools import new_nodes
from tools.errors import Parser
from tools.hub_server.opening import HubFolder, add_hub, folder_of
from tools.node_options import CREDENTIALS_HELP, given_places
from tools.terminal import say


def register(commands: Any) -> None:
    """Add `node`."""
    node = commands.add_parser("node", help="nodes: replace")
    actions = node.add_subparsers(required=True, metavar="ACTION", parser_class=Parser)
    parser: Parser = actions.add_parser("replace", help="begin a lost node anew, empty")
    parser.set_defaults(command=_replace)
    add_hub(parser)
    add = parser.add_argument
    add("name", metavar="NAME", help="as hub.toml has it")
    add("place", metavar="PATH", nargs="?", help="a folder or URL; default: where it was")
    add("--credentials", metavar="C", help=CREDENTIALS_HELP)


def _replace(options: argparse.Namespace) -> int:
    folder = folder_of(options)
    old = _named(folder, options.name)
    new = old if options.place is None else _elsewhere(old, options.place, options.credentials)
    nodes = tuple(new if each is old else each for each in folder.file.nodes)
    places = [each.place(folder.path) for each in nodes]
    new_nodes.require_distinct(places, "another node is there")
    new.place(folder.path).prepare()
    new_nodes.initialise(folder.path, [new], folder.file.id)
    if new != old:
        changed = replace(folder.file, nodes=nodes)
        path = os.path.join(folder.path, hub_file.FILE_NAME)
        THIS_MACHINE.disk.write_file(path, [hub_file.encode(changed)])
        say("hub.toml has another place: restart the hub's processes")
    say(f"{options.name} is there; drivefs-hub check --repair {options.hub} gives it what it had")
    return 0


def _named(folder: HubFolder, name: str) -> NodeEntry:
    for entry in folder.file.nodes:
        if entry.name == name:
            return entry
    there = ", ".join(entry.name for entry in folder.file.nodes)
    raise UsageError(f"no node is named {name}; there are {there}")


def _elsewhere(old: NodeEntry, path: str, credentials: str | None) -> NodeEntry:
    """The entry at another place. It keeps its zone: placement depends on it."""
    (place,) = given_places([path], credentials)
    return replace(old, url=place.url, settings=place.settings)

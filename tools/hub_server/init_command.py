"""`drivefs-hub init`: make a new hub.

Order: all that can be refused is refused first; then come the database's schema, the secrets and the nodes'
identities, and last `hub.toml`, exclusively: a hub exists from that moment on or not at all.
"""

from __future__ import annotations

import argparse
import os
from typing import Any, Final

from backend.coding import Profile, require_nodes
from backend.errors import UsageError
from backend.hub import HubFile, hub_file, migrate_empty
from backend.system import THIS_MACHINE
from tools import new_nodes
from tools.errors import Parser
from tools.hub_server.opening import add_hub, run
from tools.node_options import CREDENTIALS_HELP, DEFAULT_PROFILE
from tools.terminal import complain, say

DATABASE: Final = "dbname=drivefs_hub"
LISTEN: Final = "127.0.0.1:8080"


def register(commands: Any) -> None:
    """Add `init`."""
    parser: Parser = commands.add_parser("init", help="make a new hub")
    parser.set_defaults(command=_init)
    add_hub(parser)
    add = parser.add_argument
    add("--url", metavar="URL", required=True, help="what people type, for example https://hub.example")
    add("--database", metavar="C", default=DATABASE, help=f"a libpq connection string; default: {DATABASE}")
    add("--listen", metavar="ADDRESS", default=LISTEN, help=f"HOST:PORT; default: {LISTEN}")
    add("--metrics", metavar="ADDRESS", default="", help="HOST:PORT of /metrics; default: none")
    add("--profile", type=Profile.parse, default=DEFAULT_PROFILE, metavar="K+M", help="as of mkfs.drivefs")
    add("--node", action="append", metavar="PATH", help="a folder or URL for a node, once for each")
    add("--credentials", metavar="C", help=CREDENTIALS_HELP)
    add("--open-sign-up", action="store_true", help="anybody may make an account")


def _init(options: argparse.Namespace) -> int:
    folder = os.path.abspath(options.hub)
    _require_absent(folder)
    hub = _described(folder, options)
    require_nodes(hub.cluster(), hub.profile.total)
    new_nodes.require_fit(folder, hub.nodes)
    encoded = hub_file.encode(hub)
    run(migrate_empty(hub.database))
    for name in (hub.pack_key_file, hub.pepper_file):
        secret = THIS_MACHINE.random_bytes(hub_file.SECRET_SIZE)
        THIS_MACHINE.disk.write_file(os.path.join(folder, name), [secret], exclusive=True)
    new_nodes.initialise(folder, hub.nodes, hub.id)
    THIS_MACHINE.disk.write_file(os.path.join(folder, hub_file.FILE_NAME), [encoded], exclusive=True)
    _report(folder, hub)
    return 0


def _require_absent(folder: str) -> None:
    for name in (hub_file.FILE_NAME, hub_file.PACK_KEY, hub_file.PEPPER):
        path = os.path.join(folder, name)
        if os.path.lexists(path):
            raise UsageError(f"{path}: exists; a hub is made once, and its secrets are never replaced")


def _described(folder: str, options: argparse.Namespace) -> HubFile:
    places = new_nodes.node_places(folder, options.node, options.credentials, options.profile.total)
    return HubFile(
        id=THIS_MACHINE.random_bytes(hub_file.ID_SIZE),
        public_url=options.url,
        database=options.database,
        profile=options.profile,
        nodes=new_nodes.planned(folder, places),
        listen=options.listen,
        metrics=options.metrics,
        is_sign_up_open=options.open_sign_up,
    )


def _report(folder: str, hub: HubFile) -> None:
    if len({node.zone for node in hub.nodes}) == 1 and hub.profile.m:
        complain("drivefs-hub: warning: all nodes are on one disk, so they protect against no disk failure")
    say(f"{folder}: a new hub for {hub.public_url}, profile {hub.profile}, {len(hub.nodes)} nodes")
    secrets = f"{hub.pack_key_file} and {hub.pepper_file}"
    say(f"{secrets} belong to every backup: without them no block can be checked, and nobody logs in")

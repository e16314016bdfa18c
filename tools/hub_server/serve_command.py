"""`drivefs-hub serve`: one process on one address."""

from __future__ import annotations

import argparse
from typing import Any

from backend import file_limit
from backend.system import share_one_heap
from tools.errors import Parser
from tools.host.logs import log_json_to_terminal
from tools.hub_server.opening import add_hub, folder_of, run
from tools.hub_server.serving import serve


def register(commands: Any) -> None:
    """Add `serve`."""
    parser: Parser = commands.add_parser("serve", help="answer devices until SIGTERM or SIGINT")
    parser.set_defaults(command=_serve)
    add_hub(parser)
    add = parser.add_argument
    add("--listen", metavar="ADDRESS", help="HOST:PORT, in place of that of hub.toml")
    add("--metrics", metavar="ADDRESS", help="HOST:PORT of /metrics, likewise; an empty one: none")


def _serve(options: argparse.Namespace) -> int:
    share_one_heap()
    folder = folder_of(options)
    listen = folder.file.listen if options.listen is None else options.listen
    metrics = folder.file.metrics if options.metrics is None else options.metrics
    log_json_to_terminal(verbose=False)
    file_limit.raise_as_far_as_allowed()
    run(serve(folder, listen, metrics))
    return 0

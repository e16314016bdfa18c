"""The common parts of subcommands: registration, the question to a mount, showing its answer."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from typing import Any, TypeVar

from cache.messages import Call, to_plain
from tools.control_client import ControlClient
from tools.errors import Parser
from tools.terminal import say, say_json

Question = TypeVar("Question")
Answer = TypeVar("Answer")


def add_command(commands: Any, name: str, text: str, run: Any) -> Parser:
    """A parser among `commands`; `run` gets what it parsed."""
    parser: Parser = commands.add_parser(name, help=text)
    parser.set_defaults(command=run)
    return parser


def add_json(parser: argparse.ArgumentParser) -> None:
    """The option by which the command answers programs."""
    parser.add_argument("--json", action="store_true", help="as one JSON object, for programs")


def ask_mount(mountpoint: str, call: Call[Question, Answer], question: Question) -> Answer:
    """The answer of the drive that is mounted there. `ToolError`."""
    return ControlClient.of_mount(mountpoint).call(call, question)


def show(answer: object, as_json: bool, lines: Iterator[str]) -> int:
    """The message, for programs or in these lines for people; exit code 0."""
    if as_json:
        say_json(to_plain(answer))
    else:
        say(*lines)
    return 0

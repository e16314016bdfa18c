"""The one place that prints: for any terminal and any locale.

Names are bytes that anybody may have chosen. What a terminal would obey (ESC, newline, other control
characters), what cannot be seen, bytes that are no text, and what the locale does not have are escaped.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from typing import Any, TextIO
from urllib.parse import unquote_to_bytes


def printable(text: str) -> str:
    """`text` in one line that a terminal can be given. What is printable stays as it is; a byte that was no
    text (PEP 383) is shown as `\\xff`."""
    return text if text.isprintable() else "".join(map(_escaped, text))


def _escaped(letter: str) -> str:
    if letter.isprintable():
        return letter
    if "\udc80" <= letter <= "\udcff":
        return f"\\x{ord(letter) - 0xDC00:02x}"
    return letter.encode("unicode_escape").decode("ascii")


def printable_name(quoted: str) -> str:
    """A percent-encoded name or path, as a mount answers it, likewise."""
    return printable(os.fsdecode(unquote_to_bytes(quoted)))


def say(*lines: str) -> None:
    """Each on a line of its own, to standard output."""
    _write(sys.stdout, lines)


def complain(*lines: str) -> None:
    """The same to standard error."""
    _write(sys.stderr, lines)


def say_json(answer: Mapping[str, Any]) -> None:
    """As one JSON object, for programs."""
    say(*json.dumps(answer, indent=2).split("\n"))


def open_standard_descriptors() -> None:
    """Let /dev/null take the place of what was closed of descriptors 0 to 2, so that no file, pipe or socket
    of ours gets the number that others write their complaints to. Before anything else is opened."""
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)


def is_terminal(stream: TextIO | None) -> bool:
    """Whether somebody sits there; nobody does at one that was closed before we began."""
    return stream is not None and stream.isatty()


def _write(stream: TextIO | None, lines: tuple[str, ...]) -> None:
    if stream is None:  # it was closed before we began
        return
    encoding = stream.encoding or "utf-8"
    for line in lines:
        text = printable(line).encode(encoding, "backslashreplace").decode(encoding)
        stream.write(text + "\n")
    stream.flush()

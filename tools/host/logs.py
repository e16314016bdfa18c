"""Where a mount's log goes, and in which form: JSON lines in a file, plain lines on a terminal."""

from __future__ import annotations

import json
import logging
import logging.handlers
import os
import sys
from datetime import UTC, datetime
from typing import Final

from tools.terminal import printable

MAX_LOG_BYTES: Final = 8 << 20
OLD_LOGS: Final = 3


class JsonFormatter(logging.Formatter):
    """One JSON object a line: time (UTC), level, logger, message, what the record has as `fields`, and a
    traceback if there is one."""

    def format(self, record: logging.LogRecord) -> str:
        entry: dict[str, object] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": printable(record.getMessage()),
        }
        entry |= getattr(record, "fields", {})
        if record.exc_info:
            text = self.formatException(record.exc_info)
            entry["traceback"] = "\n".join(map(printable, text.split("\n")))
        return json.dumps(entry, ensure_ascii=False)


class LineFormatter(logging.Formatter):
    """A line for a terminal, and a traceback if there is one."""

    def formatMessage(self, record: logging.LogRecord) -> str:
        return printable(super().formatMessage(record))


def log_to_file(path: str, *, verbose: bool) -> None:
    """Send the log to `path` (0600, at most 4 files of 8 MiB). OSError if it cannot be opened."""
    os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600))
    handler = logging.handlers.RotatingFileHandler(
        path, maxBytes=MAX_LOG_BYTES, backupCount=OLD_LOGS, encoding="utf-8"
    )
    handler.setFormatter(JsonFormatter())
    # A log that cannot be written (a full disk) must not speak on stderr in its place: that is for one line.
    logging.raiseExceptions = False
    _install(handler, verbose=verbose)


def log_to_terminal(*, verbose: bool) -> None:
    """Send the log to stderr, for a mount in the foreground."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(LineFormatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    _install(handler, verbose=verbose)


def log_json_to_terminal(*, verbose: bool) -> None:
    """Send the log to stderr as JSON lines, for a server whose lines a program collects."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter())
    _install(handler, verbose=verbose)


def _install(handler: logging.Handler, *, verbose: bool) -> None:
    root = logging.getLogger()
    root.addHandler(handler)
    root.setLevel(logging.DEBUG if verbose else logging.INFO)
    for chatty in ("httpcore", "httpx", "pyfuse3"):
        logging.getLogger(chatty).setLevel(logging.WARNING)

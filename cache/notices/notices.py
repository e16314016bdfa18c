"""The notices of a device: a file in its state folder (docs/format/notices.md), and its codec.

A notice says what this device decided by itself, and would else be found by chance: what became of changes
that others had overtaken, a mass deletion. It holds no content. It goes after `DAYS` days, or when `MOST`
newer ones are there.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from enum import Enum
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

import trio

from backend.errors import CorruptError, FormatError
from backend.system import Environment

FILE: Final = "notices.json"
VERSION: Final = 1
MOST: Final = 1000
LONGEST: Final = 4096
"""Characters of a path or a text."""
DAYS: Final = 30
_LARGEST: Final = 16 << 20
_END: Final = 1 << 63
_DAY: Final = 24 * 3600 * 10**9

log = logging.getLogger(__name__)


class Kind(Enum):
    """Of what a notice is."""

    CONFLICT = "conflict"
    MASS_DELETION = "mass deletion"


@dataclass(frozen=True, slots=True)
class Notice:
    """`time_ns`: since 1970, by the wall clock. `path`: from the drive's root, percent-encoded; empty: it is
    about the drive. `text`: one sentence for people. `commit`: where the older state can be seen."""

    time_ns: int
    kind: Kind
    path: str
    text: str
    commit: int


def encode(notices: Iterable[Notice]) -> bytes:
    """The file's bytes."""
    listed = [{**asdict(notice), "kind": notice.kind.value} for notice in notices]
    return json.dumps({"version": VERSION, "notices": listed}).encode()


def decode(data: bytes) -> list[Notice]:
    """The notices of a file. `FormatError`: of another version; `CorruptError`: none at all."""
    try:
        found = json.loads(data)
        version = found["version"]
        if version != VERSION:
            raise FormatError(f"version {version!r} is not known here (known: {VERSION})")
        notices = [_notice(each) for each in found["notices"]]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise CorruptError(f"no list of notices: {error}") from None
    if len(notices) > MOST:
        raise CorruptError(f"{len(notices)} notices are more than {MOST}")
    return notices


def _notice(found: Any) -> Notice:
    return Notice(
        _number(found["time_ns"], -_END),
        Kind(found["kind"]),
        _text(found["path"]),
        _text(found["text"]),
        _number(found["commit"], 0),
    )


def _number(value: Any, low: int) -> int:
    if type(value) is not int or not low <= value < _END:
        raise ValueError(f"{value!r} is out of range")
    return value


def _text(value: Any) -> str:
    if type(value) is not str or len(value) > LONGEST:
        raise ValueError("a text is none, or too long")
    return value


def noted_path(folder: bytes | None, name: bytes) -> str:
    """A notice's path of `name` in the directory of that path; in one that is gone, the name alone."""
    return quote(folder + b"/" + name if folder else name)


class Notices:
    """See the module. A file that cannot be read is replaced by the next notice; that is logged. Event-loop
    thread. What `add` and `remove` change is on the disk after the next `store`."""

    def __init__(self, state: Path, environment: Environment) -> None:
        self._path = state / FILE
        self._environment = environment
        self._notices: Sequence[Notice] = ()
        self._storing = trio.Lock()
        try:
            with open(self._path, "rb") as file:
                self._notices = decode(file.read(_LARGEST))
        except FileNotFoundError:
            pass
        except (CorruptError, FormatError, OSError) as error:
            log.warning("%s cannot be read, earlier notices are not shown: %s", self._path, error)
        self._stored: Sequence[Notice] = self._notices

    def __call__(self) -> Sequence[Notice]:
        """Those that are not too old, the oldest first."""
        oldest = self._environment.wall_clock() - DAYS * _DAY
        return [notice for notice in self._notices if notice.time_ns >= oldest]

    def add(self, kind: Kind, said: Iterable[tuple[str, str]], commit: int) -> None:
        """Note (path, text) of each; they are shown from now on."""
        now = self._environment.wall_clock()
        new = [Notice(now, kind, path[:LONGEST], text[:LONGEST], commit) for path, text in said]
        if new:
            for notice in new:
                log.info("%s: %s", notice.path or "the drive", notice.text)
            self._notices = [*self(), *new][-MOST:]

    def remove(self, is_done: Callable[[Notice], bool]) -> None:
        """Those that `is_done` says need nobody any more are not shown."""
        left = [notice for notice in self() if not is_done(notice)]
        if len(left) < len(self._notices):
            self._notices = left

    async def store(self) -> None:
        """Make durable all that was changed before the call. If the disk refuses, that is logged, and the
        change is forgotten at the next mount. Cheap if there is nothing to store."""
        async with self._storing:
            notices = self._notices
            if notices is self._stored:
                return
            try:
                await trio.to_thread.run_sync(self._write, encode(notices))
            except OSError as error:
                log.warning("notices cannot be written, and are forgotten at the next mount: %s", error)
            self._stored = notices

    def _write(self, data: bytes) -> None:
        self._environment.disk.write_file(str(self._path), [data])

"""Cache and state of a drive name each other, by a random id that is new each time the drive is opened.

Invariants:
1. An index is believed only where its cache belongs to the last opening of this state, or to the one before
   (a process can end between the two notes). One that is older, or was used with another state, may
   know of blocks that are gone: it is made anew.
2. Each side remembers whether something was not stored when the drive was last used here. So a journal that
   is gone is missed, and whoever mounts is told: once, by a mount that fails; the next goes on without it.
3. Nothing is noted before the journal is there: an opening that was cut off misses nothing.

A note that is lost or damaged says nothing: the index is made anew then.
"""

from __future__ import annotations

import json
import logging
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from backend.system import Environment, at_rest
from cache.local import LocalState
from tools.errors import ToolError
from tools.host.places import Folders, has_journal

NOTE: Final = "pair.json"
_MOST: Final = 1000

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Note:
    """`ids`: of the last openings, the newest last; `unstored`: something may be in the journal only."""

    ids: list[str]
    unstored: bool


def require_journal(own: Folders, environment: Environment) -> None:
    """`ToolError`, once, if there is no journal although something was in it when the drive was last used."""
    if has_journal(str(own.state)):
        return
    known = [note for note in (_read(own.state), _read(own.cache)) if note is not None]
    if not known or not known[0].unstored:
        return
    for folder in (own.state, own.cache):
        _settle(folder, environment)
    raise ToolError(
        f"the journal in {own.state} is gone, and something was in it that was not stored when the drive was "
        "last used here. If it is on a disk that is not mounted, mount that first. If it is lost, mount "
        "again: the drive then goes on with all that was stored"
    )


def forget_foreign_index(own: Folders, index: str, environment: Environment) -> None:
    """Remove the block index in the cache folder unless it is this state's, and whole."""
    path = own.cache / index
    ours, theirs = _read(own.state), _read(own.cache)
    matches = ours is not None and theirs is not None and theirs.ids[-1] in ours.ids
    if path.exists() and not (matches and _may_be_whole(path)):
        log.info("the block index in %s is not of this state: it is made anew from the packs", own.cache)
        at_rest.remove_database(str(path), environment.disk)


def _may_be_whole(path: Path) -> bool:
    """A process that was killed leaves its log beside the database; without one it was cleaned away."""
    return any(path.with_name(path.name + suffix).exists() for suffix in (".seal", "-wal"))


def note_opening(own: Folders, environment: Environment) -> None:
    """From now on this cache belongs to this state, and something may be in the journal only."""
    before, new = _read(own.cache), environment.random_bytes(16).hex()
    _write(own.state, Note([*(before.ids[-1:] if before else []), new], True), environment)
    _write(own.cache, Note([new], True), environment)


def note_closing(own: Folders, environment: Environment) -> None:
    """Everything is stored; or it was said that the journal is lost, or set aside."""
    for folder in (own.state, own.cache):
        _settle(folder, environment)


def set_aside(local: LocalState, own: Folders, environment: Environment) -> Path:
    """`LocalState.set_aside` of the state in `own`. That is noted first: a journal that is set aside is not
    missed, also if this ends in the middle."""
    note_closing(own, environment)
    return local.set_aside()


def _settle(folder: Path, environment: Environment) -> None:
    note = _read(folder)
    if note is not None and note.unstored:
        _write(folder, Note(note.ids, False), environment)


def _read(folder: Path) -> Note | None:
    try:
        with open(folder / NOTE, "rb") as file:
            found = json.loads(file.read(_MOST))
        ids, unstored = found["ids"], found["unstored"]
        is_sound = bool(ids) and all(isinstance(each, str) for each in ids) and isinstance(unstored, bool)
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return Note(list(ids), unstored) if is_sound else None


def _write(folder: Path, note: Note, environment: Environment) -> None:
    """One that cannot be written costs an index that is made anew."""
    try:
        environment.disk.write_file(str(folder / NOTE), [json.dumps(asdict(note)).encode()])
    except OSError as error:
        log.info("%s cannot be written: %s", folder / NOTE, error.strerror)

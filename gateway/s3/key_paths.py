"""The rule by which keys of objects are paths in a bucket's folder (docs/s3.md has the table).

Invariants, for all keys and all names:
1. No two keys have one path, and no two names one key. `key_of` undoes `path_of`, and the other way round.
2. An ordinary segment of a key is a name as it is, byte for byte.

A *segment* is a part of a key between slashes. A *name* is an entry of a folder. Names that begin with
`.s3~` are reserved:

    .s3~e         the empty segment
    .s3~qSEGMENT  a segment that no name can be, or that looks reserved itself
    .s3~nPIECE/.s3~mPIECE/.../.s3~zPIECE
                  a segment that is too long for a name: a *run* of at least two names
    .s3~self      in the folder `a`: the object `a`, where there are objects below `a/` too

Every other name that begins so, or is no UTF-8, or is `.versions`, was made by the mount. It is the segment
`.s3~b` with its bytes in hex, and this segment is that name. Pure.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Final

MAX_KEY: Final = 1024
MAX_NAME: Final = 255
PREFIX: Final = b".s3~"
EMPTY: Final = b".s3~e"
SELF: Final = b".s3~self"

_QUOTED: Final = b".s3~q"
_HEX: Final = b".s3~b"
_FIRST, _MIDDLE, _LAST = b".s3~n", b".s3~m", b".s3~z"
_PIECE: Final = MAX_NAME - len(_FIRST)
_NO_NAMES: Final = (b".", b"..")
_VERSIONS: Final = b".versions"
"""It is a door of the mount to the past, in every folder."""


class BadKeyError(ValueError):
    """A key that S3 does not allow."""


class KeyTooLongError(BadKeyError):
    """Over 1,024 bytes."""


def check_key(key: bytes) -> None:
    """`KeyTooLongError`, or `BadKeyError` for one that is empty, no UTF-8, or has a NUL."""
    if len(key) > MAX_KEY:
        raise KeyTooLongError(f"a key has at most {MAX_KEY} bytes")
    if not key or b"\0" in key or not _is_text(key):
        raise BadKeyError("a key is UTF-8 without NUL, and not empty")


@lru_cache(maxsize=256)
def path_of(key: bytes) -> tuple[bytes, ...]:
    """The names that lead from the bucket's folder to the object. That of `a/` is in the folder `a` by the
    name `EMPTY`, or is the folder itself. The key has passed `check_key`."""
    if PREFIX not in key and len(key) <= MAX_NAME:  # the usual key, quickly
        names = key.split(b"/")
        if b"" not in names and not {*_NO_NAMES, _VERSIONS}.intersection(names):
            return tuple(names)
    found: list[bytes] = []
    run: tuple[bytes, ...] = ()
    for segment in key.split(b"/"):
        names_of_it = _names_of(segment, run, is_top=not found)
        found += names_of_it
        run = () if len(names_of_it) > 1 else run_after(run, names_of_it[0])
    return tuple(found)


def key_of(path: tuple[bytes, ...]) -> bytes:
    """The key of the object at these names, or the prefix of a folder there without its slash."""
    segments: list[bytes] = []
    run: tuple[bytes, ...] = ()
    for name in path:
        whole = end_of_run(run, name)
        if whole is None:
            segments.append(segment_of(name, run, is_top=not segments))
            run = run_after(run, name)
        else:
            del segments[-len(run) :]
            segments.append(whole)
            run = ()
    return b"/".join(segments)


def segment_of(name: bytes, run: tuple[bytes, ...] = (), *, is_top: bool = False) -> bytes:
    """The segment of a name that is not the end of a run. `run`: the names that lead there, as far as they
    may begin one (`run_after`). `is_top`: it is in the bucket's folder itself."""
    segment = _segment_of(name)
    if segment is not None:
        return segment
    if name.startswith(_QUOTED):
        quoted = name[len(_QUOTED) :]
        if _unhexed(quoted) is not None and not _is_free(quoted, run, is_top):
            return quoted
    return _HEX + name.hex().encode()


def run_after(run: tuple[bytes, ...], name: bytes) -> tuple[bytes, ...]:
    """The run that may go on inside the folder `name`, which is reached by `run`."""
    if len(name) > len(_FIRST):
        if name.startswith(_FIRST):
            return (name,)
        if run and name.startswith(_MIDDLE):
            return (*run, name)
    return ()


def end_of_run(run: tuple[bytes, ...], name: bytes) -> bytes | None:
    """The segment that is the run with this name at its end; None if it is none."""
    if not run or not name.startswith(_LAST):
        return None
    segment = b"".join(each[len(_FIRST) :] for each in (*run, name))
    if not _is_text(segment) or _single_name(segment) is not None or _run_of(segment) != (*run, name):
        return None
    return segment


def _names_of(segment: bytes, run: tuple[bytes, ...], is_top: bool) -> tuple[bytes, ...]:
    if segment.startswith(_HEX) and _is_free(segment, run, is_top):
        name = _unhexed(segment)
        assert name is not None
        return (name,)
    name = _single_name(segment)
    return _run_of(segment) if name is None else (name,)


def _is_free(segment: bytes, run: tuple[bytes, ...], is_top: bool) -> bool:
    """Whether the segment is a name of the mount's in hex, and no other key has that name there."""
    name = _unhexed(segment)
    if name is None or _segment_of(name) is not None or end_of_run(run, name) is not None:
        return False
    return is_top or name != SELF


def _single_name(segment: bytes) -> bytes | None:
    """The one name of a segment, unless it takes several."""
    if not segment:
        return EMPTY
    name = _QUOTED + segment if _needs_quotes(segment) else segment
    return name if len(name) <= MAX_NAME else None


def _run_of(segment: bytes) -> tuple[bytes, ...]:
    pieces = []
    while len(segment) > _PIECE:
        end = _PIECE
        while segment[end] & 0xC0 == 0x80:  # no character is cut
            end -= 1
        pieces.append(segment[:end])
        segment = segment[end:]
    middle = (_MIDDLE + piece for piece in pieces[1:])
    return (_FIRST + pieces[0], *middle, _LAST + segment) if pieces else (_LAST + segment,)


def _needs_quotes(segment: bytes) -> bool:
    return segment in _NO_NAMES or segment == _VERSIONS or segment.startswith(PREFIX)


def _segment_of(name: bytes) -> bytes | None:
    """The segment that has this one name wherever it is; None if there is none."""
    if not _is_text(name):
        return None
    if name == EMPTY:
        return b""
    if name.startswith(_QUOTED):
        segment = name[len(_QUOTED) :]
        # One in hex is quoted only where it is not free, so that is asked by who knows where it is.
        return segment if _needs_quotes(segment) and _foreign(segment) is None else None
    return None if name.startswith(PREFIX) or name == _VERSIONS else name


def _foreign(segment: bytes) -> bytes | None:
    """The name of the mount's that the segment may be in hex."""
    name = _unhexed(segment)
    return None if name is None or _segment_of(name) is not None else name


def _unhexed(segment: bytes) -> bytes | None:
    """The name that follows in lower-case hex, if it can be one."""
    digits = segment[len(_HEX) :]
    if not segment.startswith(_HEX) or not digits or len(digits) % 2 or digits.strip(b"0123456789abcdef"):
        return None
    name = bytes.fromhex(digits.decode())
    is_name = len(name) <= MAX_NAME and not {0, 0x2F}.intersection(name) and name not in _NO_NAMES
    return name if is_name else None


def _is_text(data: bytes) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True

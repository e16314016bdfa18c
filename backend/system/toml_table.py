"""Reading TOML that a person may have changed: each entry is checked before it is used.

Every error is a `FormatError` of one line that names the file and the place in it. Pure.
"""

from __future__ import annotations

import base64
import binascii
import tomllib
from typing import Any

from backend.errors import FormatError


class TomlTable:
    """One table of a file. `where`: the file, for messages; `place`: the table in it."""

    def __init__(self, where: str, place: str, table: object) -> None:
        self._where = where
        self._place = place
        if not isinstance(table, dict):
            raise self.wrong("is not a table")
        self._table: dict[str, Any] = table

    @classmethod
    def of_file(cls, data: bytes, where: str, most: int, kind: str) -> TomlTable:
        """The whole file, of `most` bytes at most; `kind` is what it would be else."""
        if len(data) > most:
            raise FormatError(f"{where}: over {most} bytes, so it is not a {kind}")
        try:
            return cls(where, "", tomllib.loads(data.decode()))
        except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
            raise FormatError(f"{where}: not valid TOML: {str(error).splitlines()[0]}") from None

    def __contains__(self, name: str) -> bool:
        return name in self._table

    def only(self, *names: str) -> None:
        """No entry has another name."""
        unknown = sorted(self._table.keys() - set(names))
        if unknown:
            raise self.wrong(f"unknown entry {unknown[0]!r}")

    def format(self, known: int) -> None:
        """The version of the format is the one known."""
        version = self.number("format", 0, 2**63 - 1)
        if version != known:
            raise self.wrong(f"has format {version}, this drivefs knows only format {known}")

    def text(self, name: str, longest: int) -> str:
        """A text of 1 to `longest` characters."""
        text: str = self.get(name, str)
        if not 0 < len(text) <= longest:
            raise self.wrong(f"{name} must have 1 to {longest} characters")
        return text

    def texts(self, name: str, most: int, longest: int) -> tuple[str, ...]:
        """1 to `most` texts of 1 to `longest` characters."""
        found = self.get(name, list)
        if not 0 < len(found) <= most:
            raise self.wrong(f"{name} must have 1 to {most} entries")
        if not all(isinstance(each, str) and 0 < len(each) <= longest for each in found):
            raise self.wrong(f"{name} must have texts of 1 to {longest} characters")
        return tuple(found)

    def number(self, name: str, least: int, most: int) -> int:
        """A whole number within these."""
        number: int = self.get(name, int)
        if isinstance(number, bool) or not least <= number <= most:
            raise self.wrong(f"{name} must be a whole number from {least} to {most}")
        return number

    def hexadecimal(self, name: str, size: int) -> bytes:
        """So many bytes in lower-case digits."""
        text = self.text(name, 2 * size)
        if len(text) != 2 * size or set(text) - set("0123456789abcdef"):
            raise self.wrong(f"{name} must have {2 * size} hexadecimal digits")
        return bytes.fromhex(text)

    def base64(self, name: str, longest: int = 1024) -> bytes:
        """Bytes in base 64."""
        try:
            return base64.b64decode(self.text(name, longest), validate=True)
        except (binascii.Error, ValueError):
            raise self.wrong(f"{name} is not base 64") from None

    def table(self, name: str) -> TomlTable:
        """A table in it."""
        return TomlTable(self._where, f"{self._place}{name}: ", self.get(name, dict))

    def tables(self, name: str, most: int) -> list[TomlTable]:
        """A list of at most so many tables."""
        tables = self.get(name, list)
        if len(tables) > most:
            raise self.wrong(f"{name} has over {most} entries")
        return [TomlTable(self._where, f"{name} {at}: ", table) for at, table in enumerate(tables, 1)]

    def get(self, name: str, kind: type | tuple[type, ...]) -> Any:
        """The value, of one of these types."""
        if name not in self._table:
            raise self.wrong(f"{name} is missing")
        value = self._table[name]
        if not isinstance(value, kind):
            raise self.wrong(f"{name} has the wrong type")
        return value

    def wrong(self, what: str) -> FormatError:
        """The error that says so."""
        return FormatError(f"{self._where}: {self._place}{what}")

"""Where a drive's secret comes from: a file, a command's output, or a person at a terminal.

Never from the command line itself nor from the environment: other users can see the one and child
processes the other. A text that is a recovery key opens a drive as well as the passphrase does.
"""

from __future__ import annotations

import codecs
import getpass
import os
import stat
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from backend.errors import UsageError
from backend.keys import KEY_FILE_MAX, Secret
from tools.errors import ToolError
from tools.terminal import complain, is_terminal

PASSPHRASE_VARIABLE: Final = "DRIVEFS_PASSPHRASE_FILE"
_MAX_TEXT: Final = 8192
_NO_SOURCE: Final = "no terminal to ask at: name a passphrase file, a key file or a passphrase command"


@dataclass(frozen=True, slots=True)
class SecretSource:
    """At most one is set; with none, the terminal."""

    passphrase_file: str | None = None
    key_file: str | None = None
    passphrase_command: str | None = None

    @classmethod
    def chosen(
        cls,
        environment: Mapping[str, str],
        passphrase_file: str | None,
        key_file: str | None,
        passphrase_command: str | None,
    ) -> SecretSource:
        """The source that was given; with nothing given, the file that `$DRIVEFS_PASSPHRASE_FILE` names.
        `UsageError` for two."""
        given = [source for source in (passphrase_file, key_file, passphrase_command) if source]
        if len(given) > 1:
            raise UsageError("passphrase file, key file and passphrase command exclude each other")
        if not given:
            passphrase_file = environment.get(PASSPHRASE_VARIABLE)
        return cls(passphrase_file or None, key_file or None, passphrase_command or None)

    def new_secret(self) -> Secret:
        """The secret for a new drive; a person is asked twice. `UsageError`, `ToolError`, OSError."""
        if self.key_file:
            return Secret.key_file(_read(self.key_file, KEY_FILE_MAX))
        text = self._text()
        if text is None:
            return _asked_twice()
        return Secret.passphrase(text)

    def secrets(self) -> list[Secret]:
        """The secrets that may open an existing drive, in the order to try them. Raises as `new_secret`."""
        if self.key_file:
            return [Secret.key_file(_read(self.key_file, KEY_FILE_MAX))]
        text = self._text()
        if text is None:
            text = ask_hidden("Passphrase: ")
        return [*_recovery(text), Secret.passphrase(text)]

    def _text(self) -> str | None:
        if self.passphrase_file:
            return _line(_read(self.passphrase_file, _MAX_TEXT), self.passphrase_file)
        if self.passphrase_command:
            return _line(_output(self.passphrase_command), "the passphrase command")
        return None


def _asked_twice() -> Secret:
    """Ask twice. What cannot be a passphrase is refused before it is asked for again."""
    text = ask_hidden("New passphrase: ")
    secret = Secret.passphrase(text)
    if ask_hidden("Again: ") != text:
        raise UsageError("the two passphrases differ")
    return secret


def _recovery(text: str) -> list[Secret]:
    try:
        return [Secret.recovery(text)]
    except UsageError:
        return []  # so it is a passphrase


def _read(path: str, limit: int) -> bytes:
    with open(path, "rb") as file:
        mode = os.fstat(file.fileno()).st_mode
        if stat.S_ISREG(mode) and mode & 0o077:
            complain(f"warning: {path} is open to other users; chmod 600 it")
        data = file.read(limit + 1)
    if len(data) > limit:
        raise UsageError(f"{path}: over {limit} bytes, so it holds no secret")
    return data


def _output(command: str) -> bytes:
    result = subprocess.run(command, shell=True, stdout=subprocess.PIPE, check=False)
    if result.returncode:
        raise ToolError(f"the passphrase command ended with code {result.returncode}")
    return result.stdout[:_MAX_TEXT]


def _line(data: bytes, source: str) -> str:
    """The one line that the text has, without what editors put around it: a byte order mark, ends of lines.
    `UsageError` if there are several, or it is in UTF-16."""
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        raise UsageError(f"{source}: is text in UTF-16; a passphrase is one line in UTF-8")
    line = data.removeprefix(codecs.BOM_UTF8).decode("utf-8", "surrogateescape").rstrip("\r\n")
    if "\n" in line:
        raise UsageError(f"{source}: has several lines; a passphrase is one line")
    return line


def one_line(path: str) -> str:
    """The text of a file that has one line: a code, an invitation. `UsageError`, OSError."""
    return _line(_read(path, _MAX_TEXT), path)


def ask_hidden(prompt: str) -> str:
    """A person's answer, which is not shown. `UsageError`: there is no terminal, or nothing was typed."""
    if not is_terminal(sys.stdin):
        raise UsageError(_NO_SOURCE)
    try:
        return getpass.getpass(prompt)
    except EOFError:
        raise UsageError("no passphrase was typed") from None

"""Credentials of a node, read from the place that `drive.toml` names. `drive.toml` never holds them, and no
message shows them.

`profile:NAME` is a section of `~/.aws/credentials` (`AWS_SHARED_CREDENTIALS_FILE`); `file:PATH` a TOML file,
or Google's JSON of a service account, that nobody else may read; `env:PREFIX` variables
`PREFIX_ACCESS_KEY_ID` and so on; `command:NAME` the output of a command that
`~/.config/drivefs/credentials.toml` of this machine names: a drive file names no command, since whoever
changes it would have it run. `instance` is what the machine's provider gives it, `anonymous` none. Everything
here blocks."""

from __future__ import annotations

import configparser
import datetime
import json
import os
import stat
import subprocess
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

_COMMAND_SECONDS: Final = 60.0
_LARGEST: Final = 64 * 1024
_NAMES: Final = (
    "access_key_id",
    "secret_access_key",
    "session_token",
    "account_key",
    "token",
    "expires_at",
    "service_account_key",
)
_OUTPUT: Final = {
    "AccessKeyId": "access_key_id",
    "SecretAccessKey": "secret_access_key",
    "SessionToken": "session_token",
    "Expiration": "expires_at",
}
"""The form that commands print for the `credential_process` of Amazon's tools."""


class CredentialsError(Exception):
    """They cannot be had: where, and why, in one line."""


@dataclass(frozen=True, slots=True)
class Secrets:
    """By their names above. `expires_at` is when they end, None: never, as far as is known."""

    values: Mapping[str, str] = field(repr=False)
    expires_at: datetime.datetime | None = None


class CredentialSource:
    """`form` is as in `drive.toml`, and was checked (`backend.nodes.object_store.settings`). No I/O but in
    the methods. Any thread."""

    def __init__(self, form: str) -> None:
        self.form = form
        self._kind, _, self._where = form.partition(":")

    def stamp(self) -> object:
        """Another one when the file that they are in, or its mode, has changed. No error."""
        path = self._path()
        if not path:
            return None
        try:
            found = os.stat(path)
        except OSError:
            return None
        return found.st_ctime_ns, found.st_mtime_ns, found.st_ino, found.st_size

    def read(self) -> Secrets | None:
        """None where there are none to be read (`instance`, `anonymous`). `CredentialsError`."""
        if self._kind in ("instance", "anonymous"):
            return None
        found = self._found()
        ends = found.pop("expires_at", None)
        return Secrets(found, _moment(ends, self.form) if ends else None)

    def _path(self) -> str:
        if self._kind == "file":
            return self._where
        if self._kind == "profile":
            return os.path.expanduser(os.environ.get("AWS_SHARED_CREDENTIALS_FILE") or "~/.aws/credentials")
        return ""

    def _found(self) -> dict[str, str]:
        if self._kind == "env":
            names = {name: f"{self._where}_{name.upper()}" for name in _NAMES}
            found = {name: os.environ[variable] for name, variable in names.items() if variable in os.environ}
            if not found:
                raise CredentialsError(f"no variable {self._where}_ACCESS_KEY_ID or the like is set")
            return found
        if self._kind == "command":
            return _named(_parsed(_output(_command(self._where), self._where), self.form), self.form)
        return self._in_file()

    def _in_file(self) -> dict[str, str]:
        text = _private_text(self._path())
        if self._kind == "file":
            return _named(_parsed(text, self.form), self.form)
        profiles = configparser.RawConfigParser()
        try:
            profiles.read_string(text)
            section = profiles[self._where]
        except (configparser.Error, KeyError):
            raise CredentialsError(f"{self._path()} has no profile {self._where}") from None
        return _named({name.removeprefix("aws_"): value for name, value in section.items()}, self.form)


def _private_text(path: str) -> str:
    try:
        with open(path, "rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            data = file.read(_LARGEST + 1)
    except OSError as error:
        raise CredentialsError(f"{path}: cannot be read: {error.strerror}") from None
    if stat.S_IMODE(mode) & 0o077:
        raise CredentialsError(f"{path}: others may read it: chmod 600 {path}")
    try:
        return data.decode()
    except UnicodeDecodeError:
        raise CredentialsError(f"{path}: is no text") from None


def _parsed(text: str, what: str) -> dict[str, Any]:
    """JSON or TOML; no message quotes any of it."""
    try:
        found = json.loads(text) if text.lstrip().startswith("{") else tomllib.loads(text)
    except ValueError:
        raise CredentialsError(f"{what}: is neither TOML nor JSON") from None
    if found.get("type") == "service_account":
        return {"service_account_key": text}
    return {_OUTPUT.get(name, name): value for name, value in found.items()}


def _named(found: Mapping[str, Any], what: str) -> dict[str, str]:
    named = {name: str(found[name]) for name in _NAMES if found.get(name)}
    if not named:
        raise CredentialsError(f"{what}: holds no credentials (access_key_id and the like)")
    return named


def _command(name: str) -> list[str]:
    home = os.environ.get("XDG_CONFIG_HOME") or os.path.expanduser("~/.config")
    path = os.path.join(home, "drivefs", "credentials.toml")
    try:
        with open(path, "rb") as file:
            command = tomllib.load(file).get("commands", {}).get(name)
    except (OSError, ValueError, AttributeError):
        command = None
    if not isinstance(command, list) or not command or not all(isinstance(word, str) for word in command):
        raise CredentialsError(f'{path} has no command {name} ([commands] {name} = ["program", "argument"])')
    return command


def _output(command: list[str], name: str) -> str:
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            timeout=_COMMAND_SECONDS,
            check=True,
        )
        return done.stdout.decode()
    except (OSError, subprocess.SubprocessError, UnicodeDecodeError):
        raise CredentialsError(f"the command {name} for credentials failed") from None


def _moment(text: str, what: str) -> datetime.datetime:
    try:
        found = datetime.datetime.fromisoformat(text)
    except ValueError:
        raise CredentialsError(f"{what}: when they expire is no time") from None
    return found if found.tzinfo else found.replace(tzinfo=datetime.UTC)

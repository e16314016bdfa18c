"""A machine of a test that is a device of an account at a hub: its folders, and its user's commands."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from backend.remote import Logins
from tools.drivefs import drivefs

PASSPHRASE = "correct horse battery staple"


def secret_file(folder: Path, name: str, text: str) -> str:
    path = folder / name
    path.touch(mode=0o600)
    path.write_text(f"{text}\n")
    return str(path)


@dataclass
class Machine:
    """A machine with a state folder of its own, and its user at the shell."""

    folder: Path
    hub: str
    email: str
    shell: pytest.MonkeyPatch
    capsys: pytest.CaptureFixture[str]

    def run(self, *words: str) -> str:
        """What the command says."""
        self.shell.setenv("DRIVEFS_STATE_DIR", str(self.folder / "state"))
        self.capsys.readouterr()
        assert drivefs(words) == 0
        return self.capsys.readouterr().out

    def ask(self, *words: str) -> Any:
        return json.loads(self.run(*words, "--json"))

    def secret(self, text: str = PASSPHRASE, name: str = "passphrase") -> tuple[str, str]:
        return f"--{name}-file", secret_file(self.folder, name, text)

    def create(self, *more: str) -> str:
        recovery = f"{self.folder}/recovery"
        words = ["account", "create", self.hub, "--email", self.email, "--recovery-file", recovery]
        return self.run(*words, *self.secret(), *more)

    def log_in(self, text: str = PASSPHRASE, *more: str) -> str:
        return self.run("login", self.hub, "--email", self.email, *self.secret(text), *more)

    @property
    def recovery(self) -> str:
        return (self.folder / "recovery").read_text().strip()

    @property
    def logins(self) -> Logins:
        return Logins(self.folder / "state" / "hubs")

    def another(self, name: str) -> Machine:
        folder = self.folder.parent / name
        folder.mkdir()
        return Machine(folder, self.hub, self.email, self.shell, self.capsys)

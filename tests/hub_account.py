"""An account at a hub of a test, by the bytes that go over the wire: keys are random, and wrap nothing."""

from __future__ import annotations

import os
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import count
from typing import Any

import httpx

from backend.hub.accounts import USUAL_COST
from tests.hub_server import RunningHub

_NUMBERS = count()


@dataclass
class Secret:
    """A secret of an account, as the hub gets to know it."""

    salt: bytes = field(default_factory=lambda: os.urandom(32))
    auth_key: bytes = field(default_factory=lambda: os.urandom(32))
    wrapped: bytes = field(default_factory=lambda: os.urandom(60))

    def said(self) -> dict[str, Any]:
        memory, iterations, lanes = USUAL_COST
        costs = {"memory_kib": memory, "iterations": iterations, "lanes": lanes}
        parts = {"salt": self.salt, "auth_key": self.auth_key, "wrapped": self.wrapped}
        return costs | {name: value.hex() for name, value in parts.items()}


@dataclass
class Person:
    """Somebody with an account, and a client that is logged in."""

    client: httpx.Client
    email: str = field(default_factory=lambda: f"person{next(_NUMBERS)}@example.org")
    secrets: dict[str, Secret] = field(default_factory=lambda: {"passphrase": Secret(), "recovery": Secret()})

    def sign_up(self, **more: str) -> httpx.Response:
        said = {"email": self.email} | {kind: each.said() for kind, each in self.secrets.items()} | more
        return self.client.post("/v1/accounts", json=said)

    def proof(self, kind: str = "passphrase", code: str = "") -> dict[str, str]:
        return {"kind": kind, "auth_key": self.secrets[kind].auth_key.hex(), "code": code}

    def log_in(self, kind: str = "passphrase", code: str = "", **other: str) -> httpx.Response:
        said = {"email": self.email} | self.proof(kind, code) | other
        answer = self.client.post("/v1/login/finish", json=said)
        if answer.is_success:
            self.client.headers["Authorization"] = f"Bearer {answer.json()['token']}"
        return answer


class People:
    """Makes persons at the hub; their connections end with it."""

    def __init__(self, running: RunningHub) -> None:
        self._running = running
        self._clients = ExitStack()

    def somebody(self, email: str = "") -> Person:
        """Without an account yet."""
        client = self._clients.enter_context(
            httpx.Client(verify=False, base_url=self._running.url, timeout=30)
        )
        return Person(client, email) if email else Person(client)

    def person(self) -> Person:
        """Who has signed up and logged in."""
        found = self.somebody()
        assert found.sign_up().status_code == 201
        assert found.log_in().status_code == 200
        return found

    def close(self) -> None:
        """No connection is left."""
        self._clients.close()


def end(client: httpx.Client, path: str, said: dict[str, Any]) -> httpx.Response:
    """DELETE with a body."""
    return client.request("DELETE", path, json=said)

"""The hub's own secret, which lies in no database: without it the database opens no account.

A guess at a passphrase needs the database and the pepper together, and Argon2id for each account. A lost
pepper loses every account's login. Any thread.
"""

from __future__ import annotations

import hashlib
import hmac
from typing import Final

from backend.system import KEY_SIZE, derive, keyed_hash, open_sealed, seal

_BUCKETS: Final = 1 << 20


class Pepper:
    """See the module. Hidden in reprs, not picklable."""

    __slots__ = ("_attempt", "_factor", "_root", "_salt", "_verifier")

    def __init__(self, key: bytes) -> None:
        """`ValueError`: it has other than 32 bytes."""
        if len(key) != KEY_SIZE:
            raise ValueError("a pepper has 32 bytes")
        self._attempt = derive(key, "hub attempt")
        self._factor = derive(key, "hub second factor")
        self._root = derive(key, "hub account root")
        self._salt = derive(key, "hub salt")
        self._verifier = derive(key, "hub verifier")

    def verifier(self, account: int, kind: str, auth_key: bytes) -> bytes:
        """The bytes that the database keeps of a key that a login shows."""
        return keyed_hash(self._verifier, _place(account, kind) + hashlib.sha256(auth_key).digest())

    def fits(self, verifier: bytes, account: int, kind: str, auth_key: bytes) -> bool:
        """Whether it is of that key, in constant time."""
        return hmac.compare_digest(verifier, self.verifier(account, kind, auth_key))

    def seal_root(self, account: int, kind: str, wrapped: bytes) -> bytes:
        """A wrapped account root, sealed once more."""
        return seal(self._root, wrapped, _place(account, kind))

    def open_root(self, account: int, kind: str, sealed: bytes) -> bytes:
        """The wrapped account root. `CorruptError`: it was sealed by another pepper."""
        return open_sealed(self._root, sealed, _place(account, kind))

    def seal_factor(self, account: int, secret: bytes) -> bytes:
        """The secret that codes are made of, sealed."""
        return seal(self._factor, secret, _place(account, "totp"))

    def open_factor(self, account: int, sealed: bytes) -> bytes:
        """The secret. `CorruptError`."""
        return open_sealed(self._factor, sealed, _place(account, "totp"))

    def salt(self, email: str, kind: str) -> bytes:
        """The salt that is named for an address without an account: always the same one."""
        return keyed_hash(self._salt, f"{kind}\0{email}".encode())

    def bucket(self, email: str) -> int:
        """The row in which failed logins of an address count; few addresses share one."""
        return int.from_bytes(keyed_hash(self._attempt, email.encode())[:4]) % _BUCKETS

    def __repr__(self) -> str:
        return "Pepper(hidden)"

    def __reduce__(self) -> str:
        raise TypeError("keys are not pickled")


def _place(account: int, kind: str) -> bytes:
    """Bound to what is sealed: nothing of the database passes for another account's."""
    return f"{kind}\0{account}\0".encode()

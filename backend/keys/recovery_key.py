"""The recovery key: 200 random bits that a person prints, keeps and types back.

`DRIVEFS-` and nine groups of five Crockford base 32 digits (no I, L, O, U); the last group is a
25-bit checksum, so that a slip of the pen is told from a wrong key. Reading forgives case, spaces,
missing hyphens, O for 0, and I or L for 1.
"""

from __future__ import annotations

import os
from typing import Final

from backend.errors import UsageError
from backend.system import plain_hash

ALPHABET: Final = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
SECRET_SIZE: Final = 25
_PREFIX: Final = "DRIVEFS"
_SECRET_DIGITS: Final = SECRET_SIZE * 8 // 5
_CHECK_DIGITS: Final = 5
_FORGIVEN: Final = str.maketrans("OIL", "011")


def new_recovery_key() -> str:
    """A fresh recovery key in its printed form."""
    return print_recovery_key(os.urandom(SECRET_SIZE))


def print_recovery_key(secret: bytes) -> str:
    """The printed form of 25 bytes."""
    digits = _digits(int.from_bytes(secret), _SECRET_DIGITS) + _check(secret)
    return "-".join([_PREFIX, *(digits[at : at + 5] for at in range(0, len(digits), 5))])


def parse_recovery_key(text: str) -> bytes:
    """The 25 bytes of a recovery key as typed. `UsageError`, without the key, if it cannot be one."""
    joined = "".join(text.upper().split()).replace("-", "")
    digits = joined.removeprefix(_PREFIX).translate(_FORGIVEN)
    if len(digits) != _SECRET_DIGITS + _CHECK_DIGITS:
        raise UsageError(f"a recovery key has 45 letters and digits after DRIVEFS, this has {len(digits)}")
    if any(digit not in ALPHABET for digit in digits):
        raise UsageError("the recovery key has a character that recovery keys do not use")
    secret = _number(digits[:_SECRET_DIGITS]).to_bytes(SECRET_SIZE)
    if _check(secret) != digits[_SECRET_DIGITS:]:
        raise UsageError("the recovery key was mistyped: its last group does not fit the others")
    return secret


def _check(secret: bytes) -> str:
    return _digits(int.from_bytes(plain_hash(b"drivefs recovery key" + secret)[:4]) >> 7, _CHECK_DIGITS)


def _digits(number: int, count: int) -> str:
    return "".join(ALPHABET[number >> 5 * (count - 1 - at) & 31] for at in range(count))


def _number(digits: str) -> int:
    number = 0
    for digit in digits:
        number = number << 5 | ALPHABET.index(digit)
    return number

"""The cryptographic primitives of drivefs, each used in one way only; nothing else imports `cryptography`.

One suite per format version, no negotiation: AES-256-GCM (NIST SP 800-38D) with random 96-bit
nonces, BLAKE3 (keyed hash and key derivation mode, the BLAKE3 paper, section 2.3), Ed25519 (RFC 8032) and
Argon2id (RFC 9106). Thread-safe; no function keeps a key.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Final

import blake3
from cryptography.exceptions import InvalidSignature, InvalidTag
from cryptography.hazmat.primitives.asymmetric.ed25519 import (
    Ed25519PrivateKey,
    Ed25519PublicKey,
)
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.argon2 import Argon2id

from backend.buffer import Buffer
from backend.errors import CorruptError

KEY_SIZE: Final = 32
NONCE_SIZE: Final = 12
TAG_SIZE: Final = 16
SEAL_OVERHEAD: Final = NONCE_SIZE + TAG_SIZE


def derive(key: bytes, purpose: str, context: bytes = b"") -> bytes:
    """A 32-byte sub-key of `key`. Different purposes or contexts give independent keys: the
    purpose is bound by BLAKE3's derive-key mode, the context by a keyed hash under that key."""
    sub_key = blake3.blake3(key, derive_key_context=f"drivefs 2026-11 {purpose}").digest()
    return blake3.blake3(context, key=sub_key).digest() if context else sub_key


def keyed_hash(key: bytes, data: Buffer) -> bytes:
    """32 bytes: BLAKE3 of `data` under a 32-byte key. Releases the interpreter lock on large data."""
    return blake3.blake3(data, key=key).digest()


def file_hash(path: str) -> bytes:
    """32 bytes: BLAKE3 of the file's content. Blocks; `OSError`. Releases the interpreter lock."""
    with open(path, "rb"):  # names the file in the error if there is none
        return blake3.blake3(max_threads=1).update_mmap(path).digest()


def plain_hash(data: Buffer) -> bytes:
    """32 bytes: BLAKE3 of `data`, for checksums that anyone may verify."""
    return blake3.blake3(data).digest()


def seal(key: bytes, plaintext: Buffer, associated_data: bytes) -> bytes:
    """nonce (12, random) + ciphertext + tag (16). At most 2^32 messages may be sealed with a key."""
    nonce = os.urandom(NONCE_SIZE)
    return nonce + AESGCM(key).encrypt(nonce, plaintext, associated_data)


def open_sealed(key: bytes, data: Buffer, associated_data: bytes) -> bytes:
    """The plaintext given to `seal`; `CorruptError` if key, data or associated data are not the same."""
    view = memoryview(data)
    if len(view) < SEAL_OVERHEAD:
        raise CorruptError("sealed data is shorter than its nonce and tag")
    try:
        return AESGCM(key).decrypt(view[:NONCE_SIZE], view[NONCE_SIZE:], associated_data)
    except InvalidTag:
        raise CorruptError("authentication failed: wrong key, or the data was changed") from None


def seal_into(
    target: memoryview, key: bytes, parts: Sequence[tuple[Buffer, bytes]], prefix: bytes = b""
) -> None:
    """Put into `target`, for each (plaintext, associated data) one after the other, `prefix` and what `seal`
    makes of it; it has just the room for that: `SEAL_OVERHEAD` and the prefix more than each plaintext. No
    byte is copied once more."""
    cipher, end, nonces = AESGCM(key), 0, os.urandom(NONCE_SIZE * len(parts))
    for number, (plaintext, associated_data) in enumerate(parts):
        begin, start = end, end + len(prefix) + NONCE_SIZE
        end = start + len(plaintext) + TAG_SIZE
        nonce = nonces[number * NONCE_SIZE : (number + 1) * NONCE_SIZE]
        target[begin:start] = prefix + nonce
        cipher.encrypt_into(nonce, plaintext, associated_data, target[start:end])


def open_into(target: memoryview, key: bytes, parts: Sequence[tuple[memoryview, bytes]]) -> None:
    """Put into `target` what `open_sealed` makes of each (sealed data, associated data), one after the other;
    it has just the room for it. `CorruptError` as there; `target` then holds anything."""
    cipher, end = AESGCM(key), 0
    for data, associated_data in parts:
        start, end = end, end + len(data) - SEAL_OVERHEAD
        if not start <= end <= len(target):
            raise CorruptError("sealed data is shorter than its nonce and tag, or longer than stated")
        try:
            cipher.decrypt_into(data[:NONCE_SIZE], data[NONCE_SIZE:], associated_data, target[start:end])
        except InvalidTag:
            raise CorruptError("authentication failed: wrong key, or the data was changed") from None


def argon2id(secret: bytes, salt: bytes, *, memory_kib: int, iterations: int, lanes: int) -> bytes:
    """32 bytes from a passphrase (RFC 9106). Takes `memory_kib` KiB of memory and blocks."""
    return Argon2id(
        salt=salt, length=KEY_SIZE, iterations=iterations, lanes=lanes, memory_cost=memory_kib
    ).derive(secret)


def new_signing_key() -> bytes:
    """A fresh Ed25519 private key, 32 bytes."""
    return os.urandom(KEY_SIZE)


def verifying_key(signing_key: bytes) -> bytes:
    """The public key of a private one, 32 bytes."""
    return Ed25519PrivateKey.from_private_bytes(signing_key).public_key().public_bytes_raw()


def sign(signing_key: bytes, message: bytes) -> bytes:
    """The Ed25519 signature, 64 bytes. Holds the interpreter lock: for short messages."""
    return Ed25519PrivateKey.from_private_bytes(signing_key).sign(message)


def is_signed(key: bytes, signature: bytes, message: bytes) -> bool:
    """Whether `message` was signed by the private key of the public `key` (32 bytes)."""
    try:
        Ed25519PublicKey.from_public_bytes(key).verify(signature, message)
    except (InvalidSignature, ValueError):
        return False
    return True

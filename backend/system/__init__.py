"""The services of the machine: durable files, cryptography, databases at rest, threads."""

from backend.system.concurrency import (
    CutOff,
    Group,
    Threads,
    checkpoint,
    checkpoint_if_cancelled,
    current_time,
    cut_after,
    each,
    plain_task_group,
    task_group,
)
from backend.system.crypto import (
    KEY_SIZE,
    SEAL_OVERHEAD,
    argon2id,
    derive,
    is_signed,
    keyed_hash,
    new_signing_key,
    open_into,
    open_sealed,
    plain_hash,
    seal,
    seal_into,
    sign,
    verifying_key,
)
from backend.system.durable import Durable, NotBegunError
from backend.system.environment import THIS_MACHINE, Environment, boot_clock
from backend.system.free_names import free_path
from backend.system.heap import share_one_heap
from backend.system.patience import ask
from backend.system.reading import read_all
from backend.system.toml_table import TomlTable

__all__ = [
    "KEY_SIZE",
    "SEAL_OVERHEAD",
    "THIS_MACHINE",
    "CutOff",
    "Durable",
    "Environment",
    "Group",
    "NotBegunError",
    "Threads",
    "TomlTable",
    "argon2id",
    "ask",
    "boot_clock",
    "checkpoint",
    "checkpoint_if_cancelled",
    "current_time",
    "cut_after",
    "derive",
    "each",
    "free_path",
    "is_signed",
    "keyed_hash",
    "new_signing_key",
    "open_into",
    "open_sealed",
    "plain_hash",
    "plain_task_group",
    "read_all",
    "seal",
    "seal_into",
    "share_one_heap",
    "sign",
    "task_group",
    "verifying_key",
]

"""The keys of drives and accounts, and how they are wrapped. Nothing that a hub runs imports this."""

from backend.keys.account_keys import (
    AccountKeys,
    HubDrive,
    LoginKeys,
    Stretching,
    check_name,
    login_keys,
    new_account_root,
    new_stretching,
)
from backend.keys.epoch_keys import FIRST_EPOCH, EpochKeys
from backend.keys.key_ring import KeyRing
from backend.keys.key_slots import KEY_FILE_MAX, KINDS, Argon2Cost, Secret, Slot, check_slot
from backend.keys.keys import DRIVE_ID_SIZE, DriveKeys, new_drive_key
from backend.keys.recovery_key import new_recovery_key

__all__ = [
    "DRIVE_ID_SIZE",
    "FIRST_EPOCH",
    "KEY_FILE_MAX",
    "KINDS",
    "AccountKeys",
    "Argon2Cost",
    "DriveKeys",
    "EpochKeys",
    "HubDrive",
    "KeyRing",
    "LoginKeys",
    "Secret",
    "Slot",
    "Stretching",
    "check_name",
    "check_slot",
    "login_keys",
    "new_account_root",
    "new_drive_key",
    "new_recovery_key",
    "new_stretching",
]

"""The drive's keys and how they are wrapped. Nothing that a hub runs imports this."""

from backend.keys.key_slots import KEY_FILE_MAX, KINDS, Argon2Cost, Secret, Slot, check_slot
from backend.keys.keys import DRIVE_ID_SIZE, DriveKeys, new_drive_key
from backend.keys.recovery_key import new_recovery_key

__all__ = [
    "DRIVE_ID_SIZE",
    "KEY_FILE_MAX",
    "KINDS",
    "Argon2Cost",
    "DriveKeys",
    "Secret",
    "Slot",
    "check_slot",
    "new_drive_key",
    "new_recovery_key",
]

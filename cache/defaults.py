"""How a drive is used unless somebody says otherwise. Bytes and seconds."""

from __future__ import annotations

from typing import Final

CACHE_SIZE: Final = 64 << 20
"""plaintext blocks in memory"""
CACHE_DISK: Final = 10 << 30
"""sealed blocks on the disk, for a drive with nodes that are no folders; at most a tenth of what is free"""
JOURNAL_SIZE: Final = 2 << 30
"""writers wait when the journal is larger"""
COMMIT_INTERVAL: Final = 5.0
"""at most this long between acceptance and the cut of a commit"""
STORE_COMMIT_INTERVAL: Final = 30.0
"""the same where a commit costs money"""
SHARED_INTERVAL: Final = 0.01
"""about so long where other devices write the drive too"""
VERSION_INTERVAL: Final = 30.0
"""a file that stays open and dirty gets a version at most this often"""
VERSIONS_NAME: Final = ".versions"
"""the hidden directory of the past"""

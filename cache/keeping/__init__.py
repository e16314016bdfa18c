"""Folders whose content is kept whole on this machine's disk."""

from cache.keeping.keeper import Keeper
from cache.keeping.kept_folders import FILE, KeptFolder, KeptFolders, decode, encode

__all__ = ["FILE", "Keeper", "KeptFolder", "KeptFolders", "decode", "encode"]

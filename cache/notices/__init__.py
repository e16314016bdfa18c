"""Notices: what happened to a drive that people should hear of, also after a remount."""

from cache.notices.notices import LONGEST, MOST, Kind, Notice, Notices, decode, encode, noted_path

__all__ = ["LONGEST", "MOST", "Kind", "Notice", "Notices", "decode", "encode", "noted_path"]

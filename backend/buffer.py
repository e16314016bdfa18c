"""`Buffer`: bytes, in any of the types that are read and written without a copy."""

from __future__ import annotations

Buffer = bytes | bytearray | memoryview

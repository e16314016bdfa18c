"""What is read from and written to: bytes in any of the forms that need no copy."""

from __future__ import annotations

Buffer = bytes | bytearray | memoryview

"""Why an operation is refused: it is malformed, or it is out of date (does not fit the state)."""

from __future__ import annotations

from backend.errors import CorruptError


class MalformedError(CorruptError):
    """The operation breaks a rule whatever the state is: no namespace takes it, ever."""


class OutOfDateError(CorruptError):
    """The operation is one, but not of this state: what it names is gone, taken, or another one by now. It
    may have fitted the state that it was made on."""

"""Which nodes recently failed or were slow, so that reads do not wait for them again at once."""

from __future__ import annotations

from collections.abc import Iterable

from backend.system import current_time


class NodeHealth:
    """Remembers a node's last trouble for `patience` seconds. For one event loop; never blocks."""

    def __init__(self, patience: float = 5.0) -> None:
        self._patience = patience
        self._avoided_until: dict[str, float] = {}

    def troubled(self, name: str) -> None:
        """The node failed, or others had to be asked in its stead."""
        self._avoided_until[name] = current_time() + self._patience

    def answered(self, name: str) -> None:
        """The node answered, with whatever."""
        self._avoided_until.pop(name, None)

    def is_avoided(self, name: str) -> bool:
        """Whether to ask others first."""
        return self._avoided_until.get(name, -1.0) > current_time()

    def any_avoided(self, names: Iterable[str]) -> bool:
        """Whether one of them is to be avoided."""
        return any(self.is_avoided(name) for name in names)

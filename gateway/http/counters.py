"""What a server has done since it began, as numbers, and as Prometheus text (format 0.0.4)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field


@dataclass(slots=True)
class Counters:
    """Only grow, but for `open`. `answers`: by status; `refused`: connections and requests that no
    application saw, by status. `answered_at`: when the last answer ended, by trio's clock; 0 before the
    first."""

    connections: int = 0
    open: int = 0
    received_bytes: int = 0
    sent_bytes: int = 0
    seconds: float = 0.0
    answered_at: float = 0.0
    answers: Counter[int] = field(default_factory=Counter)
    refused: Counter[int] = field(default_factory=Counter)

    def exposition(self, door: str) -> Iterator[str]:
        """The lines for the server of this `door`."""
        prefix = f"drivefs_{door}_"
        for name, kind, value, meaning in (
            ("connections", "counter", self.connections, "connections that were accepted"),
            ("open_connections", "gauge", self.open, "connections that are open"),
            ("received_bytes", "counter", self.received_bytes, "bytes of requests' bodies"),
            ("sent_bytes", "counter", self.sent_bytes, "bytes of answers' bodies"),
            ("seconds", "counter", self.seconds, "time from requests' heads to the ends of their answers"),
        ):
            yield f"# HELP {prefix}{name} {meaning}\n# TYPE {prefix}{name} {kind}\n{prefix}{name} {value!r}\n"
        yield from _by_status(f"{prefix}answers", "answers of the application", self.answers)
        yield from _by_status(f"{prefix}refused", "requests that no application saw", self.refused)


def _by_status(name: str, meaning: str, counted: Counter[int]) -> Iterator[str]:
    yield f"# HELP {name} {meaning}\n# TYPE {name} counter\n"
    for status, count in sorted(counted.items()):
        yield f'{name}{{status="{status}"}} {count}\n'

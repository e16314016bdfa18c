"""The table of calls that tools make on a running drive by name, beyond POSIX, for the control socket."""

from __future__ import annotations

from cache.drive import Drive
from cache.messages import Services, by_name
from cache.services.health_calls import health_services
from cache.services.history_calls import HistoryCalls
from cache.services.space_calls import SpaceCalls


def services_of(drive: Drive) -> Services:
    """All calls on `drive`, by name."""
    return by_name([*HistoryCalls(drive).services(), *health_services(drive), *SpaceCalls(drive).services()])

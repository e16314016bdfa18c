"""The table of calls that tools make on a running drive by name, beyond POSIX, for the control socket."""

from __future__ import annotations

from cache.drive import Drive
from cache.messages import Services, by_name
from cache.services.activity_calls import ActivityCalls
from cache.services.conflict_calls import conflict_services
from cache.services.device_calls import device_services
from cache.services.health_calls import health_services
from cache.services.history_calls import HistoryCalls
from cache.services.keeping_calls import keeping_services
from cache.services.node_calls import node_services
from cache.services.notice_calls import notice_services
from cache.services.space_calls import SpaceCalls


def services_of(drive: Drive) -> Services:
    """All calls on `drive`, by name."""
    history = [*HistoryCalls(drive).services(), *ActivityCalls(drive).services()]
    care = [*health_services(drive), *node_services(drive)]
    said = [*notice_services(drive), *conflict_services(drive), *device_services(drive)]
    return by_name([*history, *care, *SpaceCalls(drive).services(), *keeping_services(drive), *said])

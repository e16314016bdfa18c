"""The upstream over HTTPS: a drive on a hub."""

from backend.remote.hub_client import HubClient
from backend.remote.remote_upstream import RemoteUpstream

__all__ = ["HubClient", "RemoteUpstream"]

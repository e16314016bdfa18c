"""The upstream over HTTPS: a drive on a hub."""

from backend.remote.account_drives import KnownDrives, ListedDrive, listed_drives
from backend.remote.hub_client import HubClient
from backend.remote.hub_route import HubRoute
from backend.remote.logins import HubLogin, Logins, hub_url
from backend.remote.remote_upstream import RemoteUpstream

__all__ = [
    "HubClient",
    "HubLogin",
    "HubRoute",
    "KnownDrives",
    "ListedDrive",
    "Logins",
    "RemoteUpstream",
    "hub_url",
    "listed_drives",
]

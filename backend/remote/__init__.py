"""The upstream over HTTPS: a drive on a hub; and the account that it belongs to."""

from backend.remote.account_drives import KnownDrives, ListedDrive
from backend.remote.begun_move import BegunMove, BegunMoves
from backend.remote.hub_account import (
    AccountSummary,
    HubAccount,
    SealedDrive,
)
from backend.remote.hub_client import HubClient
from backend.remote.hub_route import HubRoute
from backend.remote.kept_token import KeptToken
from backend.remote.logins import HubLogin, Logins, hub_url
from backend.remote.recent_commits import RecentCommits
from backend.remote.remote_import import RemoteDeparture, RemoteImport
from backend.remote.remote_upstream import RemoteUpstream
from backend.wire import Credential, Proof, SecretCost

__all__ = [
    "AccountSummary",
    "BegunMove",
    "BegunMoves",
    "Credential",
    "HubAccount",
    "HubClient",
    "HubLogin",
    "HubRoute",
    "KeptToken",
    "KnownDrives",
    "ListedDrive",
    "Logins",
    "Proof",
    "RecentCommits",
    "RemoteDeparture",
    "RemoteImport",
    "RemoteUpstream",
    "SealedDrive",
    "SecretCost",
    "hub_url",
]

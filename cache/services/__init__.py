"""What the doors ask of a drive beside files: history, space, health, clones."""

from cache.services.calls import services_of
from cache.services.versions_view import Found, VersionsView

__all__ = ["Found", "VersionsView", "services_of"]

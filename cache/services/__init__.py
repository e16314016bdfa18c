"""What the doors ask of a drive beside files: history, space, health, clones."""

from cache.services.calls import services_of
from cache.services.versions_view import DEFAULT_NAME, Found, VersionsView

__all__ = ["DEFAULT_NAME", "Found", "VersionsView", "services_of"]

"""Services to doors beside files: the view of the past, history, space, health, clones."""

from cache.services.calls import services_of
from cache.services.versions_view import Found, VersionsView

__all__ = ["Found", "VersionsView", "services_of"]

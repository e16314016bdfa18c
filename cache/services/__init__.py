"""What the doors ask of a drive beside files: history, space, health, clones."""

from cache.services.calls import Call, calls_of

__all__ = ["Call", "calls_of"]

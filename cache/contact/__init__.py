"""Whether the upstream of a shared drive answers, and reading while it does not."""

from cache.contact.contact import FIRST_BACKOFF, MAX_BACKOFF, Contact
from cache.contact.reached_blocks import ReachedBlocks

__all__ = ["FIRST_BACKOFF", "MAX_BACKOFF", "Contact", "ReachedBlocks"]

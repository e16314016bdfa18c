"""Looking after what is stored: scrub, repair records, the checks of fsck."""

from backend.care.check_index import IndexCheck
from backend.care.check_objects import ObjectCheck
from backend.care.check_store import StoreCheck
from backend.care.scrub import SHARES, Scrub
from backend.care.scrub_objects import ObjectScrub
from backend.care.store_health import StoreHealth

__all__ = ["SHARES", "IndexCheck", "ObjectCheck", "ObjectScrub", "Scrub", "StoreCheck", "StoreHealth"]

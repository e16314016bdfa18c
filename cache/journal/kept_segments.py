"""The segments that the journal keeps, oldest first, and the numbers that it gives out.

Invariants:
1. A file's number is higher than that of any file that is there, and than the namespace's position: so a
   position never means two things.
2. Only the newest segment grows.
3. `unsynced` has every kept segment with records, or a header, that may not be on the disk.

Changed on the event-loop thread only; `descriptor` may be called by any thread.
"""

from __future__ import annotations

from cache.journal.format import OFFSET_BITS, OFFSET_MASK
from cache.journal.segments import Segment, close_all


class KeptSegments:
    """See the module."""

    __slots__ = (
        "_by_number",
        "_older_bytes",
        "has_new_names",
        "highest_number",
        "in_order",
        "next_sequence",
        "open_commit",
        "unsynced",
    )

    def __init__(self) -> None:
        self.in_order: list[Segment] = []
        self._by_number: dict[int, Segment] = {}
        self._older_bytes = 0
        """of all but the newest: each change asks for it"""
        self.next_sequence = 1
        """of the record that is appended next"""
        self.open_commit = 0
        """what the newest segment that was read back names so; 0: there was none"""
        self.highest_number = 0
        self.unsynced: set[int] = set()
        """numbers of segments, see the invariants"""
        self.has_new_names = False
        """whether the folder holds names that may not be on the disk"""

    def add(self, segment: Segment) -> None:
        """Keep one more, the newest."""
        if self.in_order:
            self._older_bytes += self.in_order[-1].size
        self.in_order.append(segment)
        self._by_number[segment.number] = segment

    def pop_oldest(self) -> Segment:
        """Keep the oldest no longer."""
        segment = self.in_order.pop(0)
        if self.in_order:
            self._older_bytes -= segment.size
        del self._by_number[segment.number]
        self.unsynced.discard(segment.number)
        return segment

    def new_number(self) -> int:
        """For a file that is about to be made."""
        self.highest_number += 1
        self.has_new_names = True
        return self.highest_number

    def pass_by(self, number: int) -> None:
        """No file that is made from now on has that number, or a lower one."""
        self.highest_number = max(self.highest_number, number)

    def take_unsynced(self) -> tuple[set[int], bool]:
        """The segments that are about to be synced, and whether names are. To be told by `still_unsynced` if
        it is not."""
        taken = self.unsynced, self.has_new_names
        self.unsynced, self.has_new_names = set(), False
        return taken

    def still_unsynced(self, numbers: set[int], new_names: bool) -> None:
        """The segments that `take_unsynced` gave are not on the disk."""
        self.unsynced |= numbers
        self.has_new_names = self.has_new_names or new_names

    @property
    def end(self) -> int:
        """The position of the next record; 0 if there is no segment at all."""
        if not self.in_order:
            return 0
        segment = self.in_order[-1]
        return segment.number << OFFSET_BITS | segment.end

    def reaches(self, position: int) -> bool:
        """See `Journal.reaches`."""
        segment = self._by_number.get(position >> OFFSET_BITS)
        if segment is not None:
            return position & OFFSET_MASK <= segment.end
        oldest = self.in_order[0].number if self.in_order else 0
        return position == 0 or position >> OFFSET_BITS < oldest

    @property
    def used_bytes(self) -> int:
        """Bytes of the segments: of the last one its records, of all others their whole size."""
        return self._older_bytes + self.in_order[-1].end if self.in_order else 0

    @property
    def record_bytes(self) -> int:
        """Bytes of their records."""
        return sum(segment.end for segment in self.in_order)

    def bytes_before(self, position: int) -> int:
        """Bytes of the segments that end before the position."""
        number = position >> OFFSET_BITS
        return sum(segment.size for segment in self.in_order[:-1] if segment.number < number)

    def descriptor(self, position: int) -> int | None:
        """Of the segment that holds the position; None if it is not there. Any thread."""
        segment = self._by_number.get(position >> OFFSET_BITS)
        return None if segment is None else segment.descriptor

    def close(self) -> None:
        """Close and forget them. Idempotent."""
        close_all(segment.descriptor for segment in self.in_order)
        self.in_order.clear()
        self._by_number.clear()
        self._older_bytes = 0

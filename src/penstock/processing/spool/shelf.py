"""What a spool has of one partition, and what of it the lane has not been given yet. Pure: files are named, never touched.

    start ......... taken ......... end
          handed to the lane   only on disk

While `taken` is `end`, records go to the lane as they come, and to disk beside it. Once some are on disk only, all that follow have to go
there too, until the lane has been given what lies before them: it sees offsets in the order of the log.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

from .format import HEAD_BYTES


@dataclass(slots=True)
class Segment:
    """A file of frames, each beginning where the one before ends."""

    start: int
    end: int
    size_bytes: int
    records: int
    leader_epoch: int = -1  # of its last record

    @property
    def name(self) -> str:
        return f"{self.start:020d}.records"


class Place(NamedTuple):
    """Where to read on. `position`: in the file, 0 for its first frame. Frames that end at or before `offset` are passed over."""

    segment: Segment
    position: int
    offset: int


class Shelf:
    """Belongs to the event loop."""

    def __init__(self, segments: Iterable[Segment] = (), taken: int = -1) -> None:
        """`segments`: adjoining, in order; `taken`: lies in the first of them."""
        self.segments = list(segments)
        self.end = self.segments[-1].end if self.segments else taken
        self.taken = taken
        self.size_bytes = sum(segment.size_bytes for segment in self.segments)
        self.records = sum(segment.records for segment in self.segments)
        self._read_at: tuple[Segment, int] | None = None

    @property
    def behind(self) -> bool:
        """Whether records are on disk that the lane has not been given."""
        return self.taken < self.end

    @property
    def leader_epoch(self) -> int:
        """Of the last record."""
        return self.segments[-1].leader_epoch if self.segments else -1

    # ------------------------------------------------------------ in

    def add(
        self,
        next_offset: int,
        records: int,
        leader_epoch: int,
        payload_bytes: int,
        *,
        header_bytes: int,
        segment_bytes: int,
        taken: bool,
    ) -> tuple[Segment, int]:
        """A frame from `end` on; the segment that it goes to, and how large that was before (0: the file is to be made)."""
        if not self.segments or self.segments[-1].size_bytes >= segment_bytes:
            self.segments.append(Segment(self.end, self.end, 0, 0))
        segment = self.segments[-1]
        before = segment.size_bytes
        if taken:
            assert not self.behind, "what lies before is on disk only"
            self.taken = next_offset
        elif not self.behind:
            self._read_at = (segment, before)
        size_bytes = payload_bytes + HEAD_BYTES + (0 if before else header_bytes)
        segment.size_bytes += size_bytes
        self.size_bytes += size_bytes
        segment.end = self.end = next_offset
        segment.records += records
        self.records += records
        segment.leader_epoch = leader_epoch
        return segment, before

    # ------------------------------------------------------------ out

    def next_place(self) -> Place:
        """Where the first frame is that the lane has not been given; only while some are behind."""
        segment = next(segment for segment in self.segments if segment.end > self.taken)
        known = self._read_at
        position = known[1] if known is not None and known[0] is segment else 0
        return Place(segment, position, self.taken)

    def read_to(self, place: Place, position: int, next_offset: int) -> None:
        """The lane has been given what lies before `next_offset`."""
        self.taken = max(self.taken, next_offset)
        self._read_at = (place.segment, position)

    # ------------------------------------------------------------ what is not needed any more

    def trim(self, offset: int, least_bytes: int) -> list[Segment]:
        """Forget the segments that lie below the commit; the last one only where it has grown to `least_bytes`."""
        gone = []
        while self.segments and self.segments[0].end <= offset:
            if len(self.segments) == 1 and self.segments[0].size_bytes < least_bytes:
                break
            segment = self.segments.pop(0)
            self.size_bytes -= segment.size_bytes
            self.records -= segment.records
            gone.append(segment)
        if gone:  # what was done before this start is committed though it was not read again
            self.taken = max(self.taken, gone[-1].end)
        return gone

    def clear(self, offset: int) -> list[Segment]:
        """Forget all; the next frame begins at `offset`."""
        gone, self.segments = self.segments, []
        self.size_bytes = self.records = 0
        self.end = self.taken = offset
        self._read_at = None
        return gone


def adjoining(segments: Iterable[Segment], committed: int | None) -> tuple[list[Segment], list[Segment]]:
    """(those that can be gone on with at the group's offset, the others). A run of segments counts where the offset lies in it, or, while
    the group has committed nothing, where it is the only one."""
    runs: list[list[Segment]] = []
    for segment in sorted(segments, key=lambda segment: (segment.start, segment.end)):
        if runs and runs[-1][-1].end == segment.start:
            runs[-1].append(segment)
        else:
            runs.append([segment])
    if committed is None:
        kept = runs[0] if len(runs) == 1 else []
    else:
        fitting = [run for run in runs if run[0].start <= committed < run[-1].end]
        kept = [segment for segment in fitting[0] if segment.end > committed] if fitting else []
    return kept, [segment for run in runs for segment in run if segment not in kept]

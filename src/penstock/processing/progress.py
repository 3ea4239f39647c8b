"""Which records of a partition are done, and from that: what may be committed, and what is remembered beyond it."""

from __future__ import annotations

from collections import deque

from ..types import OffsetAndMetadata, TopicPartition


class PartitionProgress:
    """One ownership of one partition: made when it is assigned, and dead for good once it is fenced.

    A partition that comes back gets a new one, so that what an old ownership still finishes changes nothing. Written in the event
    loop's thread only. Offsets are added in log order; gaps (compaction, transaction markers) are done by nature.
    """

    __slots__ = (
        "_committed",
        "_done",
        "_pending",
        "epoch",
        "fenced",
        "has_history",
        "leader_epoch",
        "next_offset",
        "topic_partition",
    )

    def __init__(
        self, topic_partition: TopicPartition, committed: OffsetAndMetadata | None, epoch: int = 0
    ) -> None:
        """`committed`: what the group has stored, whose metadata may tell of records done beyond it."""
        self.topic_partition = topic_partition
        self.epoch = epoch
        self.fenced = False
        self.next_offset = -1 if committed is None else committed.offset  # after the last record added
        self.leader_epoch = -1
        self.has_history = False
        self._committed = committed
        self._pending: deque[int] = deque()
        self._done: set[int] = set()

    def added(self, offset: int, next_offset: int) -> None:
        """One record, or a run of records that is done as one, from `offset` on; the next begins at or after `next_offset`."""
        self._pending.append(offset)
        self.next_offset = next_offset

    def done(self, offset: int) -> None:
        """What was added at `offset` is done; out of any order, once."""
        pending = self._pending
        if pending[0] != offset:
            self._done.add(offset)
            return
        pending.popleft()
        finished = self._done
        while pending and pending[0] in finished:
            finished.remove(pending.popleft())

    def was_done(self, offset: int) -> bool:
        return False

    def read_to(self, next_offset: int) -> None:
        """What was added before is followed by nothing before this offset: it passes transaction markers, say."""
        self.next_offset = max(self.next_offset, next_offset)

    def to_commit(self) -> OffsetAndMetadata | None:
        offset = self.commit_offset
        if offset < 0 or (self._committed is not None and offset <= self._committed.offset):
            return None
        return OffsetAndMetadata(offset, "", self.leader_epoch)

    def committed_as(self, entry: OffsetAndMetadata) -> None:
        self._committed = entry

    @property
    def commit_offset(self) -> int:
        """Everything before it is done; -1 while that is not known."""
        return self._pending[0] if self._pending else self.next_offset

    @property
    def ahead(self) -> int:
        """How many are kept in mind: added, and at or behind the first that is not done."""
        return len(self._pending)

    @property
    def unfinished(self) -> int:
        return len(self._pending) - len(self._done)

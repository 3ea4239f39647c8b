"""Which records of a partition are done, and from that: what may be committed, and what is remembered beyond it."""

from __future__ import annotations

from collections import deque

from ..types import OffsetAndMetadata, TopicPartition
from . import finished


class PartitionProgress:
    """One ownership of one partition: made when it is assigned, and dead for good once it is `fenced`.

    A partition that comes back gets a new one, so that what an old ownership still finishes changes nothing. Written in the event
    loop's thread only. Offsets are added in log order; what lies between them (compaction, transaction markers) is done by nature.

    What is kept in mind, `ahead`, is bounded by who adds: it is what was added at or behind the first that is not done.
    """

    __slots__ = (
        "_committed",
        "_done",
        "_ends",
        "_epochs",
        "_history",
        "_pending",
        "_told_done",
        "fenced",
        "has_history",
        "next_offset",
        "number",
        "topic_partition",
    )

    def __init__(
        self,
        topic_partition: TopicPartition,
        committed: OffsetAndMetadata | None,
        number: int = 0,
        also_done: finished.Ranges | None = None,
    ) -> None:
        """`committed`: what the group has stored, whose metadata may tell of records that were done beyond it. `number`: which
        ownership of the processor this is. `also_done`: what else is known to be done from the committed offset on."""
        self.topic_partition = topic_partition
        self.number = number
        self.fenced = False
        self.next_offset = -1 if committed is None else committed.offset  # after the last record added
        self._committed = committed
        self._pending: deque[int] = deque()  # added, from the first on that is not done
        self._done: set[int] = set()  # those of them that are done
        self._ends: dict[int, int] = {}  # of runs of more than one offset: the offset after
        history = [] if committed is None else finished.decode(committed.offset, committed.metadata)
        if also_done:
            history = finished.merged([*history, *also_done])
        self._history: deque[tuple[int, int]] = deque(history)  # done before, and not reached yet
        self.has_history = bool(history)
        # From which offset on records have which leader epoch; the last entry below the committed offset counts.
        self._epochs: deque[tuple[int, int]] = deque()
        if committed is not None and committed.leader_epoch >= 0:
            self._epochs.append((-1, committed.leader_epoch))
        self._told_done = -1  # how many were done beyond what was committed last

    # ------------------------------------------------------------ in

    def was_done(self, offset: int) -> bool:
        """Whether the next record, asked for in log order, was done before this ownership. It is not to be added then."""
        history = self._history
        while history and history[0][1] <= offset:
            history.popleft()
        self.has_history = bool(history)
        return bool(history) and history[0][0] <= offset

    def added(self, offset: int, next_offset: int) -> None:
        """One record, or a run of records that is done as one, from `offset` on; the next begins at or after `next_offset`."""
        self._pending.append(offset)
        if next_offset - offset != 1:
            self._ends[offset] = next_offset
        self.next_offset = next_offset

    def read_to(self, next_offset: int) -> None:
        """What was added last is followed by nothing below this offset: records that were done before, transaction markers."""
        self.next_offset = max(self.next_offset, next_offset)

    def has_epoch(self, offset: int, leader_epoch: int) -> None:
        """From this record on, the log has this leader epoch (KIP-320)."""
        if leader_epoch >= 0 and (not self._epochs or self._epochs[-1][1] != leader_epoch):
            self._epochs.append((offset, leader_epoch))

    # ------------------------------------------------------------ done

    def done(self, offset: int) -> None:
        """What was added at `offset` is done; in any order. ValueError if it was done already."""
        pending = self._pending
        if pending and pending[0] == offset:
            pending.popleft()
            finished_ones = self._done
            while pending and pending[0] in finished_ones:
                finished_ones.remove(pending.popleft())
            if self._ends:
                self._forget_ends()
        elif offset in self._done or not pending or offset < pending[0]:
            raise ValueError(f"{self.topic_partition} offset {offset} is done twice, or was never added")
        else:
            self._done.add(offset)

    def _forget_ends(self) -> None:
        first = self.commit_offset
        for offset in [offset for offset in self._ends if offset < first]:
            del self._ends[offset]

    # ------------------------------------------------------------ out

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
        """How many were added and are not done."""
        return len(self._pending) - len(self._done)

    def done_beyond(self) -> finished.Ranges:
        """Runs of offsets above commit_offset that need not be handled again: by this ownership, and by those before."""
        runs: finished.Ranges = []
        if self._done or len(self._pending) > 1 or self._history:
            at = self.commit_offset
            for offset in self._pending:
                if offset in self._done:
                    continue
                if offset > at:
                    runs.append((at, offset))
                at = self._ends.get(offset, offset + 1)
            if at < self.next_offset:
                runs.append((at, self.next_offset))
        for first, end in self._history:
            start = max(first, self.next_offset)
            if runs and runs[-1][1] == start:
                runs[-1] = (runs[-1][0], end)
            elif start < end:
                runs.append((start, end))
        return [run for run in runs if run[0] > self.commit_offset]

    def to_commit(self, max_chars: int = finished.MAX_CHARS) -> OffsetAndMetadata | None:
        """What to commit now; None if that is what was committed last. It never moves back."""
        offset, before = self.commit_offset, self._committed
        if offset < 0:
            return None
        if self._history and not self._pending and self._history[0][0] <= offset:
            offset = max(
                offset, self._history[0][1]
            )  # all that was read is done, and what follows was done before
        if before is not None and offset <= before.offset and len(self._done) == self._told_done:
            return None
        if before is not None and offset < before.offset:
            return None
        runs = [run for run in self.done_beyond() if run[0] > offset]
        metadata = finished.encode(offset, runs, max_chars) if runs else ""
        self._told_done = len(self._done)
        entry = OffsetAndMetadata(offset, metadata, self._epoch_before(offset))
        return None if before is not None and entry == before else entry

    def committed_as(self, entry: OffsetAndMetadata) -> None:
        """The group has stored this."""
        self._committed = entry

    def not_committed(self) -> None:
        """It is not known whether the group has stored what to_commit() gave last: it is given again."""
        self._told_done = -1

    def _epoch_before(self, offset: int) -> int:
        """The leader epoch of the record before the offset; -1 where it is not known."""
        epochs = self._epochs
        while len(epochs) > 1 and epochs[1][0] < offset:
            epochs.popleft()
        return epochs[0][1] if epochs and epochs[0][0] < offset else -1

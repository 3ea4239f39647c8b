"""One partition's log: offsets, the batch index, what idempotent producers sent, which transactions are open.

Pure over a storage seam: no clock (times are parameters), no sockets. Stored bytes are the batches as on the wire, so
reading is slicing. One replica only: whatever is appended is below the high watermark at once.
"""

from __future__ import annotations

import struct
from array import array
from bisect import bisect_left, bisect_right
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

from . import batches
from .batches import BatchHeader
from .codes import Code, RequestRefused
from .storage import Segment

REMEMBERED_BATCHES = 5  # as many in-flight batches as an idempotent producer may have (KIP-98)
MAX_SEQUENCE = 2**31 - 1
RECOVERY_CHUNK_BYTES = 4 * 1024 * 1024


class SentBatch(NamedTuple):
    first_sequence: int
    last_sequence: int
    base_offset: int
    timestamp: int


@dataclass(slots=True)
class ProducerState:
    """What one producer id last wrote here. Written by the log only."""

    epoch: int
    sent: deque[SentBatch] = field(default_factory=lambda: deque(maxlen=REMEMBERED_BATCHES))
    open_since: int = -1  # first offset of its open transaction, -1 without one


class AbortedTransaction(NamedTuple):
    producer_id: int
    first_offset: int
    last_offset: int  # the offset of the abort marker


@dataclass(frozen=True, slots=True)
class Appended:
    """Where a batch came to rest. `timestamp` is -1 unless the log set it."""

    base_offset: int
    timestamp: int = -1
    duplicate: bool = False


class PartitionLog:
    """See the module. `watchers` are called, without arguments, after the log grew or went away."""

    def __init__(self, segment: Segment, name: str, start_offset: int = 0) -> None:
        self.name = name
        self.start_offset = start_offset
        self.end_offset = start_offset
        self.leader_epoch = 0
        self.max_batch_bytes = 1_048_588
        self.log_append_time = False
        self.retention_bytes = -1
        self.watchers: set[Callable[[], None]] = set()
        self.deleted = False
        self._segment = segment
        # Parallel columns, one row a batch, in log order.
        self._bases = array("q")
        self._lasts = array("q")
        self._starts = array("q")
        self._ends = array("q")
        self._max_times = array("q")
        self._epochs: list[tuple[int, int]] = []  # (leader epoch, its first offset)
        self._producers: dict[int, ProducerState] = {}
        self._aborted: list[AbortedTransaction] = []

    # ------------------------------------------------------------------ what is in it
    @property
    def high_watermark(self) -> int:
        return self.end_offset

    @property
    def last_stable_offset(self) -> int:
        """The first offset whose transaction is undecided (KIP-98), or the high watermark."""
        return min(
            (state.open_since for state in self._producers.values() if state.open_since >= 0),
            default=self.end_offset,
        )

    @property
    def size_bytes(self) -> int:
        first = self._first_batch()
        return self._segment.size - self._starts[first] if first < len(self._starts) else 0

    def has_open(self, producer_id: int) -> bool:
        """Whether this producer has a transaction here that no marker has ended."""
        state = self._producers.get(producer_id)
        return state is not None and state.open_since >= 0

    def aborted_in(self, start: int, end: int) -> list[AbortedTransaction]:
        """Aborted transactions with records in [start, end), as a read_committed reader must know them."""
        return [each for each in self._aborted if each.last_offset >= start and each.first_offset < end]

    # ------------------------------------------------------------------ appending
    def append(self, data: bytes, now_ms: int) -> Appended:
        """Check and store one produced batch. Raises RequestRefused; OSError when the medium fails (nothing is stored)."""
        header = batches.check_produced(data)
        if len(data) > self.max_batch_bytes:
            raise RequestRefused(
                Code.MESSAGE_TOO_LARGE,
                f"a batch of {len(data)} bytes for {self.name}, whose max.message.bytes is {self.max_batch_bytes}",
            )
        if header.producer_id >= 0 and (duplicate := self._check_sequence(header)) is not None:
            return Appended(duplicate.base_offset, duplicate.timestamp if self.log_append_time else -1, True)
        time = now_ms if self.log_append_time else None
        placed = batches.place(data, header, self.end_offset, self.leader_epoch, time)
        base_offset = self._store(placed)
        return Appended(base_offset, -1 if time is None else time)

    def append_marker(self, producer_id: int, producer_epoch: int, commit: bool, now_ms: int) -> int:
        """End a producer's transaction here: a control batch, as EndTxn makes the leader write it (KIP-98)."""
        marker = batches.control_batch(producer_id, producer_epoch, commit, now_ms)
        return self._store(
            batches.place(marker, batches.read_header(marker), self.end_offset, self.leader_epoch, None)
        )

    def _store(self, placed: bytes) -> int:
        position = self._segment.size
        self._segment.append(placed)
        header = batches.read_header(placed)
        self._learn(header, position, placed)
        self._retain()
        self.wake()
        return header.base_offset

    def _learn(self, header: BatchHeader, position: int, data: bytes) -> None:
        """Enter one stored batch into the index and the producers' states; the same on append and on recovery."""
        self._bases.append(header.base_offset)
        self._lasts.append(header.last_offset)
        self._starts.append(position)
        self._ends.append(position + header.size_bytes)
        self._max_times.append(header.max_timestamp)
        self.end_offset = header.last_offset + 1
        epoch = header.partition_leader_epoch
        if not self._epochs or epoch > self._epochs[-1][0]:
            self._epochs.append((epoch, header.base_offset))
        if header.producer_id >= 0:
            self._learn_producer(header, data)

    def _learn_producer(self, header: BatchHeader, data: bytes) -> None:
        state = self._producers.get(header.producer_id)
        if state is None or header.producer_epoch > state.epoch:
            open_since = -1 if state is None else state.open_since
            state = self._producers[header.producer_id] = ProducerState(
                header.producer_epoch, open_since=open_since
            )
        if header.is_control:
            if state.open_since >= 0 and not batches.is_commit_marker(data):
                self._aborted.append(
                    AbortedTransaction(header.producer_id, state.open_since, header.base_offset)
                )
            state.open_since = -1
            return
        last_sequence = (header.base_sequence + header.record_count - 1) & MAX_SEQUENCE
        state.sent.append(
            SentBatch(header.base_sequence, last_sequence, header.base_offset, header.max_timestamp)
        )
        if header.is_transactional and state.open_since < 0:
            state.open_since = header.base_offset

    def _check_sequence(self, header: BatchHeader) -> SentBatch | None:
        """The earlier batch that this one repeats, or None if it is the next one (KIP-98, KIP-360)."""
        state = self._producers.get(header.producer_id)
        if state is None:
            return None  # nothing known: the first batch may carry any sequence, as after retention
        where = f"producer {header.producer_id} on {self.name}"
        if header.producer_epoch < state.epoch:
            raise RequestRefused(
                Code.INVALID_PRODUCER_EPOCH,
                f"{where}: epoch {header.producer_epoch}, the log knows {state.epoch}",
            )
        if header.producer_epoch > state.epoch:
            if header.base_sequence != 0:
                raise RequestRefused(
                    Code.OUT_OF_ORDER_SEQUENCE_NUMBER,
                    f"{where}: a new epoch starts with sequence {header.base_sequence} instead of 0",
                )
            return None
        last_sequence = (header.base_sequence + header.record_count - 1) & MAX_SEQUENCE
        for sent in state.sent:
            if sent.first_sequence == header.base_sequence and sent.last_sequence == last_sequence:
                return sent
        if state.sent:
            expected = (state.sent[-1].last_sequence + 1) & MAX_SEQUENCE
            if header.base_sequence != expected:
                raise RequestRefused(
                    Code.OUT_OF_ORDER_SEQUENCE_NUMBER,
                    f"{where}: sequence {header.base_sequence}, expected {expected}",
                )
        return None

    def wake(self) -> None:
        for watcher in tuple(self.watchers):
            watcher()

    # ------------------------------------------------------------------ reading
    def read(self, offset: int, max_bytes: int, before: int, at_least_one: bool) -> bytes:
        """Whole batches from the one that holds `offset`, up to max_bytes and to offset `before`.

        The first batch may be larger than max_bytes if at_least_one, so that a reader always gets on (KIP-74).
        Raises RequestRefused (OFFSET_OUT_OF_RANGE).
        """
        if not self.start_offset <= offset <= self.end_offset:
            raise RequestRefused(
                Code.OFFSET_OUT_OF_RANGE,
                f"offset {offset} of {self.name}, which holds {self.start_offset} to {self.end_offset}",
            )
        first = bisect_left(self._lasts, offset)
        limit = bisect_left(self._bases, before)
        if first >= limit:
            return b""
        start = self._starts[first]
        end = bisect_right(self._ends, start + max(max_bytes, 0), first, limit)
        if end == first:
            if not at_least_one:
                return b""
            end = first + 1
        return self._segment.read(start, self._ends[end - 1] - start)

    def available_bytes(self, offset: int, before: int) -> int:
        """How many bytes read() could give at most: what a long poll's min_bytes is compared with."""
        first = bisect_left(self._lasts, offset)
        limit = bisect_left(self._bases, before)
        return self._ends[limit - 1] - self._starts[first] if first < limit else 0

    def offset_for_time(self, timestamp_ms: int, before: int) -> tuple[int, int] | None:
        """(offset, timestamp) of the first record not older than timestamp_ms, looking inside batches (KIP-79)."""
        for index in range(self._first_batch(), bisect_left(self._bases, before)):
            if self._max_times[index] < timestamp_ms:
                continue
            for offset, time in self._times_of(index):
                if time >= timestamp_ms and offset >= self.start_offset:
                    return (offset, time) if offset < before else None
        return None

    def offset_of_max_time(self) -> tuple[int, int] | None:
        """(offset, timestamp) of the first record with the greatest timestamp (KIP-734)."""
        first = self._first_batch()
        rows = range(first, len(self._bases))
        if rows and self._bases[first] < self.start_offset:
            # Part of this batch was deleted, perhaps the part that its maximum tells of: look inside.
            kept = [each for each in self._times_of(first) if each[0] >= self.start_offset]
            partial = max(kept, key=lambda each: each[1], default=None)
            rows = range(first + 1, len(self._bases))
        else:
            partial = None
        best = max(rows, key=lambda index: self._max_times[index], default=None)
        if best is None or (partial is not None and partial[1] >= self._max_times[best]):
            return partial
        greatest = self._max_times[best]
        if greatest < 0:
            return None  # the producers gave no times at all
        return next(
            (each for each in self._times_of(best) if each[1] == greatest), (self._lasts[best], greatest)
        )

    def _times_of(self, index: int) -> list[tuple[int, int]]:
        data = self._segment.read(self._starts[index], self._ends[index] - self._starts[index])
        try:
            return list(batches.record_times(data))
        except (batches.CodecMissing, ValueError):
            # A batch nobody here can look into: its first offset is early, never late, which a reader by time
            # can live with. The broker stored these bytes unread, as Kafka does for the codecs it trusts.
            return [(self._bases[index], self._max_times[index])]

    # ------------------------------------------------------------------ epochs
    def end_of_epoch(self, leader_epoch: int) -> tuple[int, int]:
        """(epoch, end offset) of the largest epoch not above the asked one; (-1, -1) above the leader's own (KIP-320).

        Of epochs before the log's first, of which nothing is left, it is only known that they ended before that one began.
        Source: Kafka's LeaderEpochFileCache.endOffsetFor.
        """
        if leader_epoch == self.leader_epoch:
            return leader_epoch, self.end_offset
        if leader_epoch < 0 or leader_epoch > self.leader_epoch:
            return -1, -1
        if not self._epochs or leader_epoch < self._epochs[0][0]:
            return leader_epoch, self._epochs[0][1] if self._epochs else self.start_offset
        index = bisect_right(self._epochs, (leader_epoch, 2**63)) - 1
        end = self._epochs[index + 1][1] if index + 1 < len(self._epochs) else self.end_offset
        return self._epochs[index][0], end

    def elect(self, end_offset: int | None = None) -> int:
        """The same node leads in a new epoch, which is returned, as if another replica had been elected. With `end_offset` uncleanly:
        its log lacks the batches that reach beyond that offset."""
        if end_offset is not None:
            self._cut(end_offset)
        self.leader_epoch += 1
        while self._epochs and self._epochs[-1][1] >= self.end_offset:
            self._epochs.pop()  # of which no record is left
        self._epochs.append((self.leader_epoch, self.end_offset))
        self.wake()
        return self.leader_epoch

    def _cut(self, end_offset: int) -> None:
        kept = bisect_left(self._lasts, end_offset)
        if kept == len(self._lasts):
            return
        self._segment.truncate(self._starts[kept])
        for column in (self._bases, self._lasts, self._starts, self._ends, self._max_times):
            del column[kept:]
        self.end_offset = max(self._lasts[-1] + 1 if self._lasts else 0, self.start_offset)
        self._aborted = [each for each in self._aborted if each.last_offset < self.end_offset]
        for state in self._producers.values():
            state.sent = deque(
                (sent for sent in state.sent if sent.base_offset < self.end_offset), REMEMBERED_BATCHES
            )
            if state.open_since >= self.end_offset:
                state.open_since = -1

    # ------------------------------------------------------------------ dropping
    def delete_before(self, offset: int) -> None:
        """DeleteRecords: nothing below `offset` is there any more. Raises RequestRefused beyond the end."""
        if not 0 <= offset <= self.end_offset:
            raise RequestRefused(
                Code.OFFSET_OUT_OF_RANGE, f"offset {offset}, {self.name} ends at {self.end_offset}"
            )
        self.start_offset = max(self.start_offset, offset)
        first = self._first_batch()
        self._segment.forget(self._starts[first] if first < len(self._starts) else self._segment.size)
        self._aborted = [each for each in self._aborted if each.last_offset >= self.start_offset]

    def _retain(self) -> None:
        """retention.bytes, batch by batch; the newest batch always stays."""
        if self.retention_bytes < 0 or self.size_bytes <= self.retention_bytes:
            return
        keep_from = bisect_left(self._starts, self._segment.size - self.retention_bytes)
        self.delete_before(self._bases[min(keep_from, len(self._bases) - 1)])

    def _first_batch(self) -> int:
        return bisect_left(self._lasts, self.start_offset)

    # ------------------------------------------------------------------ the segment's life
    def recover(self) -> int:
        """Read the segment from its start, check every batch, cut what does not make sense off its end.

        Returns how many bytes were cut. A batch half written when the process was killed was never acknowledged.
        """
        position, window, window_start = self._segment.start, b"", 0
        total = self._segment.size
        self.end_offset = 0
        while position < total:
            if position + batches.HEADER_BYTES > window_start + len(window):
                window, window_start = self._segment.read(position, RECOVERY_CHUNK_BYTES), position
            try:
                header = batches.read_header(window, position - window_start)
            except struct.error:
                break
            size = header.size_bytes
            if header.magic != 2 or size < batches.HEADER_BYTES or position + size > total:
                break
            if header.base_offset < self.end_offset or header.last_offset_delta < 0:
                break
            if position + size > window_start + len(window):
                window, window_start = self._segment.read(position, max(size, RECOVERY_CHUNK_BYTES)), position
            data = window[position - window_start : position - window_start + size]
            if not batches.crc_matches(data, header):
                break
            self._learn(header, position, data)
            position += size
        if position < total:
            self._segment.truncate(position)
        self.leader_epoch = max(self.leader_epoch, self._epochs[-1][0] if self._epochs else 0)
        if self._bases:
            self.start_offset = max(self.start_offset, self._bases[0])
        self.end_offset = max(self.end_offset, self.start_offset)
        self._retain()
        self._aborted = [each for each in self._aborted if each.last_offset >= self.start_offset]
        return total - position

    def close(self) -> None:
        self._segment.close()

    def delete(self) -> None:
        self.deleted = True
        self._segment.delete()
        self.wake()

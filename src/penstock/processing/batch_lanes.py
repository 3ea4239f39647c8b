"""Batches for handlers: as many records as a batch holds, or what came within a time. Pure: the clock is given."""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Iterable
from typing import Any, NamedTuple

from .._native import ConsumerRecords
from .lanes import Lane, Ownership
from .work import Parcel, Span, Work


class _Run(NamedTuple):
    """Records of one partition that wait, in log order."""

    partition: Ownership
    records: ConsumerRecords
    next_offset: int
    parcel: Parcel


class _Shard:
    """Runs whose batches are formed together. `out`: batches that are with the handler, resting, or being put away."""

    __slots__ = ("aged", "count", "offered", "oldest_ms", "out", "runs")

    def __init__(self) -> None:
        self.runs: deque[_Run] = deque()
        self.count = 0
        self.oldest_ms = 0.0
        self.aged = False  # what waits has waited long enough
        self.offered = False  # whether it stands among the lane's offers
        self.out = 0


class BatchLane(Lane):
    """Runs of records. `order`: 'partition' or 'key', one batch of a partition at a time; None: of all partitions, any number at once.
    `alone`: of all partitions, one at a time: for a sink, whose offsets would pass a batch that rests until its retry is due, if another
    overtook it.

    A batch is formed when `batch` records wait, or when one has waited for `within_ms`.
    """

    def __init__(
        self, name: str, order: str | None, *, batch: int, within_ms: float, alone: bool = False, **rest: Any
    ) -> None:
        super().__init__(name, **rest)
        self._in_turn = alone or order is not None  # a shard's batches
        self._batch = batch
        self._within_ms = within_ms
        self._apart = order is not None
        self._shared = _Shard()
        self._shards: dict[Ownership, _Shard] = {}
        self._offers: deque[_Shard] = deque()
        self._retries: deque[Work] = deque()
        self._ages: list[tuple[float, int, _Shard]] = []

    @property
    def waiting(self) -> int:
        return len(self._retries) + len(self._offers)

    # ------------------------------------------------------------ in

    def add(self, partition: Ownership, records: ConsumerRecords, next_offset: int) -> int:
        partition.note_epochs(records)
        shard = self._shards.setdefault(partition, _Shard()) if self._apart else self._shared
        runs = _undone(partition, records, next_offset) if partition.has_history else [(records, next_offset)]
        parcel = Parcel(0, records.size_bytes())
        if not shard.count and runs:
            self._ages_from_now(shard)
        for run, after in runs:
            shard.runs.append(_Run(partition, run, after, parcel))
            parcel.records += len(run)
        if not runs and not partition.held:
            partition.read_to(next_offset)
        count = parcel.records
        shard.count += count
        partition.held += count
        if count:
            self._load.took(count, parcel.bytes)
        self._offer(shard)
        return count

    def _ages_from_now(self, shard: _Shard) -> None:
        shard.aged = self._within_ms <= 0
        if not shard.aged:
            shard.oldest_ms = self._clock_ms()
            due_ms = shard.oldest_ms + self._within_ms
            heapq.heappush(self._ages, (due_ms, next(self._order), shard))
            self._host.waits_until(due_ms)

    def _offer(self, shard: _Shard) -> None:
        takeable = shard.count >= self._batch or (shard.aged and shard.count)
        if takeable and not shard.offered and not (self._in_turn and shard.out):
            shard.offered = True
            self._offers.append(shard)

    def hurry(self) -> None:
        for shard in [*self._shards.values(), self._shared]:
            if shard.count:
                shard.aged = True
                self._offer(shard)

    def due(self, now_ms: float) -> bool:
        ages = self._ages
        while ages and ages[0][0] <= now_ms:
            shard = heapq.heappop(ages)[2]
            if shard.count and shard.oldest_ms + self._within_ms <= now_ms:
                shard.aged = True
                self._offer(shard)
        if ages:
            self._host.waits_until(ages[0][0])
        return super().due(now_ms)

    # ------------------------------------------------------------ out

    def _next(self) -> Work | None:
        if self._retries:
            return self._retries.popleft()
        if not self._offers:
            return None
        shard = self._offers.popleft()
        shard.offered = False
        work = self._form(shard)
        shard.out += 1
        if not self._in_turn:
            self._offer(shard)
        return work

    def _form(self, shard: _Shard) -> Work:
        parts: list[ConsumerRecords] = []
        spans: list[Span] = []
        room = self._batch
        while room and shard.runs:
            run = shard.runs.popleft()
            records, after = run.records, run.next_offset
            if len(records) > room:
                rest = records[room:]
                records, after = records[:room], rest[0].offset
                shard.runs.appendleft(_Run(run.partition, rest, run.next_offset, run.parcel))
            first = records[0].offset
            run.partition.added(first, after)
            parts.append(records)
            spans.append(Span(run.partition, first, after, len(records), run.parcel))
            room -= len(records)
        shard.count -= self._batch - room
        if shard.count:
            self._ages_from_now(shard)
        payload = parts[0] if len(parts) == 1 else ConsumerRecords.concat(parts)
        return Work(payload, spans[0].partition, shard, spans[0].parcel, tuple(spans))

    def _again(self, work: Work) -> None:
        self._retries.append(work)

    def _settle(self, work: Work) -> None:
        if work.rest:
            work.payload = work.rest.pop()  # before looking at what is gone: the part before is done
            if not self._gone(work):
                self._again(work)
            return
        for span in work.spans:
            partition: Ownership = span.partition  # type: ignore[assignment]
            if not partition.fenced:
                partition.done(span.offset)
                self.done_records += span.records
            self._give_back(partition, span.parcel, span.records)
        self._out(work)

    def _out(self, work: Work) -> None:
        shard: _Shard = work.key  # type: ignore[assignment]
        work.spans = ()
        shard.out -= 1
        self._offer(shard)

    def _gone(self, work: Work) -> bool:
        kept = tuple(span for span in work.spans if not _is_gone(span.partition))
        if len(kept) == len(work.spans):
            return not kept
        for span in work.spans:
            if _is_gone(span.partition):
                self._give_back(span.partition, span.parcel, span.records)  # type: ignore[arg-type]
        work.spans = kept
        if kept:
            self._keep(work, {span.partition.topic_partition for span in kept})
        if not kept or not len(work.payload):  # type: ignore[arg-type]
            if kept:  # what is left of it was done before the cut
                self._settle(work)
            else:
                self._out(work)
            return True
        work.partition = kept[0].partition
        return False

    @staticmethod
    def _keep(work: Work, partitions: set[Any]) -> None:
        """Only the records of these, in the part at hand and in those to come."""
        payload: ConsumerRecords = work.payload  # type: ignore[assignment]
        parts = [payload, *reversed(work.rest or ())]
        trimmed = []
        for part in parts:
            if partitions.issuperset(part.partitions):
                trimmed.append(part)
                continue
            runs = [part.records(tp) for tp in part.partitions if tp in partitions]
            if runs:
                trimmed.append(runs[0] if len(runs) == 1 else ConsumerRecords.concat(runs))
        work.payload = trimmed[0] if trimmed else payload[:0]
        work.rest = list(reversed(trimmed[1:])) or None

    # ------------------------------------------------------------ partitions that go

    def withdraw(self, partitions: Iterable[Ownership]) -> None:
        gone = set(partitions)
        for partition in gone:
            partition.withdrawn = True
        if self._apart:
            for shard in [self._shards.pop(partition) for partition in gone if partition in self._shards]:
                self._drop(shard, gone)
        else:
            self._drop(self._shared, gone)
        retries, self._retries = self._retries, deque()
        self._retries.extend(work for work in retries if not self._gone(work))
        rest, self._rest = self._rest, []
        self._rest.extend(entry for entry in rest if not self._gone(entry[2]))
        heapq.heapify(self._rest)
        self.resting = len(self._rest)

    def _drop(self, shard: _Shard, gone: set[Ownership]) -> None:
        kept: deque[_Run] = deque()
        for run in shard.runs:
            if run.partition in gone:
                shard.count -= len(run.records)
                self._give_back(run.partition, run.parcel, len(run.records))
            else:
                kept.append(run)
        shard.runs = kept
        if not shard.count and shard.offered:
            shard.offered = False
            self._offers.remove(shard)

    def running_of(self, partitions: Iterable[Ownership]) -> frozenset[Work]:
        wanted = set(partitions)
        return frozenset(
            work for work in self.running if any(span.partition in wanted for span in work.spans)
        )


def _is_gone(partition: object) -> bool:
    return partition.withdrawn or partition.fenced  # type: ignore[attr-defined, no-any-return]


def _undone(
    partition: Ownership, records: ConsumerRecords, next_offset: int
) -> list[tuple[ConsumerRecords, int]]:
    """The runs between the records that were done before this partition was assigned."""
    runs: list[tuple[ConsumerRecords, int]] = []
    start: int | None = None
    count = 0
    for count, record in enumerate(records, 1):
        offset = record.offset
        if partition.was_done(offset):
            if start is not None:
                runs.append((records[start : count - 1], offset))
                start = None
        elif start is None:
            start = count - 1
    if start is not None:
        runs.append((records[start:count], next_offset))
    return runs

"""The lanes of a processor: what a handler is given, in which order, and what becomes of it. Pure: the clock and chance are given.

A record lane hands out single records: per key (or per partition) one at a time, in log order, retries included. A batch lane hands
out runs of records. Both keep to the same rule: what was taken in is in exactly one of waiting, running, resting until a retry is due,
being put away (dead letter, retry topic, outputs), done, or dropped with its partition; and only what is done moves the commit.

All calls are made in one thread, the event loop's.
"""

from __future__ import annotations

import heapq
import itertools
import logging
import math
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any, Protocol

from .._native import ConsumerRecord, ConsumerRecords
from ..errors import DeduplicationError, HandlerStoppedError
from ..types import OffsetAndMetadata, TopicPartition
from .breaker import CircuitBreaker
from .failure import WHILE_AWAY, FailurePolicy, NotNow, RetryAt, SkipIt, StopIt, ToDeadLetter, ToRetryTopic
from .finished import Ranges
from .progress import PartitionProgress
from .work import Duplicates, Parcel, Work

_log = logging.getLogger("penstock.processing")

Chain = deque[Work] | None
"""What waits for the work of its key that is out; None while nothing waits."""


_FIRST_RECORDS = 100
"""How many are polled while it is not known how large they are."""


class Load:
    """How much a processor holds that is not done. Written by the lanes; `limit`s are the runtime's.

    `on_relief` is called once when the load falls to half of both limits after `pressed` was set.
    """

    __slots__ = ("bytes", "limit_bytes", "limit_records", "on_relief", "pressed", "record_bytes", "records")

    def __init__(self, limit_records: int, limit_bytes: int, on_relief: Callable[[], None]) -> None:
        self.limit_records = limit_records
        self.limit_bytes = limit_bytes
        self.on_relief = on_relief
        self.records = 0
        self.bytes = 0
        self.record_bytes = limit_bytes / _FIRST_RECORDS  # about what one takes: of those that came last
        self.pressed = False

    @property
    def full(self) -> bool:
        return self.records >= self.limit_records or self.bytes >= self.limit_bytes

    @property
    def room(self) -> int:
        """How many records may come until it is full; 1 where it is."""
        by_bytes = (self.limit_bytes - self.bytes) / self.record_bytes
        return max(1, int(min(self.limit_records - self.records, by_bytes)))

    def took(self, records: int, size_bytes: int) -> None:
        """So much more is held."""
        self.records += records
        self.bytes += size_bytes
        self.record_bytes = max(1.0, size_bytes / records)

    def relieve(self) -> None:
        """Called while pressed, after something went."""
        if self.records * 2 <= self.limit_records and self.bytes * 2 <= self.limit_bytes:
            self.pressed = False
            self.on_relief()


class Ownership(PartitionProgress):
    """A partition as its lane has it. `low_water` is the runtime's: from that many held on down, it is told; -1: never.

    Life: owned; `withdrawn`, when its revocation has begun: no handler is started, what runs may still end and count; `fenced`: nothing
    counts any more.
    """

    __slots__ = ("chains", "has_resting", "held", "low_water", "outputs", "rewinds", "withdrawn")

    def __init__(
        self,
        tp: TopicPartition,
        committed: OffsetAndMetadata | None,
        number: int = 0,
        also_done: Ranges | None = None,
    ) -> None:
        super().__init__(tp, committed, number, also_done)
        self.chains: dict[object, Chain] = {}
        self.held = 0  # records that were taken in and are not done
        self.low_water = -1
        self.withdrawn = False
        self.rewinds = False  # the log went back, and so does its first commit
        self.has_resting = False
        self.outputs: dict[int, Any] = {}  # by offset: what a handler returned and a transaction is to write

    def retried(self, offset: int, attempts: int, due_ms: float) -> None:
        """A record rests until another attempt: for whoever keeps that beyond this process."""

    def resting(self, offset: int) -> tuple[float, int] | None:
        """Of a record that rested when a process before this one ended: when it is due (the clock's ms), and how many attempts there were.
        Asked while `has_resting`."""

    def note_epochs(self, records: ConsumerRecords) -> None:
        """Where the leader epoch changes in this run."""
        first, last = records[0], records[-1]
        self.has_epoch(first.offset, first.leader_epoch)
        if last.leader_epoch != first.leader_epoch:
            for record in records:
                self.has_epoch(record.offset, record.leader_epoch)


class LaneHost(Protocol):
    """What a lane asks for. Each of the first three ends in `lane.settled(work)`, or in the end of the processor."""

    def put_away(self, lane: Lane, work: Work, topic: str, error: BaseException) -> None:
        """Store the record in this dead-letter topic."""

    def put_off(self, lane: Lane, work: Work, topic: str, due_ms: float, error: BaseException) -> None:
        """Store the record in this retry topic."""

    def deliver(self, lane: Lane, work: Work, result: Any) -> None:
        """Write what the handler returned."""

    def stop_for(self, error: Exception) -> None:
        """End the processor: this record cannot be done, and nothing may be committed past it."""

    def relieved(self, partition: Ownership) -> None:
        """The partition holds no more than its low water."""

    def waits_until(self, due_ms: float) -> None:
        """Call `lane.due(now_ms)` then."""


class Lane:
    """What both kinds share: who runs, what rests, what a failure leads to."""

    def __init__(
        self,
        name: str,
        *,
        concurrency: int,
        timeout_s: float | None,
        policy: FailurePolicy,
        breaker: CircuitBreaker | None,
        load: Load,
        host: LaneHost,
        clock_ms: Callable[[], float],
        chance: Callable[[], float],
    ) -> None:
        self.name = name
        self.concurrency = concurrency
        self.timeout_s = timeout_s
        self.delivers = False  # whether results are written: set by the runtime
        self.retry_topics: frozenset[str] = frozenset(policy.retry_topics)
        self.running: set[Work] = set()
        self.resting = 0  # works that wait for a retry to be due
        self.aside = 0  # works that are being put away or delivered
        self.ended_calls = 0  # counters, for measurements
        self.done_records = 0
        self.failed_calls = 0
        self.retried = 0
        self.dead_lettered = 0
        self.skipped = 0
        self.duplicates = 0  # records whose effects were done already
        self.postponed = (
            0  # calls that were not made, since another was at it, or the de-duplication store was away
        )
        self._policy = policy
        self._breaker = breaker
        self._load = load
        self._host = host
        self._clock_ms = clock_ms
        self._chance = chance
        self._rest: list[
            tuple[float, int, Work]
        ] = []  # a heap; works whose partitions are fenced are left in it
        self._order = itertools.count()

    # ------------------------------------------------------------ the executor's side

    @property
    def waiting(self) -> int:
        raise NotImplementedError

    def take(self) -> Work | None:
        if len(self.running) >= self.concurrency:
            return None
        breaker = self._breaker
        if breaker is not None and self.waiting and not breaker.may_run(self._clock_ms()):
            self._host.waits_until(breaker.next_try_ms)
            return None
        work = self._next()
        if work is not None:
            self.running.add(work)
        return work

    def finished(self, work: Work, result: Any) -> None:
        self.running.discard(work)
        self.ended_calls += 1
        if isinstance(result, Duplicates):
            self.duplicates += result.records
            if not result.called:
                self._settle(work)
                return
            result = None
        if self._breaker is not None and self._breaker.state != "closed":
            self._breaker.succeeded(self._clock_ms())
            self._host.waits_until(self._clock_ms())  # others may run again as well
        if result is not None and self.delivers and not work.partition.fenced:
            self.aside += 1
            self._host.deliver(self, work, result)
        else:
            self._settle(work)

    def failed(self, work: Work, error: BaseException) -> None:
        """What the policy says of it."""
        self.running.discard(work)
        self.ended_calls += 1
        if isinstance(error, (NotNow, DeduplicationError)):
            self._not_called(work, error)
            return
        self.failed_calls += 1
        given = work.payload
        if self._gone(work):
            return
        if work.payload is not given:
            # What has gone of the batch may have been the cause: the rest was not tried by itself.
            self._again(work)
            return
        now_ms = self._clock_ms()
        breaker = self._breaker
        if breaker is not None and breaker.failed(
            error, now_ms
        ):  # the dependency's failure, not the record's
            work.error = error
            self._rest_until(work, max(now_ms, breaker.next_try_ms))
            return
        work.attempts += 1
        if work.attempts == 1:
            work.first_failed_ms = now_ms
        if isinstance(work.payload, ConsumerRecords) and self._cut(work, error, now_ms):
            return
        self._act(work, error, self._policy.decide(error, work.attempts, now_ms, self._chance()))

    def broken(self, error: Exception) -> None:
        self._host.stop_for(error)

    def released(self, work: Work) -> None:
        self.running.discard(work)
        if not self._gone(work):
            self._again(work)

    # ------------------------------------------------------------ failures

    def _not_called(self, work: Work, error: Exception) -> None:
        """Nothing was tried, so nothing counts as an attempt, and nothing is known of what the breaker watches."""
        if self._gone(work):
            return
        work.error = error
        if isinstance(error, DeduplicationError) and not error.retriable:
            self._stop(work, error)
            return
        self.postponed += 1
        work.postponed += 1
        delay_ms = WHILE_AWAY.delay_ms(work.postponed, self._chance())
        _log.debug("%s is not handled now, but in %.1f s: %s", self.where(work), delay_ms / 1000, error)
        self._rest_until(work, self._clock_ms() + delay_ms)

    def _act(self, work: Work, error: BaseException, decision: object) -> None:
        match decision:
            case RetryAt(due_ms):
                self.retried += 1
                work.error = error
                _log.info(
                    "%s failed, attempt %d; again in %.1f s: %r",
                    self.where(work),
                    work.attempts,
                    max(0.0, due_ms - self._clock_ms()) / 1000,
                    error,
                )
                if not work.spans:
                    partition: Ownership = work.partition  # type: ignore[assignment]
                    partition.retried(first_record(work).offset, work.attempts, due_ms)
                self._rest_until(work, due_ms)
            case ToDeadLetter(topic):
                self.dead_lettered += 1
                self.aside += 1
                _log.warning(
                    "%s goes to %s after %d attempts: %r", self.where(work), topic, work.attempts, error
                )
                self._host.put_away(self, work, topic, error)
            case ToRetryTopic(topic, due_ms):
                self.retried += 1
                self.aside += 1
                _log.info(
                    "%s goes to %s after %d attempts: %r", self.where(work), topic, work.attempts, error
                )
                self._host.put_off(self, work, topic, due_ms, error)
            case SkipIt():
                self.skipped += 1
                _log.warning("%s is skipped: %r", self.where(work), error)
                self._settle(work)
            case StopIt():
                self._stop(work, error)
            case _:
                raise TypeError(f"no decision of a policy: {decision!r}")

    def _stop(self, work: Work, error: BaseException) -> None:
        record = first_record(work)
        message = (
            f"{self.where(work)}: the handler failed {work.attempts} times, lastly with {error!r}, and its policy is to stop; nothing is "
            "committed past it. Mend the cause and start again, or give the handler dead_letter='…' or on_error={…: 'skip'}"
        )
        if isinstance(error, DeduplicationError):
            message = (
                f"{self.where(work)}: {error}. Nothing is committed past it; mend the cause and start again"
            )
        stopped = HandlerStoppedError(message, record.topic, record.partition, record.offset)
        stopped.__cause__ = error
        self._rest_until(work, math.inf)  # not done, and not to be run again
        self._host.stop_for(stopped)

    def withdraw(self, partitions: Iterable[Ownership]) -> None:
        """Start nothing more of these: what waits, or rests, is dropped; what runs goes on, and counts until they are fenced."""
        raise NotImplementedError

    def running_of(self, partitions: Iterable[Ownership]) -> frozenset[Work]:
        """What handlers are at."""
        raise NotImplementedError

    def add(self, partition: Ownership, records: ConsumerRecords, next_offset: int) -> int:
        """Take in what poll() returned of one partition, in log order; how many are new. `next_offset`: the position after them."""
        raise NotImplementedError

    def hurry(self) -> None:
        """Hand out what waits for more to come: nothing will, before something is done."""

    def where(self, work: Work) -> str:
        """What a message calls a work."""
        record = first_record(work)
        place = f"{record.topic}-{record.partition} offset {record.offset}"
        if isinstance(work.payload, ConsumerRecords):
            place = f"a batch of {len(work.payload)} from {place} on"
        return f"{self.name}: {place}"

    def _cut(self, work: Work, error: BaseException, now_ms: float) -> bool:
        """A batch that failed for good is cut in two, so that in the end only the record that fails is put away."""
        payload = work.payload
        assert isinstance(payload, ConsumerRecords)
        decision = self._policy.decide(error, work.attempts, now_ms, self._chance())
        if len(payload) < 2 or not isinstance(decision, (ToDeadLetter, ToRetryTopic, SkipIt)):
            self._act(work, error, decision)
            return True
        half = len(payload) // 2
        if work.rest is None:
            work.rest = []
        work.rest.append(payload[half:])
        work.payload = payload[:half]
        work.attempts = max(0, work.attempts - 1)  # each half has one more try before it is cut again
        self._again(work)
        return True

    # ------------------------------------------------------------ resting

    def _rest_until(self, work: Work, due_ms: float) -> None:
        self.resting += 1
        heapq.heappush(self._rest, (due_ms, next(self._order), work))
        self._host.waits_until(due_ms)

    def due(self, now_ms: float) -> bool:
        """Take up what is due; whether there is anything to run. Asks to be called again."""
        rest = self._rest
        while rest and rest[0][0] <= now_ms:
            work = heapq.heappop(rest)[2]
            self.resting -= 1
            if not self._gone(work):
                self._again(work)
        if rest:
            self._host.waits_until(rest[0][0])
        return self.waiting > 0

    # ------------------------------------------------------------ what a kind of lane does

    def _next(self) -> Work | None:
        raise NotImplementedError

    def _again(self, work: Work) -> None:
        """Run it before anything else of its order."""
        raise NotImplementedError

    def _settle(self, work: Work) -> None:
        """It is done."""
        raise NotImplementedError

    def _gone(self, work: Work) -> bool:
        """Whether it may not be run again, since its partition is another's, or is to be; its memory is given back then."""
        raise NotImplementedError

    def settled(self, work: Work) -> None:
        """The host has put it away, or delivered it."""
        self.aside -= 1
        self._settle(work)

    def not_settled(self, work: Work) -> None:
        """The host could not, and the work is to be run again."""
        self.aside -= 1
        if not self._gone(work):
            self._again(work)

    def _give_back(self, partition: Ownership, parcel: Parcel, records: int) -> None:
        load = self._load
        load.records -= records
        parcel.records -= records
        if parcel.records == 0:
            load.bytes -= parcel.bytes
        if load.pressed:
            load.relieve()
        partition.held -= records
        if partition.held <= partition.low_water:
            partition.low_water = -1
            self._host.relieved(partition)


class RecordLane(Lane):
    """Single records. `order`: 'key' (records without a key have no order among them), 'partition', or None."""

    def __init__(self, name: str, order: str | None, **rest: Any) -> None:
        super().__init__(name, **rest)
        self._by_key = order == "key"
        self._by_partition = order == "partition"
        self.later: Callable[[ConsumerRecord], tuple[float, int]] | None = None
        """Of a record of a retry topic: when it is due (the clock's ms), and how many attempts there were; set by the runtime."""
        self._ready: deque[Work] = deque()

    @property
    def waiting(self) -> int:
        return len(self._ready)

    def add(self, partition: Ownership, records: ConsumerRecords, next_offset: int) -> int:
        partition.note_epochs(records)
        parcel = Parcel(0, records.size_bytes())
        chains, ready, added = partition.chains, self._ready, partition.added
        by_key, key = self._by_key, (True if self._by_partition else None)
        later = self._later_of(partition)
        count = 0
        for record in records:
            offset = record.offset
            if partition.has_history and partition.was_done(offset):
                continue
            added(offset, offset + 1)
            count += 1
            if by_key:
                key = record.raw_key  # type: ignore[assignment]
            work = Work(record, partition, key, parcel)
            if later is not None and (told := later(record)) is not None:
                self._add_later(work, told)
            elif key is None:
                ready.append(work)
            elif key in chains:
                chain = chains[key]
                if chain is None:
                    chains[key] = chain = deque()
                chain.append(work)
            else:
                chains[key] = None
                ready.append(work)
        partition.read_to(next_offset)
        partition.held += count
        if count:
            parcel.records = count
            self._load.took(count, parcel.bytes)
        return count

    def _later_of(self, partition: Ownership) -> Callable[[ConsumerRecord], tuple[float, int] | None] | None:
        """What says which of these records have a past; None where none has."""
        later = self.later if partition.topic_partition.topic in self.retry_topics else None
        if not partition.has_resting:
            return later
        return lambda record: (
            partition.resting(record.offset) or (later(record) if later is not None else None)
        )

    def _add_later(self, work: Work, told: tuple[float, int]) -> None:
        """It rests until it is due, and keeps its key meanwhile; behind one of its key it waits for that alone."""
        due_ms, work.attempts = told
        key, chains = work.key, work.partition.chains  # type: ignore[attr-defined]
        if key is not None:
            if key in chains:
                if chains[key] is None:
                    chains[key] = deque()
                chains[key].append(work)
                return
            chains[key] = None
        if due_ms > self._clock_ms():
            self._rest_until(work, due_ms)
        else:
            self._ready.append(work)

    def _next(self) -> Work | None:
        return self._ready.popleft() if self._ready else None

    def _again(self, work: Work) -> None:
        self._ready.appendleft(work)

    def _settle(self, work: Work) -> None:
        partition: Ownership = work.partition  # type: ignore[assignment]
        if not partition.fenced:
            partition.done(work.payload.offset)  # type: ignore[union-attr]
            self.done_records += 1
            key = work.key
            if key is not None:
                chain = partition.chains[key]
                if chain:
                    self._ready.append(chain.popleft())
                else:
                    del partition.chains[key]
        # written out, not called: this is the way of every record
        load, parcel = self._load, work.parcel
        load.records -= 1
        parcel.records -= 1
        if parcel.records == 0:
            load.bytes -= parcel.bytes
        if load.pressed:
            load.relieve()
        partition.held -= 1
        if partition.held <= partition.low_water:
            partition.low_water = -1
            self._host.relieved(partition)

    def _gone(self, work: Work) -> bool:
        partition: Ownership = work.partition  # type: ignore[assignment]
        if not (partition.withdrawn or partition.fenced):
            return False
        self._give_back(partition, work.parcel, 1)
        return True

    def withdraw(self, partitions: Iterable[Ownership]) -> None:
        gone = set(partitions)
        for partition in gone:
            partition.withdrawn = True
        dropped = [work for work in self._ready if work.partition in gone]
        self._ready = deque(work for work in self._ready if work.partition not in gone)
        for partition in gone:
            for chain in partition.chains.values():
                if chain:
                    dropped.extend(chain)
                    chain.clear()
        rest, self._rest = self._rest, []
        for entry in rest:
            if entry[2].partition in gone:
                dropped.append(entry[2])
            else:
                self._rest.append(entry)
        heapq.heapify(self._rest)
        self.resting = len(self._rest)
        for work in dropped:
            self._give_back(work.partition, work.parcel, 1)  # type: ignore[arg-type]

    def running_of(self, partitions: Iterable[Ownership]) -> frozenset[Work]:
        wanted = set(partitions)
        return frozenset(work for work in self.running if work.partition in wanted)


def first_record(work: Work) -> ConsumerRecord:
    payload = work.payload
    return payload[0] if isinstance(payload, ConsumerRecords) else payload

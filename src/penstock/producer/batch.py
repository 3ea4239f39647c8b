"""A batch of one partition on its way, and the futures of its records."""

from __future__ import annotations

import asyncio
import datetime
import logging
import threading
from collections import deque
from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Any

from .._native import BatchBuilder
from ..errors import KafkaTimeoutError
from ..types import RecordMetadata

_log = logging.getLogger("penstock.producer")

DeliveryCallback = Callable[[RecordMetadata | None, BaseException | None], object]
"""Called as callback(metadata, None) once the record is stored, or callback(None, error) once it is given up."""


@dataclass(frozen=True, slots=True)
class Stored:
    """`base_offset` is -1 where the broker did not say (acks=0, or a batch it had already); `log_append_time_ms` is -1
    where the topic keeps the record's own timestamp."""

    base_offset: int
    log_append_time_ms: int = -1


Outcome = Stored | BaseException


class ProducerBatch:
    """Records of one partition that are stored, or given up, as one.

    Until it is sealed the user's threads append to it, under the accumulator's lock; from then on it is the sender's.
    `outcome` is written once, by complete(); waiting and callbacks need no lock: each side first writes its own mark and
    then looks at the other's, so that one of the two sees both.
    """

    __slots__ = (
        "_callbacks",
        "_waiting",
        "attempts",
        "base_sequence",
        "builder",
        "count",
        "created_ms",
        "epoch",
        "fate_known",
        "last_error",
        "lost",
        "on_wire",
        "outcome",
        "partition",
        "parts",
        "producer_id",
        "reserved_bytes",
        "sealed",
        "serial",
        "size_bytes",
        "topic",
    )

    def __init__(self, topic: str, partition: int, builder: BatchBuilder, created_ms: int) -> None:
        self.topic = topic
        self.partition = partition
        self.builder = builder
        self.created_ms = created_ms
        self.serial: tuple[int, ...] = ()  # order within the partition
        self.count = 0
        self.size_bytes = 0
        self.reserved_bytes = 0  # of buffer.memory
        self.sealed = False
        self.attempts = 0
        self.last_error: BaseException | None = None
        self.on_wire = False
        self.fate_known = True  # False: an attempt had no answer, and may have been carried out
        self.lost = False  # see PartitionSequences
        self.producer_id = -1
        self.epoch = -1
        self.base_sequence = -1
        self.outcome: Outcome | None = None
        self.parts: list[tuple[int, ProducerBatch]] = []  # (first index, batch): what it was split into
        self._callbacks: deque[tuple[int, Callable[[ProducerBatch, int], object]]] = deque()
        self._waiting: deque[threading.Event] = deque()

    def __repr__(self) -> str:
        return (
            f"<batch of {self.topic}-{self.partition}: {self.count} records, sequence {self.base_sequence}>"
        )

    def build(self, *, transactional: bool = False) -> bytes:
        """The wire form with the current sequence; again at each attempt, since a new epoch changes it."""
        return self.builder.build(
            producer_id=self.producer_id,
            producer_epoch=self.epoch,
            base_sequence=self.base_sequence,
            transactional=transactional,
        )

    @property
    def decided(self) -> bool:
        """Whether there is an outcome, or there are parts that will have one."""
        return self.outcome is not None

    def locate(self, index: int) -> tuple[ProducerBatch, int]:
        """The batch that decides over the record that was added here as number `index`, and its number there."""
        batch = self
        while batch.parts:
            first, part = next(entry for entry in reversed(batch.parts) if entry[0] <= index)
            batch, index = part, index - first
        return batch, index

    def complete(self, outcome: Outcome) -> None:
        """Decide; idempotent. Callbacks run here, in the engine's thread as a rule."""
        if self.outcome is None:
            self.outcome = outcome
            self._announce()

    def split_into(self, parts: list[tuple[int, ProducerBatch]]) -> None:
        """Hand everything that waits for this batch over to those that replace it."""
        self.parts = parts
        self.outcome = Stored(-1)  # wakes who waits; locate() leads them on
        self._announce()

    def wait(self, timeout_s: float | None) -> bool:
        """Whether it was decided (or split) in time."""
        if self.outcome is not None:
            return True
        event = threading.Event()
        self._waiting.append(event)
        return self.decided or event.wait(timeout_s)

    def when_done(self, index: int, callback: Callable[[ProducerBatch, int], object]) -> None:
        """Call callback(batch, index) with the batch that decided over the record: at once if it is decided."""
        self._callbacks.append((index, callback))
        if self.outcome is not None:
            self._announce()

    def _announce(self) -> None:
        while self._waiting:
            self._waiting.popleft().set()
        while True:
            try:
                index, callback = self._callbacks.popleft()  # each entry is popped by one thread only
            except IndexError:
                return
            batch, part_index = self.locate(index)
            if batch is not self:
                batch.when_done(part_index, callback)
                continue
            try:
                callback(self, index)
            except Exception:  # a user's callback must not end the sender, nor the callbacks after it
                _log.exception("a delivery callback for %s-%d raised", self.topic, self.partition)


class DeliveryFuture:
    """What becomes of one record: a light stand-in for concurrent.futures.Future, with its methods and meanings.

    As there, `timeout` of result() and exception() is in *seconds* (or a timedelta; None: no limit), and callbacks run in
    the thread that learns of the outcome: keep them short. It can be awaited from asyncio, too. It cannot be cancelled.
    """

    __slots__ = ("_batch", "_index", "_timestamp_ms")

    def __init__(self, batch: ProducerBatch, index: int, timestamp_ms: int) -> None:
        self._batch = batch
        self._index = index
        self._timestamp_ms = timestamp_ms

    def result(self, timeout: float | datetime.timedelta | None = None) -> RecordMetadata:
        """Where the record was stored; raises what exception() returns. KafkaTimeoutError if it is still on its way."""
        outcome = self._outcome(timeout)
        if isinstance(outcome, BaseException):
            raise outcome.with_traceback(
                None
            )  # shared by the batch's records: else each raise would lengthen it
        return self._metadata(outcome)

    def exception(self, timeout: float | datetime.timedelta | None = None) -> BaseException | None:
        """Why the record was given up; None if it was stored. KafkaTimeoutError (raised) if it is still on its way."""
        outcome = self._outcome(timeout)
        return outcome if isinstance(outcome, BaseException) else None

    def done(self) -> bool:
        return self._batch.locate(self._index)[0].outcome is not None

    def running(self) -> bool:
        return not self.done()

    def cancel(self) -> bool:
        """Always False: what send() took over is sent."""
        return False

    def cancelled(self) -> bool:
        return False

    def add_done_callback(self, function: Callable[[DeliveryFuture], object]) -> None:
        """Call function(future) once the outcome is known: at once if it is."""
        self._batch.when_done(self._index, lambda batch, index: function(self))

    def __await__(self) -> Generator[Any, None, RecordMetadata]:
        loop = asyncio.get_running_loop()
        waiter: asyncio.Future[None] = loop.create_future()

        def finish() -> None:
            if not waiter.done():
                waiter.set_result(None)

        def wake(_: DeliveryFuture) -> None:
            try:
                loop.call_soon_threadsafe(finish)
            except RuntimeError:  # the loop is closed: nobody waits any more
                return

        self.add_done_callback(wake)
        yield from waiter
        return self.result()

    def __repr__(self) -> str:
        state = "done" if self.done() else "on its way"
        return f"<DeliveryFuture of a record of {self._batch.topic}-{self._batch.partition}, {state}>"

    def _outcome(self, timeout: float | datetime.timedelta | None) -> Outcome:
        timeout_s = timeout.total_seconds() if isinstance(timeout, datetime.timedelta) else timeout
        while True:
            batch, self._index = self._batch.locate(self._index)
            self._batch = batch
            if not batch.wait(timeout_s):
                raise KafkaTimeoutError(
                    f"a record of {batch.topic}-{batch.partition} is still on its way after {timeout_s} s; it may yet be "
                    "stored: delivery.timeout.ms bounds how long that is tried"
                )
            if not batch.parts:
                assert batch.outcome is not None
                return batch.outcome

    def _metadata(self, stored: Stored) -> RecordMetadata:
        return metadata_of(self._batch, self._index, self._timestamp_ms, stored)


def metadata_of(batch: ProducerBatch, index: int, timestamp_ms: int, stored: Stored) -> RecordMetadata:
    """A record's place, from its batch's."""
    offset = stored.base_offset + index if stored.base_offset >= 0 else -1
    time_ms = stored.log_append_time_ms if stored.log_append_time_ms >= 0 else timestamp_ms
    return RecordMetadata(batch.topic, batch.partition, offset, time_ms)


def failed(topic: str, partition: int, error: BaseException, timestamp_ms: int = -1) -> DeliveryFuture:
    """The future of a record that never entered a batch."""
    batch = ProducerBatch(topic, partition, BatchBuilder(), 0)
    batch.count = 1
    batch.outcome = error
    return DeliveryFuture(batch, 0, timestamp_ms)

"""Records that wait to be sent: a queue of batches per partition, and how much memory they take. No I/O, no lock, no clock.

The producer's lock is held around every call here: users' threads append, the sender takes. Times are monotonic ms.
Bounds: all batches together take at most `buffer_memory_bytes`; who wants more waits, in KafkaProducer.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from .._native import BatchBuilder
from .batch import ProducerBatch
from .partitioner import StickyPartitioner
from .sequences import PartitionSequences
from .settings import ProducerSettings

RECORD_OVERHEAD_BYTES = 32
"""More than the lengths, offset, timestamp and attributes of a record take beside key, value and headers (at most 5 + 1 +
10 + 5 + 5 + 5 + 1 bytes, if there are no headers). Source: Kafka's record format, magic 2."""
BATCH_HEADER_BYTES = 61


class PartitionQueue:
    """Batches of one partition, oldest first. `open` is the last of them while records may still be added to it."""

    __slots__ = ("batches", "not_before_ms", "on_wire", "open", "partition", "sequences", "topic")

    def __init__(self, topic: str, partition: int) -> None:
        self.topic = topic
        self.partition = partition
        self.batches: deque[ProducerBatch] = deque()
        self.open: ProducerBatch | None = None
        self.on_wire = 0  # batches sent and not answered
        self.not_before_ms = 0  # after a failure
        self.sequences = PartitionSequences()


class TopicQueues:
    """A topic's partitions. `count` is how many the metadata shows now; 0 while the topic is not known."""

    __slots__ = ("count", "name", "queues", "sticky")

    def __init__(self, name: str, sticky: StickyPartitioner) -> None:
        self.name = name
        self.count = 0
        self.queues: list[PartitionQueue] = []
        self.sticky = sticky

    def resize(self, count: int) -> None:
        """Show `count` partitions. Queues are only ever added: those of partitions that are gone may hold batches."""
        while len(self.queues) < count:
            self.queues.append(PartitionQueue(self.name, len(self.queues)))
        self.count = count


@dataclass(slots=True)
class Readiness:
    """What ready() found: queues to send from by node, when to look again (None: after the next event), and whether some
    partition waits for a leader."""

    by_node: dict[int, list[PartitionQueue]] = field(default_factory=dict)
    next_ms: int | None = None
    leaderless: bool = False

    def look_again(self, at_ms: int) -> None:
        self.next_ms = at_ms if self.next_ms is None else min(self.next_ms, at_ms)


class RecordAccumulator:
    """`active` holds the queues with batches, `incomplete` every batch without an outcome, queued or on the wire."""

    def __init__(self, settings: ProducerSettings, chance: Callable[[], float]) -> None:
        self._settings = settings
        self._chance = chance
        self._serials = itertools.count()
        self.topics: dict[str, TopicQueues] = {}
        self.active: dict[PartitionQueue, None] = {}
        self.incomplete: dict[ProducerBatch, None] = {}
        self.used_bytes = 0
        self.starved = 0  # threads that wait for memory: everything is sent without lingering
        self.flushing = 0  # flush() and close() in progress: likewise

    def topic(self, name: str) -> TopicQueues:
        found = self.topics.get(name)
        if found is None:
            found = self.topics[name] = TopicQueues(
                name, StickyPartitioner(self._settings.batch_size_bytes, self._chance)
            )
        return found

    # ------------------------------------------------------------ adding

    def has_memory_for(self, size_bytes: int) -> bool:
        return self.used_bytes + size_bytes <= self._settings.buffer_memory_bytes

    def has_room(self, batch: ProducerBatch, size_bytes: int) -> bool:
        return batch.size_bytes + size_bytes <= self._settings.batch_size_bytes

    def open_batch(self, queue: PartitionQueue, now_ms: int) -> ProducerBatch:
        """A new last batch; the one before it is sealed."""
        if queue.open is not None:
            queue.open.sealed = True
        settings = self._settings
        builder = BatchBuilder(settings.compression, settings.compression_level)
        batch = ProducerBatch(queue.topic, queue.partition, builder, now_ms)
        batch.serial = (next(self._serials),)
        batch.size_bytes = BATCH_HEADER_BYTES
        queue.batches.append(batch)
        queue.open = batch
        self.active[queue] = None
        self.incomplete[batch] = None
        return batch

    def drop_if_empty(self, queue: PartitionQueue) -> None:
        """Take the open batch away again, if its first record could not be added."""
        batch = queue.open
        if batch is not None and batch.count == 0:
            queue.open = None
            queue.batches.pop()
            self.finished(batch)
            if not queue.batches:
                del self.active[queue]

    # ------------------------------------------------------------ sending

    def ready(self, now_ms: int, leader_of: Callable[[str, int], int]) -> Readiness:
        """The partitions that have something to send now, by the node that leads them."""
        found = Readiness()
        for queue in self.active:
            when = self._when_ready_ms(queue, now_ms)
            if when is None:
                continue  # an answer that is on its way decides
            if when > now_ms:
                found.look_again(when)
                continue
            node = leader_of(queue.topic, queue.partition)
            if node < 0:
                found.leaderless = True
            else:
                found.by_node.setdefault(node, []).append(queue)
        return found

    def _when_ready_ms(self, queue: PartitionQueue, now_ms: int) -> int | None:
        head = queue.batches[0]
        if not self._may_send(queue, head):
            return None
        settings = self._settings
        full = head.sealed or head.size_bytes >= settings.batch_size_bytes
        if full or self.flushing or self.starved:
            return max(now_ms, queue.not_before_ms)
        return max(head.created_ms + settings.linger_ms, queue.not_before_ms)

    def _may_send(self, queue: PartitionQueue, head: ProducerBatch) -> bool:
        """Whether order allows to send this batch beside what is on the wire."""
        if self._settings.idempotent:
            return (
                queue.sequences.may_send_again(head)
                if head.base_sequence >= 0
                else queue.sequences.may_send_new()
            )
        return self._settings.max_in_flight > 1 or queue.on_wire == 0

    def take(self, queue: PartitionQueue, room_bytes: int) -> ProducerBatch | None:
        """The first batch, if it has at most `room_bytes`: sealed, and out of the queue."""
        head = queue.batches[0]
        if head.size_bytes > room_bytes:
            return None
        queue.batches.popleft()
        head.sealed = True
        if queue.open is head:
            queue.open = None
        if not queue.batches:
            del self.active[queue]
        return head

    def put_back(self, queue: PartitionQueue, batch: ProducerBatch, not_before_ms: int) -> None:
        """Queue a batch again, before everything that was made after it."""
        place = sum(1 for waiting in queue.batches if waiting.serial < batch.serial)
        queue.batches.insert(place, batch)
        queue.not_before_ms = max(queue.not_before_ms, not_before_ms)
        self.active[queue] = None

    def replace(self, queue: PartitionQueue, batch: ProducerBatch, parts: Iterable[ProducerBatch]) -> None:
        """Queue what a batch was split into, in its place; its memory is counted with them."""
        self.finished(batch)
        for number, part in enumerate(parts):
            part.serial = (*batch.serial, number)
            part.sealed = True
            self.incomplete[part] = None
            self.used_bytes += part.reserved_bytes
            self.put_back(queue, part, 0)

    def expired(self, now_ms: int) -> list[tuple[PartitionQueue, ProducerBatch]]:
        """Batches whose delivery.timeout.ms is over, taken out of their queues; those on the wire are told with them."""
        limit_ms = now_ms - self._settings.delivery_timeout_ms
        late = [b for b in self.incomplete if b.created_ms <= limit_ms]
        found = []
        for batch in late:
            queue = self.topics[batch.topic].queues[batch.partition]
            if not batch.on_wire:
                queue.batches.remove(batch)
                if queue.open is batch:
                    queue.open = None
                batch.sealed = True
                if not queue.batches:
                    self.active.pop(queue, None)
            found.append((queue, batch))
        return found

    def next_expiry_ms(self) -> int | None:
        """When the oldest batch's time is over; batches stand in `incomplete` about in the order they were made."""
        oldest = next(iter(self.incomplete), None)
        return None if oldest is None else oldest.created_ms + self._settings.delivery_timeout_ms

    def finished(self, batch: ProducerBatch) -> bool:
        """Take a batch off the books, and give back its memory; whether it stood there."""
        if batch not in self.incomplete:
            return False
        del self.incomplete[batch]
        self.used_bytes -= batch.reserved_bytes
        return True

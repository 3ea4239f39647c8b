"""The producer's shell: what users' threads do. Everything else is the sender's."""

from __future__ import annotations

import atexit
import concurrent.futures
import contextlib
import datetime
import logging
import random
import threading
import time
import warnings
import weakref
from collections.abc import Callable, Coroutine, Iterable, Iterator, Mapping
from os import getpid
from types import TracebackType
from typing import Any, TypeVar

from .._native import murmur2_partition
from ..config import resolve
from ..engine.client import ClusterClient, with_client_id
from ..engine.thread import EngineThread
from ..errors import ClosedError, IllegalStateError, KafkaError, KafkaTimeoutError
from ..types import (
    ConsumerGroupMetadata,
    Header,
    OffsetAndMetadata,
    PartitionInfo,
    RecordMetadata,
    TopicPartition,
)
from .accumulator import RECORD_OVERHEAD_BYTES, PartitionQueue, RecordAccumulator, TopicQueues
from .batch import DeliveryCallback, DeliveryFuture, ProducerBatch, Stored, failed, metadata_of
from .outcomes import too_large
from .partitioner import queue_weights
from .sender import Sender
from .settings import ProducerSettings
from .transaction_states import MAY_ABORT, TransactionState, TransactionStates
from .transactions import Transactions

_log = logging.getLogger("penstock.producer")
T = TypeVar("T")
Timeout = float | datetime.timedelta
Headers = Iterable[Header] | Mapping[str, bytes | None]


class KafkaProducer:
    """Writes records to Kafka, in batches, from any number of threads.

        with KafkaProducer(bootstrap_servers='localhost:9092') as producer:
            future = producer.send('my-topic', value='hello', key='k')
            print(future.result())

    Options are Apache Kafka's ProducerConfig, with its names ('linger.ms', or linger_ms), defaults and meanings; see
    docs/configuration.md. By default a record is acknowledged by all in-sync replicas, and stored once and in order per
    partition, whatever is retried meanwhile (enable.idempotence). `key.serializer` and `value.serializer` are functions from
    your object to bytes; without one, bytes are taken as they are and a str is encoded as UTF-8.

    Timeouts are milliseconds or a datetime.timedelta (those of a DeliveryFuture are seconds, as everywhere in Python's
    futures). It does not survive fork() (ForkedError). Source: org.apache.kafka.clients.producer.Producer.
    """

    def __init__(self, **config: Any) -> None:
        self._closed = True  # until everything below has worked: __del__ may see a half-made object
        self._config = with_client_id("producer", resolve("producer", config))
        self._settings = settings = ProducerSettings.of(self._config)
        self._encode_key: Callable[[Any], Any] = self._config["key.serializer"] or plain
        self._encode_value: Callable[[Any], Any] = self._config["value.serializer"] or plain
        self._lock = threading.Lock()
        self._freed = threading.Condition(self._lock)
        self._accumulator = RecordAccumulator(settings, random.random)
        self._topics = self._accumulator.topics
        self._pid = getpid()
        self._engine = EngineThread(f"KafkaProducer {self._config['client.id']}")
        self._client = ClusterClient(self._engine, self._config)
        self._sender = Sender(
            self._engine, self._client, settings, self._accumulator, self._lock, self._freed
        )
        self._transactions: Transactions | None = None
        self._states: TransactionStates | None = None
        if settings.transactional_id is not None:
            self._states = TransactionStates(settings.transactional_id)
            self._transactions = self._sender.transactions = Transactions(
                self._client,
                self._states,
                self._sender.identity,
                settings.transaction_timeout_ms,
                self._sender.wake,
            )
        self._closed = False
        _open_producers.add(self)
        self._engine.post(self._client.start)
        self._engine.post(self._sender.start)
        self._engine.start()

    # ------------------------------------------------------------ records

    def send(
        self,
        topic: str,
        value: Any = None,
        key: Any = None,
        headers: Headers = (),
        partition: int | None = None,
        timestamp_ms: int | None = None,
    ) -> DeliveryFuture:
        """Hand over one record; returns at once, with the future of its RecordMetadata.

        With a key and without `partition`, the record goes where Java's producer would put it (murmur2 of the key's bytes);
        without both, to one partition until a batch is there, then to another (KIP-794). `timestamp_ms`: ms since 1970, now
        by default. A `value` of None is a tombstone in a compacted topic.

        Waits, at most `max.block.ms`, for a topic's metadata at its first record, and for memory when `buffer.memory` is used
        up; the latter raises KafkaTimeoutError. Raised too: ClosedError, ForkedError, TypeError and what a serializer raises.
        Everything else is told by the future: RecordTooLargeError, UnknownTopicOrPartitionError, AuthorizationError,
        ProduceError, and KafkaTimeoutError once `delivery.timeout.ms` is over.
        """
        if self._closed or getpid() != self._pid:
            self._refuse()
        states = self._states
        if states is not None:
            states.need("send()", TransactionState.OPEN)
        key_bytes = self._encode_key(key) if key is not None else None
        value_bytes = self._encode_value(value) if value is not None else None
        if timestamp_ms is None:
            timestamp_ms = int(time.time() * 1000)
        size = RECORD_OVERHEAD_BYTES
        if key_bytes is not None:
            size += len(key_bytes)
        if value_bytes is not None:
            size += len(value_bytes)
        pairs: list[Header] | tuple[()] = ()
        if headers:
            pairs, headers_size = _plain_headers(headers)
            size += headers_size
        settings = self._settings
        if size > settings.max_request_size_bytes or size > settings.buffer_memory_bytes:
            return self._unsent(topic, partition, self._too_large(topic, partition, size), timestamp_ms)
        try:
            known = self._topics[topic]
        except KeyError:
            known = None
        if known is None or not known.count or (partition is not None and not 0 <= partition < known.count):
            try:
                known = self._await_topic(topic, partition)
            except KafkaError as error:
                return self._unsent(topic, partition, error, timestamp_ms)
        with self._lock:
            if partition is None:
                partition = self._choose(known, key_bytes, size)
            queue = known.queues[partition]
            batch = queue.open
            accumulator = self._accumulator
            if (
                batch is None
                or batch.size_bytes + size > settings.batch_size_bytes
                or accumulator.used_bytes + size > settings.buffer_memory_bytes
            ):
                batch = self._make_room(queue, size)
            try:
                if states is not None and states.state is not TransactionState.OPEN:
                    states.need("send()", TransactionState.OPEN)  # another thread has ended it meanwhile
                batch.size_bytes = batch.builder.append(timestamp_ms, key_bytes, value_bytes, pairs)
            except BaseException:  # a serializer's or a header's value is no bytes
                accumulator.drop_if_empty(queue)
                raise
            index = batch.count
            batch.count = index + 1
            batch.reserved_bytes += size
            accumulator.used_bytes += size
        return DeliveryFuture(batch, index, timestamp_ms)

    def produce(
        self,
        topic: str,
        value: Any = None,
        key: Any = None,
        headers: Headers = (),
        partition: int | None = None,
        timestamp_ms: int | None = None,
        on_delivery: DeliveryCallback | None = None,
    ) -> None:
        """send() with a callback instead of a future: on_delivery(RecordMetadata, None) or on_delivery(None, error).

        It runs in the producer's own thread, in the order of the records of a partition: keep it short, and do not wait in it.
        """
        future = self.send(topic, value, key, headers, partition, timestamp_ms)
        if on_delivery is not None:
            future._batch.when_done(future._index, _Told(on_delivery, future._timestamp_ms))

    def flush(self, timeout: Timeout | None = None) -> None:
        """Send everything handed over so far, without lingering, and wait until each record is stored or given up.

        KafkaTimeoutError if that takes more than `timeout` (None: no limit but delivery.timeout.ms). Whether a record was
        stored is told by its own future.
        """
        if self._closed or getpid() != self._pid:
            self._refuse()
        self._refuse_in_callback("flush()")
        left = self._drain(None if timeout is None else to_s(timeout))
        if left:
            raise KafkaTimeoutError(
                f"flush(): {left} records are still on their way after {to_s(timeout or 0) * 1000:.0f} ms; they are still "
                "being sent: wait longer, or look at the brokers"
            )

    # ------------------------------------------------------------ transactions

    def init_transactions(self) -> None:
        """Take the transactional id over: a producer that had it before is fenced, and what it left open is aborted or, if its commit had
        begun, committed. Once, before the first transaction; waits at most `max.block.ms`. Source: KIP-98."""
        transactions = self._need_transactions("init_transactions()", TransactionState.UNINITIALIZED)
        self._ask_within("init_transactions()", transactions.initialize)

    def begin_transaction(self) -> None:
        """What is sent from here on belongs together, until commit_transaction() or abort_transaction()."""
        transactions = self._need_transactions("begin_transaction()", TransactionState.READY)
        transactions.states.begun()

    def send_offsets_to_transaction(
        self, offsets: Mapping[TopicPartition, OffsetAndMetadata | int], group_metadata: ConsumerGroupMetadata
    ) -> None:
        """Commit a group's offsets with the transaction. `offsets`: the next ones to read; `group_metadata`: the consumer's
        group_metadata(), by which a member that the group has moved on without is refused (CommitFailedError; KIP-447)."""
        transactions = self._need_transactions("send_offsets_to_transaction()", TransactionState.OPEN)
        entries = {
            TopicPartition(*tp): entry if isinstance(entry, OffsetAndMetadata) else OffsetAndMetadata(entry)
            for tp, entry in offsets.items()
        }
        if entries:
            self._ask_within(
                "send_offsets_to_transaction()", transactions.send_offsets, entries, group_metadata
            )

    def commit_transaction(self) -> None:
        """Wait until all that was sent is stored, then commit. TransactionError: it has to be aborted instead; the records are not seen by
        who reads committed ones. KafkaTimeoutError: the outcome is not known; call it again. ProducerFencedError: this producer is done
        for; whoever takes the transactional id over ends the transaction, and a group's offsets tell how."""
        transactions = self._need_transactions(
            "commit_transaction()",
            TransactionState.OPEN,
            TransactionState.FLUSHING,
            TransactionState.COMMITTING,
        )
        if transactions.states.state is not TransactionState.COMMITTING:
            self._engine.ask(self._sender.flush_transaction)
            self._drain(None)
        self._ask_within("commit_transaction()", self._sender.commit_transaction)

    def abort_transaction(self) -> None:
        """Make all of the transaction unseen for who reads committed records. Another may begin then."""
        self._need_transactions("abort_transaction()", *MAY_ABORT)
        self._ask_within("abort_transaction()", self._sender.abort_transaction)

    @contextlib.contextmanager
    def transaction(self) -> Iterator[None]:
        """`with producer.transaction():` begins one, and commits it at the end, or aborts it if an exception ends the block."""
        self.begin_transaction()
        try:
            yield
            self.commit_transaction()
        except BaseException:
            if self._states is not None and self._states.state in MAY_ABORT:
                self.abort_transaction()
            raise

    def _abort_at_the_end(self, timeout_ms: float) -> None:
        """Who reads committed records need not wait for transaction.timeout.ms then. What fails here the coordinator makes up for."""

        async def within() -> None:
            async with self._client.within(min(timeout_ms, self._settings.max_block_ms), "close()"):
                await self._sender.abort_transaction()

        try:
            self._engine.ask(within)
        except KafkaError as error:
            _log.warning("the transaction that was open at close() was not aborted: %s", error)

    def _need_transactions(self, what: str, *states: TransactionState) -> Transactions:
        if self._closed or getpid() != self._pid:
            self._refuse()
        if self._transactions is None:
            raise IllegalStateError(
                f"{what} needs transactional.id: the name under which transactions outlive a producer"
            )
        self._refuse_in_callback(what)
        self._transactions.states.need(what, *states)
        return self._transactions

    def _ask_within(
        self, what: str, function: Callable[..., Coroutine[Any, Any, T]], *args: Any, **kwargs: Any
    ) -> T:
        async def within() -> T:
            async with self._client.within(self._settings.max_block_ms, what):
                return await function(*args, **kwargs)

        return self._engine.ask(within)

    # ------------------------------------------------------------ the cluster

    def partitions_for(self, topic: str) -> list[PartitionInfo]:
        """The partitions of a topic and where they live; waits for them at most `max.block.ms`."""
        if self._closed or getpid() != self._pid:
            self._refuse()
        self._await_topic(topic, None)
        return self._client.snapshot.partition_infos(topic)

    # ------------------------------------------------------------ life

    def close(self, timeout: Timeout = 30_000) -> None:
        """Send what is waiting and end all threads, within `timeout` (ms); what could not be stored by then is given up with
        ClosedError in its future. A transaction that is open is aborted. Idempotent. Called from a delivery callback it does not wait."""
        if self._closed:
            return
        self._closed = True
        _open_producers.discard(self)
        if getpid() != self._pid:
            return  # a forked child: the threads and the connections are the parent's
        with self._lock:
            self._freed.notify_all()
        try:
            if self._sender.here:
                return
            if self._states is not None and self._states.state in MAY_ABORT:
                self._abort_at_the_end(to_s(timeout) * 1000)
            else:
                self._drain(to_s(timeout))
        finally:
            self._end()

    def __enter__(self) -> KafkaProducer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def __del__(self, _warn: Callable[..., None] = warnings.warn) -> None:
        if not self._closed and getpid() == self._pid:
            _warn(
                f"unclosed {self!r}; use close() or a with block", ResourceWarning, source=self, stacklevel=2
            )
            self._closed = True
            self._end()

    def __repr__(self) -> str:
        config = getattr(self, "_config", None)
        if config is None:
            return "<KafkaProducer, not constructed>"
        return f"<KafkaProducer client={config['client.id']!r}>"

    # ------------------------------------------------------------ inside

    def _refuse(self) -> None:
        self._engine.check_process()
        raise ClosedError("this KafkaProducer is closed; make a new one")

    def _refuse_in_callback(self, what: str) -> None:
        if self._sender.here:
            raise IllegalStateError(
                f"{what} would wait in a delivery callback, which runs in the very thread it would wait for; do it elsewhere"
            )

    def _unsent(
        self, topic: str, partition: int | None, error: KafkaError, timestamp_ms: int
    ) -> DeliveryFuture:
        """The future of a record that is not even tried. A transaction without it must not be committed."""
        if self._states is not None:
            self._engine.post(self._states.failed, error)  # before whatever the caller asks for next
            self._sender.wake()
        return failed(topic, -1 if partition is None else partition, error, timestamp_ms)

    def _too_large(self, topic: str, partition: int | None, size: int) -> KafkaError:
        settings = self._settings
        option, limit = "max.request.size", settings.max_request_size_bytes
        if size <= limit:
            option, limit = "buffer.memory", settings.buffer_memory_bytes
        return too_large(topic, -1 if partition is None else partition, size, option, limit)

    def _await_topic(self, topic: str, partition: int | None) -> TopicQueues:
        """The topic, once its partitions are known; with `partition` among them, or an error."""
        if not isinstance(topic, str):
            raise TypeError(f"a topic is a str; got {topic!r}")
        if partition is not None and partition < 0:
            raise ValueError(f"a partition is a number from 0 on; got {partition}")
        if self._sender.fatal is not None:
            raise self._sender.fatal
        self._refuse_in_callback(f"the first record for topic {topic!r}")
        self._engine.ask(self._sender.await_topic, topic, self._settings.max_block_ms)
        known = self._topics[topic]
        if partition is not None and partition >= known.count:
            self._engine.ask(self._sender.await_partition, topic, partition)
        return known

    def _choose(self, topic: TopicQueues, key: bytes | None, size: int) -> int:
        """The partition of a record that names none."""
        if key is not None and not self._settings.ignore_keys:
            return murmur2_partition(key, topic.count)
        partition = topic.sticky.choose(topic.count, lambda: self._weights(topic))
        topic.sticky.added(size)
        return partition

    def _weights(self, topic: TopicQueues) -> list[float]:
        leader = self._client.snapshot.leader
        queues = topic.queues[: topic.count]
        return queue_weights(
            [len(queue.batches) for queue in queues],
            [leader(topic.name, queue.partition)[0] >= 0 for queue in queues],
            self._settings.adaptive_partitioning,
        )

    def _make_room(self, queue: PartitionQueue, size: int) -> ProducerBatch:
        """A batch with room for `size` bytes; the lock is held before and after, not while waiting for memory."""
        accumulator = self._accumulator
        if not accumulator.has_memory_for(size):
            self._await_memory(queue, size)
        batch = queue.open
        if batch is None or not accumulator.has_room(batch, size):
            batch = accumulator.open_batch(queue, self._engine.now_ms())
            self._sender.wake()  # for the linger of this one, and because the one before it is full
        return batch

    def _await_memory(self, queue: PartitionQueue, size: int) -> None:
        accumulator, limit_ms = self._accumulator, self._settings.max_block_ms
        self._refuse_in_callback("send() with buffer.memory used up")
        deadline = time.monotonic() + limit_ms / 1000
        accumulator.starved += 1
        self._sender.wake()
        try:
            while not accumulator.has_memory_for(size):
                if self._closed:
                    raise ClosedError("this KafkaProducer was closed while send() was waiting for memory")
                remaining = deadline - time.monotonic()
                if remaining <= 0 or not self._freed.wait(remaining):
                    if accumulator.has_memory_for(size):
                        break
                    raise KafkaTimeoutError(
                        f"no memory for a record of {size} bytes for {queue.topic}-{queue.partition} within max.block.ms "
                        f"({limit_ms} ms): {accumulator.used_bytes} bytes of buffer.memory "
                        f"({self._settings.buffer_memory_bytes}) wait for the brokers; send more slowly, or raise it"
                    )
        finally:
            accumulator.starved -= 1

    def _drain(self, timeout_s: float | None) -> int:
        """Send without lingering until all that is there now has an outcome; how many records had none in time."""
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        with self._lock:
            self._accumulator.flushing += 1
            pending = list(self._accumulator.incomplete)
            for batch in pending:
                queue = self._topics[batch.topic].queues[batch.partition]
                if queue.open is batch:  # what is added from now on is not waited for
                    queue.open = None
                    batch.sealed = True
        self._sender.wake()
        left = 0
        try:
            while pending:
                batch = pending.pop()
                if not batch.wait(None if deadline is None else max(0.0, deadline - time.monotonic())):
                    left += batch.count
                pending.extend(part for _, part in batch.parts)
        finally:
            with self._lock:
                self._accumulator.flushing -= 1
        return left

    def _end(self) -> None:
        """Give up what is left, and end the threads."""
        error = ClosedError("the KafkaProducer was closed before this record was stored")
        if self._engine.alive:
            if self._sender.here:
                self._sender.give_up(error)
                self._client.close()
            else:
                # whatever keeps it from being done in time, stop() below ends
                with contextlib.suppress(concurrent.futures.TimeoutError, ClosedError):
                    self._engine.call(self._sender.shut_down, error).result(5.0)
        self._engine.stop()


def to_s(timeout: Timeout) -> float:
    """Seconds from a number of milliseconds or a timedelta. ValueError below zero."""
    seconds = timeout.total_seconds() if isinstance(timeout, datetime.timedelta) else float(timeout) / 1000
    if not seconds >= 0:
        raise ValueError(f"a timeout is milliseconds from 0 on, or a timedelta; got {timeout!r}")
    return min(seconds, threading.TIMEOUT_MAX)


class _Told:
    """An on_delivery callback, as a batch calls it."""

    __slots__ = ("_callback", "_timestamp_ms")

    def __init__(self, callback: DeliveryCallback, timestamp_ms: int) -> None:
        self._callback = callback
        self._timestamp_ms = timestamp_ms

    def __call__(self, batch: ProducerBatch, index: int) -> None:
        outcome = batch.outcome
        if isinstance(outcome, Stored):
            self._callback(metadata_of(batch, index, self._timestamp_ms, outcome), None)
        else:
            self._callback(None, outcome)


def plain(value: Any) -> Any:
    """What is sent without a serializer: bytes as they are, text as UTF-8."""
    if isinstance(value, str):
        return value.encode()
    if isinstance(value, (bytes, bytearray)):
        return value
    if isinstance(value, memoryview):
        return value.tobytes()
    raise TypeError(
        f"a key or value is bytes or str, or set key.serializer / value.serializer; got {type(value).__name__}"
    )


def _plain_headers(headers: Headers) -> tuple[list[Header], int]:
    """Headers as a list, and at most how many bytes they take."""
    pairs = list(headers.items()) if isinstance(headers, Mapping) else list(headers)
    return pairs, sum(10 + 4 * len(name) + (len(value) if value is not None else 0) for name, value in pairs)


def record_size_bytes(key: bytes | None, value: bytes | None, headers: Headers) -> int:
    """At most so much of a batch, as send() counts it."""
    return RECORD_OVERHEAD_BYTES + len(key or b"") + len(value or b"") + _plain_headers(headers)[1]


def refuse_too_large(
    topic: str,
    key: bytes | None,
    value: bytes | None,
    headers: Headers,
    partition: int | None,
    most_bytes: int,
) -> None:
    """RecordTooLargeError, as the future of send() has it with max.request.size = `most_bytes`, of a record that is not sent yet."""
    size = record_size_bytes(key, value, headers)
    if size > most_bytes:
        raise too_large(topic, -1 if partition is None else partition, size, "max.request.size", most_bytes)


_open_producers: weakref.WeakSet[KafkaProducer] = weakref.WeakSet()


@atexit.register
def _close_all() -> None:
    """At interpreter exit: what was handed over and not flushed still gets a moment."""
    for producer in list(_open_producers):
        producer.close(timeout=5_000)


__all__ = ["DeliveryCallback", "DeliveryFuture", "KafkaProducer", "RecordMetadata"]

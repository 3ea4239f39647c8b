"""The consumers that are compared. Each reads a topic's partitions from offset 0 and tells the meter after each poll.

"best" and the like use the settings that were found to be fastest; README.md lists them. Kafka's fetch limits (50 MiB
per request, 1 MiB per partition) are everyone's, and CRCs are checked by all that can.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from benchmarks.meter import Meter

POLL_RECORDS = 10_000
COLUMN_POLL_RECORDS = 500_000
ARROW_BATCH_RECORDS = 100_000  # kafkarrow's best of 10,000, 100,000 and its default
PATIENCE_S = 10.0


@dataclass(frozen=True, slots=True)
class Work:
    """What to read."""

    bootstrap: str
    topic: str
    partitions: int


class StalledError(RuntimeError):
    """A contender stopped delivering."""


class _Patience:
    """Ends a run in which nothing arrives any more."""

    def __init__(self) -> None:
        self._since_s = time.monotonic()

    def note(self, received: int) -> None:
        if received:
            self._since_s = time.monotonic()
        elif time.monotonic() - self._since_s > PATIENCE_S:
            raise StalledError(f"nothing arrived for {PATIENCE_S:.0f} s")


# ---------------------------------------------------------------- penstock
def _penstock_consumer(work: Work, **options: Any) -> Any:
    from penstock import KafkaConsumer, TopicPartition

    consumer = KafkaConsumer(bootstrap_servers=work.bootstrap, auto_offset_reset="earliest", **options)
    partitions = [TopicPartition(work.topic, number) for number in range(work.partitions)]
    consumer.assign(partitions)
    return consumer


def _read_penstock(consumer: Any, meter: Meter) -> None:
    patience = _Patience()
    while not meter.done:
        records = consumer.poll(timeout=200)
        size = 0
        for record in records:
            key, value = record.key, record.value
            size += len(key) + len(value)
        patience.note(len(records))
        meter.add(len(records), size)
    consumer.close()


def penstock_defaults(work: Work, meter: Meter) -> None:
    _read_penstock(_penstock_consumer(work), meter)


def penstock_records(work: Work, meter: Meter) -> None:
    _read_penstock(_penstock_consumer(work, max_poll_records=POLL_RECORDS), meter)


def penstock_async(work: Work, meter: Meter) -> None:
    """penstock-defaults, awaited, on asyncio's own loop."""
    from penstock import AsyncKafkaConsumer, TopicPartition

    async def read() -> None:
        consumer = AsyncKafkaConsumer(bootstrap_servers=work.bootstrap, auto_offset_reset="earliest")
        await consumer.assign([TopicPartition(work.topic, number) for number in range(work.partitions)])
        patience = _Patience()
        while not meter.done:
            records = await consumer.poll(timeout=200)
            size = 0
            for record in records:
                key, value = record.key, record.value
                size += len(key) + len(value)
            patience.note(len(records))
            meter.add(len(records), size)
        await consumer.close()

    asyncio.run(read())


def penstock_columns(work: Work, meter: Meter) -> None:
    import pyarrow

    consumer = _penstock_consumer(work, max_poll_records=COLUMN_POLL_RECORDS)
    patience = _Patience()
    while not meter.done:
        records = consumer.poll(timeout=200)
        patience.note(len(records))
        if records:
            table = pyarrow.table(records)
            meter.add(table.num_rows, _arrow_bytes(table.column("key")) + _arrow_bytes(table.column("value")))
    consumer.close()


def penstock_drain(work: Work, meter: Meter) -> None:
    consumer = _penstock_consumer(work, max_poll_records=COLUMN_POLL_RECORDS)
    patience = _Patience()
    while not meter.done:
        records = consumer.poll(timeout=200)
        patience.note(len(records))
        meter.add(len(records), records.size_bytes())
    consumer.close()


def _arrow_bytes(column: Any) -> int:
    """The bytes of a binary column's values, as their lengths say, so that every value is accounted for."""
    import pyarrow.compute

    return pyarrow.compute.sum(pyarrow.compute.binary_length(column)).as_py() or 0


# ---------------------------------------------------------------- confluent-kafka
def _confluent_consumer(work: Work, **options: Any) -> Any:
    from confluent_kafka import Consumer, TopicPartition

    consumer = Consumer(
        {
            "bootstrap.servers": work.bootstrap,
            "group.id": "benchmark",
            "enable.auto.commit": False,
            "auto.offset.reset": "earliest",
            "check.crcs": True,
            **{name.replace("_", "."): value for name, value in options.items()},
        }
    )
    consumer.assign([TopicPartition(work.topic, number, 0) for number in range(work.partitions)])
    return consumer


def confluent_defaults(work: Work, meter: Meter) -> None:
    """One message per poll, as its documentation begins."""
    consumer = _confluent_consumer(work)
    patience = _Patience()
    while not meter.done:
        message = consumer.poll(0.2)
        if message is None:
            patience.note(0)
            continue
        if message.error():
            raise StalledError(str(message.error()))
        meter.add(1, len(message.key()) + len(message.value()))
    consumer.close()


def confluent_best(work: Work, meter: Meter) -> None:
    consumer = _confluent_consumer(
        work,
        queued_min_messages=1_000_000,
        queued_max_messages_kbytes=1_048_576,
        fetch_queue_backoff_ms=1,
    )
    patience = _Patience()
    while not meter.done:
        messages = consumer.consume(POLL_RECORDS, 0.05)
        size = 0
        for message in messages:
            if message.error():
                raise StalledError(str(message.error()))
            key, value = message.key(), message.value()
            size += len(key) + len(value)
        patience.note(len(messages))
        meter.add(len(messages), size)
    consumer.close()


# ---------------------------------------------------------------- others
def kafkarrow(work: Work, meter: Meter) -> None:
    """Gives batches in the order of time over all partitions; cannot assign, reads the topic from the earliest."""
    from kafkarrow import ConsumerManager, SourceTopic

    config = {
        "bootstrap.servers": work.bootstrap,
        "group.id": "benchmark",
        "check.crcs": "true",
        "queued.min.messages": "1000000",
        "queued.max.messages.kbytes": "1048576",
        "fetch.queue.backoff.ms": "1",
    }
    manager = ConsumerManager(config, [SourceTopic.from_earliest(work.topic)], ARROW_BATCH_RECORDS)
    patience = _Patience()
    while not meter.done:
        batch = manager.poll(200)
        patience.note(batch.num_rows)
        if batch.num_rows:
            meter.add(batch.num_rows, _arrow_bytes(batch.column("key")) + _arrow_bytes(batch.column("value")))


def aiokafka(work: Work, meter: Meter) -> None:
    from aiokafka import AIOKafkaConsumer, TopicPartition

    async def read() -> None:
        consumer = AIOKafkaConsumer(bootstrap_servers=work.bootstrap, enable_auto_commit=False)
        await consumer.start()
        partitions = [TopicPartition(work.topic, number) for number in range(work.partitions)]
        consumer.assign(partitions)
        for partition in partitions:
            consumer.seek(partition, 0)
        patience = _Patience()
        while not meter.done:
            found = await consumer.getmany(timeout_ms=200)
            count = size = 0
            for messages in found.values():
                count += len(messages)
                for message in messages:
                    key, value = message.key, message.value
                    size += len(key) + len(value)
            patience.note(count)
            meter.add(count, size)
        await consumer.stop()

    asyncio.run(read())


def kafka_python(work: Work, meter: Meter) -> None:
    from kafka import KafkaConsumer, TopicPartition

    consumer = KafkaConsumer(bootstrap_servers=work.bootstrap, enable_auto_commit=False)
    partitions = [TopicPartition(work.topic, number) for number in range(work.partitions)]
    consumer.assign(partitions)
    for partition in partitions:
        consumer.seek(partition, 0)
    patience = _Patience()
    while not meter.done:
        found = consumer.poll(timeout_ms=200, max_records=POLL_RECORDS)
        count = size = 0
        for messages in found.values():
            count += len(messages)
            for message in messages:
                key, value = message.key, message.value
                size += len(key) + len(value)
        patience.note(count)
        meter.add(count, size)
    consumer.close()


PYTHON: dict[str, Callable[[Work, Meter], None]] = {
    "penstock-records": penstock_records,
    "penstock-columns": penstock_columns,
    "penstock-drain": penstock_drain,
    "penstock-defaults": penstock_defaults,
    "penstock-async": penstock_async,
    "confluent-best": confluent_best,
    "confluent-defaults": confluent_defaults,
    "aiokafka": aiokafka,
    "kafka-python": kafka_python,
    "kafkarrow": kafkarrow,
}
"""Those that run in a Python process, by name."""

PACKAGES = ("penstock", "confluent-kafka", "aiokafka", "kafka-python", "kafkarrow", "pyarrow")


def versions() -> dict[str, str]:
    """The installed version of each package that takes part."""
    found = {}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found

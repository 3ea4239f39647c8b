"""The topics that are read: what is in them, how many records, and how they are filled."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from dataclasses import dataclass

POOL_RECORDS = 100_000
POOL_BYTES = 64_000_000
BATCH_RECORDS = 10_000
BATCH_BYTES = 16_000_000
QUICK_SHARE = 5
READ_SHARE = 0.8
"""A run reads this share of a topic: at the very end, fetches of partitions that have ended wait for nothing."""


@dataclass(frozen=True, slots=True)
class TopicSpec:
    """`records` of about `value_bytes` each, made by `value(random, number)`, over `partitions`.

    `quick_records`: in a quick run, where a fifth of them would be too few.
    """

    name: str
    records: int
    value_bytes: int
    value: Callable[[random.Random, int], bytes]
    codec: str = "none"
    partitions: int = 6
    quick_records: int | None = None

    def topic(self, quick: bool) -> str:
        """The topic's name on the broker; it tells full and quick apart."""
        return f"bench-{self.name}-{self.count(quick)}"

    def count(self, quick: bool) -> int:
        return (self.quick_records or self.records // QUICK_SHARE) if quick else self.records


def _noise(size: int) -> Callable[[random.Random, int], bytes]:
    return lambda chance, number: chance.randbytes(size)


def _order(chance: random.Random, number: int) -> bytes:
    """An order as a shop would send it, about 95 bytes."""
    return (
        f'{{"order":{7_340_000 + number},"customer":"c-{chance.randrange(50_000):05d}",'
        f'"sku":"A-{chance.randrange(3_000):04d}","qty":{chance.randrange(1, 9)},'
        f'"price":{chance.randrange(100, 99_999) / 100:.2f},"paid":{"true" if chance.random() < 0.8 else "false"}}}'
    ).encode()


SPECS = {
    spec.name: spec
    for spec in (
        TopicSpec("100B", 8_000_000, 100, _noise(100)),
        TopicSpec("1kB", 1_500_000, 1_000, _noise(1_000)),
        TopicSpec("json-lz4", 6_000_000, 95, _order, "lz4"),
        TopicSpec("json-zstd", 6_000_000, 95, _order, "zstd"),
        TopicSpec("json-gzip", 6_000_000, 95, _order, "gzip"),
        TopicSpec("json-snappy", 6_000_000, 95, _order, "snappy"),
        TopicSpec("10kB", 150_000, 10_000, _noise(10_000)),
        TopicSpec("1MB", 1_500, 1_000_000, _noise(1_000_000)),
        TopicSpec("1000p", 3_000_000, 100, _noise(100), partitions=1_000, quick_records=1_200_000),
    )
}


def fill(bootstrap: str, spec: TopicSpec, quick: bool) -> float:
    """Make and fill a topic, unless the broker has it filled already; returns the seconds it took."""
    from confluent_kafka import Producer
    from confluent_kafka.admin import AdminClient, NewTopic

    topic, count = spec.topic(quick), spec.count(quick)
    begin = time.monotonic()
    admin = AdminClient({"bootstrap.servers": bootstrap})
    if topic in admin.list_topics(timeout=30).topics:
        if stored_records(bootstrap, topic) == count:
            return 0.0
        raise RuntimeError(f"{topic} exists with another number of records; delete it and run again")
    admin.create_topics([NewTopic(topic, spec.partitions, 1)])[topic].result(60)
    producer = Producer(
        {
            "bootstrap.servers": bootstrap,
            "linger.ms": 50,
            "compression.type": spec.codec,
            "queue.buffering.max.messages": 1_000_000,
            "queue.buffering.max.kbytes": 1_048_576,
            "message.max.bytes": 1_048_000,
            "log_level": 3,
        }
    )
    chance = random.Random(20)
    pool_size = max(60, min(POOL_RECORDS, POOL_BYTES // spec.value_bytes))
    # Partitions in turn, so that all are equally long and none ends before the others while it is read; a hundred
    # records each time, so that batches are not tiny where partitions are many.
    run = 100 if pool_size >= 100 * spec.partitions else 1
    pool_size -= pool_size % (run * spec.partitions)
    pool = [
        {
            "key": b"k-%06d" % chance.randrange(1_000_000),
            "value": spec.value(chance, number),
            "partition": number // run % spec.partitions,
        }
        for number in range(pool_size)
    ]
    step = max(1, min(BATCH_RECORDS, BATCH_BYTES // spec.value_bytes))
    sent = 0
    while sent < count:
        start = sent % pool_size
        sent += _send(producer, topic, pool[start : start + min(step, count - sent)])
    if producer.flush(120):
        raise RuntimeError(f"{topic} could not be filled within 120 s")
    stored = stored_records(bootstrap, topic)
    if stored != count:
        raise RuntimeError(f"{topic} has {stored} records after filling, {count} were sent")
    return time.monotonic() - begin


def _send(producer: object, topic: str, batch: list[dict[str, object]]) -> int:
    """Hand a batch over, and wait while the producer's buffer is more than half full; returns how many were taken."""
    taken: int = producer.produce_batch(topic, batch)  # type: ignore[attr-defined]
    while len(producer) > 500_000 or taken == 0:  # type: ignore[arg-type]
        producer.poll(0.05)  # type: ignore[attr-defined]
        if taken == 0:
            return 0
    return taken


def stored_records(bootstrap: str, topic: str) -> int:
    """The sum of a topic's end offsets (nothing here is compacted or expired)."""
    from confluent_kafka import TopicPartition
    from confluent_kafka.admin import AdminClient, OffsetSpec

    admin = AdminClient({"bootstrap.servers": bootstrap})
    partitions = admin.list_topics(topic, timeout=30).topics[topic].partitions
    asked = admin.list_offsets({TopicPartition(topic, number): OffsetSpec.latest() for number in partitions})
    return sum(future.result(60).offset for future in asked.values())

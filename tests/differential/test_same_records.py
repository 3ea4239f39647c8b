"""The same log through librdkafka and through penstock: the same records, field by field."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from typing import Any, NamedTuple

import pytest
from confluent_kafka import Consumer, Producer
from confluent_kafka import TopicPartition as TheirPartition

from penstock import KafkaConsumer, TopicPartition
from tests.support.kafka import RealKafka

pytestmark = pytest.mark.kafka
CODECS = ["none", "gzip", "snappy", "lz4", "zstd"]
WAIT_S = 60.0
ANY_TIME = {
    "retention.ms": -1,
    "message.timestamp.after.max.ms": 2**62,
    "message.timestamp.before.max.ms": 2**62,
}


class Seen(NamedTuple):
    """A record as both sides can tell it."""

    partition: int
    offset: int
    timestamp_type: int
    timestamp: int
    key: bytes | None
    value: bytes | None
    headers: tuple[tuple[str, bytes | None], ...]


def through_librdkafka(kafka: RealKafka, topic: str, ends: dict[int, int], isolation: str) -> list[Seen]:
    consumer = Consumer(
        {
            "bootstrap.servers": kafka.bootstrap_servers,
            "group.id": "differential",
            "enable.auto.commit": False,
            "enable.partition.eof": True,
            "auto.offset.reset": "earliest",
            "isolation.level": isolation,
            "check.crcs": True,
        }
    )
    consumer.assign([TheirPartition(topic, number, 0) for number in ends])
    seen: list[Seen] = []
    at_end: set[int] = set()
    deadline = time.monotonic() + WAIT_S
    while len(at_end) < len(ends) and time.monotonic() < deadline:
        for message in consumer.consume(1000, timeout=1):
            if message.error() is not None:
                at_end.add(message.partition())
                continue
            kind, timestamp = message.timestamp()
            # librdkafka counts 0 none, 1 create, 2 append; the protocol counts -1, 0, 1
            seen.append(
                Seen(
                    message.partition(),
                    message.offset(),
                    kind - 1,
                    timestamp,
                    message.key(),
                    message.value(),
                    tuple(message.headers() or ()),
                )
            )
    consumer.close()
    assert len(at_end) == len(ends), "librdkafka did not reach the end in time"
    return sorted(seen)


def through_penstock(
    kafka: RealKafka, topic: str, ends: dict[int, int], isolation: str, **config: Any
) -> list[Seen]:
    seen: list[Seen] = []
    with KafkaConsumer(
        bootstrap_servers=kafka.bootstrap_servers,
        auto_offset_reset="earliest",
        isolation_level=isolation,
        **config,
    ) as consumer:
        partitions = [TopicPartition(topic, number) for number in ends]
        consumer.assign(partitions)
        deadline = time.monotonic() + WAIT_S
        while any(consumer.position(tp) < ends[tp.partition] for tp in partitions):
            assert time.monotonic() < deadline, "penstock did not reach the end in time"
            for r in consumer.poll(timeout=500):
                assert r.topic == topic
                seen.append(
                    Seen(
                        r.partition,
                        r.offset,
                        int(r.timestamp_type),
                        r.timestamp,
                        r.raw_key,
                        r.raw_value,
                        tuple(r.headers),
                    )
                )
    return sorted(seen)


def assert_same(
    kafka: RealKafka, topic: str, isolation: str = "read_uncommitted", **config: Any
) -> list[Seen]:
    """Reads the log through both, and again through the first: a cleaner that ran between would be nobody's fault."""
    for _ in range(20):
        ends = kafka.end_offsets(topic)
        theirs = through_librdkafka(kafka, topic, ends, isolation)
        ours = through_penstock(kafka, topic, ends, isolation, **config)
        if theirs == through_librdkafka(kafka, topic, ends, isolation):
            break
    else:
        pytest.fail("the log did not hold still")
    assert len(ours) == len(theirs)
    for mine, other in zip(ours, theirs, strict=True):
        assert mine == other
    return ours


def messages(seed: int, count: int) -> Iterator[dict[str, Any]]:
    """Records of every shape: nulls, empties, headers, times, small and large."""
    chance = random.Random(seed)
    for number in range(count):
        size = chance.choice([0, 1, 10, 100, 1000, 20_000])
        yield {
            "key": chance.choice([None, b"", b"key-%d" % (number % 7)]),
            "value": chance.choice([None, chance.randbytes(size), b"abcdefgh " * (size // 9)]),
            "headers": chance.choice(
                [None, [("h", b"1"), ("h", None), ("ü", b"")], [("only", chance.randbytes(30))]]
            ),
            "timestamp": chance.choice([0, 1, 1_700_000_000_000 + number, 4_000_000_000_000]),
            "partition": chance.randrange(3),
        }


def fill(kafka: RealKafka, topic: str, count: int = 600, seed: int = 1, **config: Any) -> None:
    producer = Producer(
        {"bootstrap.servers": kafka.bootstrap_servers, "linger.ms": 3, "batch.num.messages": 37, **config}
    )

    def stored(error: object, message: object) -> None:
        assert error is None, error

    for message in messages(seed, count):
        timestamp = message.pop("timestamp")
        producer.produce(
            topic, **message, on_delivery=stored, **({"timestamp": timestamp} if timestamp else {})
        )
        producer.poll(0)
    assert producer.flush(WAIT_S) == 0


@pytest.mark.parametrize("codec", CODECS)
def test_every_codec(kafka: RealKafka, topic: str, codec: str) -> None:
    kafka.create_topic(topic, 3, config=ANY_TIME)
    fill(kafka, topic, **{"compression.type": codec})
    assert len(assert_same(kafka, topic)) == 600


def test_small_fetches_and_polls_read_the_same(kafka: RealKafka, topic: str) -> None:
    kafka.create_topic(topic, 3, config=ANY_TIME)
    fill(kafka, topic, **{"compression.type": "zstd"})
    assert_same(
        kafka,
        topic,
        max_poll_records=3,
        max_partition_fetch_bytes=5_000,
        fetch_max_bytes=9_000,
        fetch_buffer_bytes=20_000,
    )


def test_times_of_the_log(kafka: RealKafka, topic: str) -> None:
    kafka.create_topic(topic, 3, config={**ANY_TIME, "message.timestamp.type": "LogAppendTime"})
    fill(kafka, topic, **{"compression.type": "lz4"})
    assert {seen.timestamp_type for seen in assert_same(kafka, topic)} == {1}


@pytest.mark.parametrize("isolation", ["read_uncommitted", "read_committed"])
def test_transactions(kafka: RealKafka, topic: str, isolation: str) -> None:
    """Committed and aborted transactions of two producers, interleaved, and records outside of any."""
    kafka.create_topic(topic, 3)
    producers = []
    for name in ("a", "b"):
        producer = Producer(
            {
                "bootstrap.servers": kafka.bootstrap_servers,
                "transactional.id": f"{topic}-{name}",
                "linger.ms": 0,
                "batch.num.messages": 5,
            }
        )
        producer.init_transactions(WAIT_S)
        producers.append(producer)
    chance = random.Random(7)
    committed = 0
    for turn in range(12):
        for producer in producers:
            producer.begin_transaction()
        for number in range(20):
            for producer in producers:
                producer.produce(topic, b"%d-%d" % (turn, number), partition=chance.randrange(3))
                producer.poll(0)
        for producer in producers:
            producer.flush(WAIT_S)
            if chance.random() < 0.5:
                producer.abort_transaction(WAIT_S)
            else:
                producer.commit_transaction(WAIT_S)
                committed += 20
        kafka.produce(topic, [(None, b"outside %d" % turn)])
    seen = assert_same(kafka, topic, isolation)
    assert len(seen) == (committed if isolation == "read_committed" else 12 * 40) + 12


def test_a_compacted_topic(kafka: RealKafka, topic: str) -> None:
    """Gaps in offsets: within batches, of whole batches, and at the end."""
    kafka.create_topic(
        topic,
        1,
        config={
            "cleanup.policy": "compact",
            "segment.ms": 100,
            "min.cleanable.dirty.ratio": 0.001,
            "min.compaction.lag.ms": 0,
            "max.compaction.lag.ms": 100,
            "delete.retention.ms": 0,
        },
    )
    for turn in range(5):
        kafka.produce(topic, [(b"k%d" % (n % 13), b"%d-%d" % (turn, n)) for n in range(100)])
        time.sleep(0.15)
    kafka.produce(topic, [(b"last", b"one")])
    deadline = time.monotonic() + WAIT_S
    seen = assert_same(kafka, topic)
    while len(seen) > 450 and time.monotonic() < deadline:
        time.sleep(1)
        kafka.produce(topic, [(b"last", b"one")])
        seen = assert_same(kafka, topic)
    assert len(seen) <= 450, "the broker's cleaner has not run: nothing was compared"

"""The options of fetching by what they do on a real broker, and its quotas."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from tools.kafka.kafka import java_tool

from penstock import KafkaConsumer, TopicPartition
from tests.support.kafka import RealKafka

pytestmark = pytest.mark.kafka
WAIT_S = 60.0


@contextmanager
def reader(kafka: RealKafka, topic: str, partitions: int = 1, **config: Any) -> Iterator[KafkaConsumer]:
    """Assigned all partitions, from their beginning, without a group."""
    with KafkaConsumer(
        bootstrap_servers=kafka.bootstrap_servers, auto_offset_reset="earliest", **config
    ) as consumer:
        consumer.assign([TopicPartition(topic, number) for number in range(partitions)])
        yield consumer


def stats(consumer: KafkaConsumer) -> dict[str, int]:
    return consumer._core.fetcher.stats()


def until(condition: Callable[[], object], consumer: KafkaConsumer | None = None) -> None:
    deadline = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < deadline, "it did not come"
        if consumer is not None:
            consumer.poll(timeout=20)
        else:
            time.sleep(0.01)


def read(consumer: KafkaConsumer, count: int) -> list[int]:
    found: list[int] = []
    until(lambda: found.extend(r.offset for r in consumer.poll(timeout=100)) or len(found) >= count)
    return found


def values(count: int, size: int) -> list[tuple[None, bytes]]:
    return [(None, b"v" * size) for _ in range(count)]


def test_min_bytes_makes_a_fetch_wait_for_them(kafka: RealKafka, topic: str) -> None:
    kafka.create_topic(topic)
    with reader(kafka, topic, fetch_min_bytes=50_000, fetch_max_wait_ms=25_000) as consumer:
        until(lambda: stats(consumer)["fetches"] == 1, consumer)
        for _ in range(5):
            kafka.produce(topic, values(1, 1000))
        # Five appends, each of which would have ended a wait for one byte.
        assert not consumer.poll(timeout=0)
        assert (stats(consumer)["fetches"], stats(consumer)["responses"]) == (1, 0)
        kafka.produce(topic, values(50, 1000))
        assert read(consumer, 55)[:55] == list(range(55))
        assert stats(consumer)["responses"] == 1


def test_max_wait_ends_a_fetch_without_enough(kafka: RealKafka, topic: str) -> None:
    kafka.create_topic(topic)
    kafka.produce(topic, values(3, 10))
    with reader(kafka, topic, fetch_min_bytes=1_000_000, fetch_max_wait_ms=200) as consumer:
        assert read(consumer, 3) == [0, 1, 2]
        until(lambda: stats(consumer)["fetch_latency_us_max"] >= 200_000, consumer)


def test_max_partition_bytes_bounds_what_one_answer_brings(kafka: RealKafka, topic: str) -> None:
    kafka.create_topic(topic)
    for _ in range(40):
        kafka.produce(topic, values(1, 1000))  # a batch each
    with reader(kafka, topic, max_partition_fetch_bytes=5_000, fetch_max_wait_ms=20_000) as consumer:
        until(lambda: stats(consumer)["records"] == 40)
        # Four whole batches of some 1,070 bytes each time; the rest of the 5,000 is a batch cut short.
        assert 10 <= stats(consumer)["responses"] <= 12
        assert read(consumer, 40) == list(range(40))


def test_the_first_batch_comes_whole_however_large(kafka: RealKafka, topic: str) -> None:
    """KIP-74: else a consumer would stand before it for ever."""
    kafka.create_topic(topic)
    for size in (200_000, 10, 10):
        kafka.produce(topic, values(1, size))
    with reader(kafka, topic, max_partition_fetch_bytes=1_000, fetch_max_bytes=2_000) as consumer:
        assert read(consumer, 3) == [0, 1, 2]


def test_max_bytes_bounds_an_answer_over_all_partitions(kafka: RealKafka, topic: str) -> None:
    kafka.create_topic(topic, 6)
    for number in range(6):
        kafka.produce(topic, values(1, 10_000), partition=number)
    with reader(kafka, topic, 6, fetch_max_bytes=1_000) as consumer:
        until(lambda: stats(consumer)["records"] == 6)
        assert stats(consumer)["responses"] >= 6, "one batch each, as the first one alone is above the bound"
        assert len(read(consumer, 6)) == 6


def test_max_poll_records_bounds_a_poll_and_nothing_else(kafka: RealKafka, topic: str) -> None:
    kafka.create_topic(topic)
    kafka.produce(topic, values(100, 10))
    with reader(kafka, topic, max_poll_records=7, fetch_max_wait_ms=20_000) as consumer:
        until(lambda: stats(consumer)["records"] == 100)
        responses = stats(consumer)["responses"]
        sizes = []
        while sum(sizes) < 100:
            sizes.append(len(consumer.poll(timeout=1000)))
        assert sizes == [7] * 14 + [2]
        assert responses <= 2, "all was fetched at once"


def test_a_quota_slows_down_and_loses_nothing(
    kafka: RealKafka, topic: str, unique: Callable[[str], str]
) -> None:
    client_id = unique("slow")
    kafka.create_topic(topic, 2)
    kafka.produce(topic, values(600, 5_000))
    where = ["--bootstrap-server", kafka.bootstrap_servers, "--alter", "--entity-type", "clients"]
    quota = ["--entity-name", client_id, "--add-config", "consumer_byte_rate=250000"]
    java_tool("kafka.admin.ConfigCommand", [*where, *quota])
    with reader(kafka, topic, 2, client_id=client_id, max_partition_fetch_bytes=200_000) as consumer:
        seen: set[tuple[int, int]] = set()
        until(
            lambda: (
                seen.update((r.partition, r.offset) for r in consumer.poll(timeout=100)) or len(seen) == 600
            )
        )
        found = stats(consumer)
    assert found["throttle_ms_total"] > 0
    assert found["records_returned"] == 600, "each once"
    assert found["errors"] == 0

"""Fetch sessions (KIP-227) with a real broker: what they spare, and that losing one loses nothing (RELIABILITY 25)."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from penstock import KafkaConsumer, TopicPartition
from tests.support.kafka import RealKafka

pytestmark = pytest.mark.kafka
WAIT_S = 60.0


@contextmanager
def reader(kafka: RealKafka, topic: str, partitions: int, **config: Any) -> Iterator[KafkaConsumer]:
    with KafkaConsumer(
        bootstrap_servers=kafka.bootstrap_servers, auto_offset_reset="earliest", **config
    ) as consumer:
        consumer.assign([TopicPartition(topic, number) for number in range(partitions)])
        yield consumer


def stats(consumer: KafkaConsumer) -> dict[str, int]:
    return consumer._core.fetcher.stats()


class Reading:
    """Every record once and in order, or it fails."""

    def __init__(self, consumer: KafkaConsumer) -> None:
        self.next: dict[int, int] = {}
        self._consumer = consumer

    def until(self, condition: Callable[[], object]) -> None:
        deadline = time.monotonic() + WAIT_S
        while not condition():
            assert time.monotonic() < deadline, f"read {self.next}; {stats(self._consumer)}"
            for record in self._consumer.poll(timeout=50):
                assert record.offset == self.next.get(record.partition, 0)
                self.next[record.partition] = record.offset + 1

    def up_to(self, count: int) -> None:
        self.until(lambda: sum(self.next.values()) >= count)


def values(count: int) -> list[tuple[None, bytes]]:
    return [(None, b"v%d" % number) for number in range(count)]


def test_idle_partitions_cost_nothing_after_the_first_request(kafka: RealKafka, topic: str) -> None:
    partitions = 500
    kafka.create_topic(topic, partitions)
    with reader(kafka, topic, partitions, fetch_max_wait_ms=20) as consumer:
        reading = Reading(consumer)
        reading.until(lambda: stats(consumer)["partitions_asked"] >= partitions)
        before = stats(consumer)
        reading.until(lambda: stats(consumer)["responses"] >= before["responses"] + 20)
        before = stats(consumer)
        kafka.produce(topic, values(5), partition=123)
        reading.up_to(5)
        reading.until(lambda: stats(consumer)["responses"] >= before["responses"] + 20)
        after = stats(consumer)
    assert after["partitions_asked"] - before["partitions_asked"] <= 5
    per_answer = (after["bytes"] - before["bytes"]) / (after["responses"] - before["responses"])
    assert per_answer < 200, "an answer that names no partition"
    assert after["session_resets"] == 0


def test_pause_resume_seek_and_new_partitions_within_a_session(kafka: RealKafka, topic: str) -> None:
    kafka.create_topic(topic, 4)
    for number in range(4):
        kafka.produce(topic, values(10), partition=number)
    parts = [TopicPartition(topic, number) for number in range(4)]
    with reader(kafka, topic, 3, fetch_max_wait_ms=50) as consumer:
        reading = Reading(consumer)
        reading.up_to(30)
        consumer.pause(parts[0])
        for number in range(4):
            kafka.produce(topic, values(10), partition=number)
        reading.up_to(50)
        assert reading.next == {0: 10, 1: 20, 2: 20}
        consumer.resume(parts[0])
        reading.up_to(60)
        consumer.seek(parts[1], 5)
        reading.next[1] = 5
        reading.up_to(60)
        consumer.assign(parts[1:])
        reading.next.pop(0)
        kafka.produce(topic, values(7), partition=3)
        reading.until(lambda: reading.next.get(3) == 27)
        assert reading.next == {1: 20, 2: 20, 3: 27}
        assert stats(consumer)["session_resets"] == stats(consumer)["errors"] == 0


def test_a_restarted_broker_has_forgotten_and_nothing_is_lost(kafka: RealKafka, topic: str) -> None:
    kafka.create_topic(topic, 3)
    kafka.produce(topic, values(30))
    with reader(kafka, topic, 3) as consumer:
        reading = Reading(consumer)
        reading.up_to(30)
        kafka.restart(1)
        kafka.produce(topic, values(30))
        reading.up_to(60)


def test_a_broker_without_room_for_sessions_is_read_all_the_same(topic: str) -> None:
    with RealKafka(1, {"max.incremental.fetch.session.cache.slots": 0}) as kafka:
        kafka.create_topic(topic, 8)
        with reader(kafka, topic, 8, fetch_max_wait_ms=20) as consumer:
            reading = Reading(consumer)
            for round_ in range(1, 6):
                kafka.produce(topic, values(20))
                reading.up_to(20 * round_)
            found = stats(consumer)
        assert found["partitions_asked"] > 4 * found["fetches"], (
            "each request lists all that are not being decoded"
        )
        assert found["session_resets"] == found["errors"] == 0

"""What changes under a consumer on three real brokers: leaders, coordinators, topics, the network."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from penstock import KafkaConsumer, TopicPartition
from tests.support.kafka import RealKafka
from tests.support.proxy import Proxy

pytestmark = pytest.mark.kafka
WAIT_S = 60.0


@contextmanager
def consumer_of(bootstrap: str, *topics: str, **config: Any) -> Iterator[KafkaConsumer]:
    options = {"auto_offset_reset": "earliest", "enable_auto_commit": False, "session_timeout_ms": 10_000}
    with KafkaConsumer(*topics, bootstrap_servers=bootstrap, **{**options, **config}) as consumer:
        yield consumer


class Feed:
    """Produces numbered values in the background, with all acknowledgements, until it is stopped."""

    def __init__(self, kafka: RealKafka, topic: str) -> None:
        from confluent_kafka import Producer

        self.acknowledged: set[bytes] = set()
        self._producer = Producer(
            {
                "bootstrap.servers": kafka.bootstrap_servers,
                "enable.idempotence": True,
                "linger.ms": 2,
                "log_level": 2,
                "topic.metadata.refresh.interval.ms": 1000,
            }
        )
        self._topic = topic
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def _delivered(self, error: object, message: Any) -> None:
        if error is None:
            self.acknowledged.add(message.value())

    def _run(self) -> None:
        number = 0
        while not self._stop.is_set():
            for _ in range(20):
                self._producer.produce(
                    self._topic, b"%d" % number, key=b"%d" % (number % 50), on_delivery=self._delivered
                )
                number += 1
            self._producer.poll(0.01)
        assert self._producer.flush(WAIT_S) == 0

    def __enter__(self) -> Feed:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()


class Reading:
    """What a consumer has returned; per partition the offsets have to follow each other (RELIABILITY: assign_contiguous)."""

    def __init__(self, consumer: KafkaConsumer) -> None:
        self.values: set[bytes] = set()
        self._consumer = consumer
        self._next: dict[int, int] = {}

    def poll(self) -> int:
        records = self._consumer.poll(timeout=100)
        for record in records:
            expected = self._next.get(record.partition, record.offset)
            assert record.offset == expected, (
                f"{record.topic_partition}: {record.offset} after {expected - 1}"
            )
            self._next[record.partition] = record.offset + 1
            self.values.add(record.value)
        return len(records)

    def until(self, condition: Callable[[], Any], what: str) -> None:
        deadline = time.monotonic() + WAIT_S
        while not condition():
            assert time.monotonic() < deadline, f"{what}: not within {WAIT_S} s; read {len(self.values)}"
            self.poll()


def test_a_killed_leader_costs_nothing(kafka3: RealKafka, topic: str) -> None:
    kafka3.create_topic(topic, 3)
    with consumer_of(kafka3.bootstrap_servers) as consumer:
        consumer.assign([TopicPartition(topic, number) for number in range(3)])
        reading = Reading(consumer)
        with Feed(kafka3, topic) as feed:
            reading.until(lambda: len(reading.values) > 500, "before the fault")
            victim = kafka3.leaders(topic)[0]
            kafka3.kill(victim)
            before = len(reading.values)
            reading.until(lambda: len(reading.values) > before + 2000, "after the leader died")
        reading.until(lambda: reading.values >= feed.acknowledged, "all that was acknowledged")


def test_a_killed_coordinator_costs_nothing(
    kafka3: RealKafka, topic: str, unique: Callable[[str], str]
) -> None:
    group = unique("group")
    kafka3.create_topic(topic, 3)
    with consumer_of(kafka3.bootstrap_servers, topic, group_id=group) as consumer:
        reading = Reading(consumer)
        with Feed(kafka3, topic) as feed:
            reading.until(lambda: len(reading.values) > 500, "before the fault")
            consumer.commit()
            coordinator = consumer._core.coordinator
            assert coordinator is not None and coordinator.node_id is not None
            kafka3.kill(coordinator.node_id)
            before = len(reading.values)
            reading.until(lambda: len(reading.values) > before + 2000, "after the coordinator died")
            consumer.commit()
        reading.until(lambda: reading.values >= feed.acknowledged, "all that was acknowledged")
        consumer.commit()
        assert kafka3.committed(group, topic) == kafka3.end_offsets(topic)


def test_a_broker_that_answers_no_more_is_given_up(
    kafka3: RealKafka, kafka3_proxies: dict[int, Proxy], topic: str
) -> None:
    """Half open: the connection stands, nothing comes. Only the request timeout tells."""
    kafka3.create_topic(topic, 3)
    with consumer_of(
        kafka3.proxied_bootstrap_servers, request_timeout_ms=2000, metadata_max_age_ms=1000
    ) as consumer:
        consumer.assign([TopicPartition(topic, number) for number in range(3)])
        reading = Reading(consumer)
        with Feed(kafka3, topic) as feed:
            reading.until(lambda: len(reading.values) > 300, "before the fault")
            proxy = kafka3_proxies[kafka3.leaders(topic)[0]]
            proxy.blackhole = "both"
            reading.until(lambda: len(reading.values) > 1000, "the other leaders' partitions")
            proxy.heal()
        reading.until(lambda: reading.values >= feed.acknowledged, "all that was acknowledged")


@pytest.mark.parametrize("fault", ["slices", "short-lived", "cut"])
def test_bad_networks(kafka3: RealKafka, kafka3_proxies: dict[int, Proxy], topic: str, fault: str) -> None:
    kafka3.create_topic(topic, 3)
    for proxy in kafka3_proxies.values():
        if fault == "slices":
            proxy.slice_bytes = 7
        elif fault == "short-lived":
            proxy.max_age_ms = 700
    with consumer_of(kafka3.proxied_bootstrap_servers) as consumer:
        consumer.assign([TopicPartition(topic, number) for number in range(3)])
        reading = Reading(consumer)
        with Feed(kafka3, topic) as feed:
            for turn in range(1, 6):
                reading.until(lambda wanted=turn * 200: len(reading.values) > wanted, f"turn {turn}")
                if fault == "cut":
                    for proxy in kafka3_proxies.values():
                        proxy.cut()
        for proxy in kafka3_proxies.values():
            proxy.heal()
        reading.until(lambda: reading.values >= feed.acknowledged, "all that was acknowledged")

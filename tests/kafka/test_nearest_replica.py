"""Reading from the nearest replica (KIP-392), on three brokers in three racks."""

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
SELECTOR = "org.apache.kafka.common.replica.RackAwareReplicaSelector"


@pytest.fixture(scope="module")
def racks() -> Iterator[RealKafka]:
    """Node n stands in rack rn."""
    cluster = RealKafka(3, {"replica.selector.class": SELECTOR})
    for node in cluster.nodes.values():
        node.config["broker.rack"] = f"r{node.id}"
    cluster.start()
    yield cluster
    cluster.stop()


@contextmanager
def reader(racks: RealKafka, topic: str, partitions: int = 1, **config: Any) -> Iterator[KafkaConsumer]:
    options = {"auto_offset_reset": "earliest", "client_rack": "r2", **config}
    with KafkaConsumer(bootstrap_servers=racks.bootstrap_servers, **options) as consumer:
        consumer.assign([TopicPartition(topic, number) for number in range(partitions)])
        yield consumer


def bytes_from(consumer: KafkaConsumer) -> dict[int, int]:
    """Bytes of records by the node that they came from."""
    return {node: size for node, (_, size) in consumer._core.fetcher.node_stats().items() if size}


class Reading:
    """Every record once and in order, or it fails."""

    def __init__(self, consumer: KafkaConsumer) -> None:
        self.next: dict[int, int] = {}
        self._consumer = consumer

    def poll(self) -> None:
        for record in self._consumer.poll(timeout=50):
            assert record.offset == self.next.get(record.partition, 0)
            self.next[record.partition] = record.offset + 1

    def until(self, condition: Callable[[], object], what: str) -> None:
        deadline = time.monotonic() + WAIT_S
        while not condition():
            assert time.monotonic() < deadline, f"{what}: read {self.next}, from {bytes_from(self._consumer)}"
            self.poll()

    def up_to(self, count: int) -> None:
        self.until(lambda: sum(self.next.values()) >= count, f"{count} records")


def values(count: int) -> list[tuple[None, bytes]]:
    return [(None, b"v" * 1000) for _ in range(count)]


def test_records_come_from_the_replica_of_the_own_rack(racks: RealKafka, topic: str) -> None:
    racks.create_topic(topic, replica_assignment=[[1, 2, 3], [2, 3, 1], [3, 1, 2]])
    for number in range(3):
        racks.produce(topic, values(200), partition=number)
    with reader(racks, topic, 3) as consumer:
        reading = Reading(consumer)
        reading.up_to(600)
        assert set(bytes_from(consumer)) == {2}
        racks.produce(topic, values(300))
        reading.up_to(900)
        assert set(bytes_from(consumer)) == {2}


def test_without_a_rack_of_its_own_a_consumer_reads_from_leaders(racks: RealKafka, topic: str) -> None:
    racks.create_topic(topic, replica_assignment=[[1, 2, 3], [3, 2, 1]])
    racks.produce(topic, values(400))
    for rack in ("", "nowhere"):
        with reader(racks, topic, 2, client_rack=rack) as consumer:
            Reading(consumer).up_to(400)
            assert set(bytes_from(consumer)) <= {1, 3}


def test_a_killed_follower_costs_nothing(racks: RealKafka, topic: str) -> None:
    racks.create_topic(topic, replica_assignment=[[1, 2, 3]])
    racks.produce(topic, values(100))
    with reader(racks, topic, metadata_max_age_ms=600_000) as consumer:
        reading = Reading(consumer)
        reading.up_to(100)
        assert set(bytes_from(consumer)) == {2}
        racks.kill(2)
        try:
            racks.produce(topic, values(100))
            reading.up_to(200)
            assert set(bytes_from(consumer)) == {1, 2}
        finally:
            racks.restart(2)
        racks.produce(topic, values(100))
        reading.up_to(300)


def test_the_leader_is_asked_again_after_metadata_max_age(racks: RealKafka, topic: str) -> None:
    racks.create_topic(topic, replica_assignment=[[1, 2, 3]])
    racks.produce(topic, values(10))
    with reader(racks, topic, metadata_max_age_ms=300) as consumer:
        fetches = consumer._core.fetcher.node_stats
        reading = Reading(consumer)
        reading.up_to(10)
        reading.until(lambda: fetches()[1][0] >= 3, "the leader is asked again")
        racks.produce(topic, values(10))
        reading.up_to(20)
        assert set(bytes_from(consumer)) == {2}, "each time it names the follower"


def test_a_moved_leader_and_its_followers(racks: RealKafka, topic: str) -> None:
    """The follower that is read from becomes the leader, then the only one that is left of both."""
    racks.create_topic(topic, replica_assignment=[[1, 2, 3]])
    racks.produce(topic, values(50))
    with reader(racks, topic) as consumer:
        reading = Reading(consumer)
        reading.up_to(50)
        racks.kill(1)
        try:
            racks.wait_leaders(topic, 1)
            racks.produce(topic, values(50))
            reading.up_to(100)
        finally:
            racks.restart(1)
        racks.produce(topic, values(50))
        reading.up_to(150)


def test_an_offset_that_nobody_has_is_reset_by_the_leaders_word(racks: RealKafka, topic: str) -> None:
    racks.create_topic(topic, replica_assignment=[[1, 2, 3]])
    racks.produce(topic, values(50))
    tp = TopicPartition(topic, 0)
    with reader(racks, topic) as consumer:
        reading = Reading(consumer)
        reading.up_to(50)
        assert set(bytes_from(consumer)) == {2}
        consumer.seek(tp, 10_000)
        reading.next = {}
        reading.up_to(50)

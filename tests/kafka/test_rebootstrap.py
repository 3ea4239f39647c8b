"""Brokers that move to other addresses: the client finds them again through its bootstrap address (KIP-899)."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from tools.kafka.kafka import HOST

from penstock import KafkaConsumer, TopicPartition
from tests.support.kafka import PROXIED, RealKafka
from tests.support.proxy import Proxy

pytestmark = pytest.mark.kafka
WAIT_S = 60.0
COUNT = 20


@contextmanager
def moving(kafka: RealKafka) -> Iterator[Proxy]:
    """A bootstrap address that leads to the broker's PROXIED listener at first."""
    with Proxy((HOST, kafka.nodes[1].ports[PROXIED])) as entrance:
        yield entrance


def move(kafka: RealKafka, entrance: Proxy, old: Proxy) -> None:
    """The only address that clients were told is gone; the bootstrap address leads to a listener with another one."""
    entrance.target = (HOST, kafka.nodes[1].port)
    old.refuse()
    old.reset()
    entrance.reset()


def read(consumer: KafkaConsumer, into: list[int], count: int) -> None:
    deadline = time.monotonic() + WAIT_S
    while len(into) < count:
        assert time.monotonic() < deadline, f"{len(into)} of {count} records within {WAIT_S} s"
        into += [record.offset for record in consumer.poll(timeout=100)]


def consumer_of(entrance: Proxy, *topics: str, **config: Any) -> KafkaConsumer:
    options = {"auto_offset_reset": "earliest", "enable_auto_commit": False, "metadata_max_age_ms": 600_000}
    return KafkaConsumer(*topics, bootstrap_servers=entrance.address, **{**options, **config})


@pytest.mark.parametrize("how", ["assign", "group"])
def test_brokers_that_moved_are_found_through_the_bootstrap_address(
    kafka: RealKafka, kafka_proxies: dict[int, Proxy], topic: str, unique: Callable[[str], str], how: str
) -> None:
    kafka.create_topic(topic)
    kafka.produce(topic, [(None, b"x")] * COUNT)
    group = unique("group")
    with moving(kafka) as entrance, consumer_of(entrance, topic, group_id=group) as consumer:
        if how == "assign":
            consumer.assign([0])
        offsets: list[int] = []
        read(consumer, offsets, COUNT)
        move(kafka, entrance, kafka_proxies[1])
        kafka.produce(topic, [(None, b"y")] * COUNT)
        read(consumer, offsets, 2 * COUNT)
        assert offsets == list(range(2 * COUNT))
        consumer.commit()
        assert kafka.committed(group, topic) == {0: 2 * COUNT}


def test_without_rebootstrap_only_the_known_brokers_are_tried(
    kafka: RealKafka, kafka_proxies: dict[int, Proxy], topic: str, caplog: pytest.LogCaptureFixture
) -> None:
    kafka.create_topic(topic)
    kafka.produce(topic, [(None, b"x")] * COUNT)
    caplog.set_level(logging.DEBUG, "penstock.engine.client")
    with (
        moving(kafka) as entrance,
        consumer_of(entrance, metadata_recovery_strategy="none", reconnect_backoff_max_ms=50) as consumer,
    ):
        consumer.assign([TopicPartition(topic, 0)])
        offsets: list[int] = []
        read(consumer, offsets, COUNT)
        old = kafka_proxies[1]
        move(kafka, entrance, old)
        made = entrance.connections_made
        kafka.produce(topic, [(None, b"y")] * COUNT)

        def tries() -> int:
            return sum(f"{old.address} is no use" in record.getMessage() for record in caplog.records)

        deadline = time.monotonic() + WAIT_S
        while tries() < 10:
            assert time.monotonic() < deadline, f"{tries()} tries of the known broker"
            assert not consumer.poll(timeout=20)
        assert entrance.connections_made == made
        old.accept()
        read(consumer, offsets, 2 * COUNT)
        assert offsets == list(range(2 * COUNT))

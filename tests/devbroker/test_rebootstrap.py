"""Known brokers that cannot be trusted any more: another cluster has their place, behind the same bootstrap address (KIP-1102)."""

from __future__ import annotations

import concurrent.futures
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from penstock import DevBroker, KafkaConsumer, KafkaProducer, TopicPartition
from tests.support.proxy import Proxy

METADATA = 3
REBOOTSTRAP_REQUIRED = 129
WAIT_S = 30.0
COUNT = 5
TP = TopicPartition("t", 0)


def fill(broker: DevBroker, name: str, count: int = COUNT) -> list[bytes]:
    broker.create_topic("t")
    values = [b"%s-%d" % (name.encode(), n) for n in range(count)]
    with KafkaProducer(bootstrap_servers=broker.bootstrap_servers) as producer:
        for value in values:
            producer.send("t", value)
    return values


@pytest.fixture
def clusters() -> Iterator[tuple[DevBroker, DevBroker, Proxy]]:
    """Two clusters, and the bootstrap address, which leads to the first."""
    with DevBroker() as first, DevBroker() as second:
        host, port = first.bootstrap_servers.split(":")
        with Proxy((host, int(port))) as entrance:
            yield first, second, entrance


def read(consumer: KafkaConsumer, into: list[bytes], count: int) -> None:
    deadline = time.monotonic() + WAIT_S
    while len(into) < count:
        assert time.monotonic() < deadline, f"{len(into)} of {count} records within {WAIT_S} s"
        into += [record.value for record in consumer.poll(timeout=100)]


@pytest.mark.parametrize("how", ["vanishes", "asks for it", "answers no metadata", "goes silent"])
def test_another_cluster_behind_the_bootstrap_address(
    clusters: tuple[DevBroker, DevBroker, Proxy], how: str
) -> None:
    """Its topic has the same name and another id: it is read from its beginning, and no offset of the old one is used."""
    first, second, entrance = clusters
    old, new = fill(first, "old"), fill(second, "new", 2 * COUNT)
    with KafkaConsumer(
        bootstrap_servers=entrance.address,
        auto_offset_reset="earliest",
        metadata_max_age_ms=100,
        metadata_recovery_rebootstrap_trigger_ms=300,
    ) as consumer:
        consumer.assign([TP])
        seen: list[bytes] = []
        read(consumer, seen, COUNT)
        host, port = second.bootstrap_servers.split(":")
        entrance.target = (host, int(port))
        entrance.reset()
        if how == "vanishes":
            first.stop()
        elif how == "asks for it":
            first.intercept(
                METADATA, lambda *_: {"error_code": REBOOTSTRAP_REQUIRED, "topics": [], "brokers": []}
            )
        elif how == "answers no metadata":
            first.intercept(METADATA, lambda *_: {"error_code": 35, "topics": [], "brokers": []})
        else:
            first.intercept(METADATA, lambda *_: concurrent.futures.Future())
        read(consumer, seen, 3 * COUNT)
    assert seen == old + new


def test_without_rebootstrap_a_broker_that_asks_for_it_is_stayed_with(
    clusters: tuple[DevBroker, DevBroker, Proxy],
) -> None:
    first, _, entrance = clusters
    old = fill(first, "old")
    asked = threading.Semaphore(0)
    with KafkaConsumer(
        bootstrap_servers=entrance.address,
        auto_offset_reset="earliest",
        metadata_max_age_ms=50,
        metadata_recovery_strategy="none",
        metadata_recovery_rebootstrap_trigger_ms=0,
    ) as consumer:
        consumer.assign([TP])
        seen: list[bytes] = []
        read(consumer, seen, COUNT)
        made = entrance.connections_made

        def refuse(request: Any, connection: Any) -> dict[str, Any]:
            asked.release()
            return {"error_code": REBOOTSTRAP_REQUIRED, "topics": [], "brokers": []}

        first.intercept(METADATA, refuse)
        for _ in range(3):
            assert asked.acquire(timeout=WAIT_S)
        assert entrance.connections_made == made
        assert seen == old

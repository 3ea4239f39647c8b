"""KafkaProducer against a real Apache Kafka."""

from __future__ import annotations

import threading
import time
from typing import Any

import pytest

from tests.support.kafka import RealKafka
from tests.support.proxy import Proxy

from .producer_behaviour import *  # noqa: F403 - the tests that both brokers pass
from .producer_behaviour import WAIT_S, create, producer_of, read_all, values

pytestmark = pytest.mark.kafka
QUICK: dict[str, Any] = {"retry_backoff_ms": 5, "reconnect_backoff_ms": 5, "reconnect_backoff_max_ms": 100}


@pytest.fixture
def bootstrap(kafka: RealKafka) -> str:
    return kafka.bootstrap_servers


@pytest.mark.parametrize("way", ["cut", "reset", "swallow"])
def test_connections_that_break_lose_and_repeat_nothing(
    kafka: RealKafka, kafka_proxies: dict[int, Proxy], topic: str, way: str
) -> None:
    """Answers get lost again and again: what was stored is known by its sequence number."""
    create(kafka.bootstrap_servers, topic, 2)
    (proxy,) = kafka_proxies.values()
    breaks, stop = 0, threading.Event()

    def trouble() -> None:
        nonlocal breaks
        while not stop.wait(0.03):
            if way == "swallow":
                proxy.blackhole = "to_client"  # requests arrive and are carried out, answers do not come
                stop.wait(0.03)
                proxy.reset()
                proxy.blackhole = None
            else:
                getattr(proxy, way)()
            breaks += 1

    troublemaker = threading.Thread(target=trouble)
    with producer_of(kafka.proxied_bootstrap_servers, batch_size=1_000, linger_ms=1, **QUICK) as producer:
        producer.send(topic, b"", partition=0).result(WAIT_S)
        troublemaker.start()
        futures = []
        deadline = time.monotonic() + WAIT_S
        while breaks < 25 and time.monotonic() < deadline:
            n = len(futures)
            futures.append(producer.send(topic, b"%d" % n, partition=n % 2))
            if n % 10 == 0:
                time.sleep(0.001)  # a steady stream over the time of the trouble
        stop.set()
        troublemaker.join(WAIT_S)
        proxy.heal()
        producer.flush(timeout=60_000)
        assert [future.exception(0) for future in futures] == [None] * len(futures)
    read = read_all(kafka.bootstrap_servers, topic)
    for partition, messages in read.items():
        numbers = [int(m.value()) for m in messages if m.value()]
        assert numbers == list(range(partition, len(futures), 2))


def test_a_broker_that_is_killed_and_comes_back(kafka: RealKafka, topic: str) -> None:
    create(kafka.bootstrap_servers, topic)
    with producer_of(kafka.bootstrap_servers, **QUICK) as producer:
        assert producer.send(topic, b"0").result(WAIT_S).offset == 0
        (node,) = kafka.nodes
        kafka.kill(node)
        futures = [producer.send(topic, b"%d" % n) for n in range(1, 100)]
        assert not any(future.done() for future in futures)
        kafka.restart(node)
        producer.flush(timeout=60_000)
        assert [future.exception(0) for future in futures] == [None] * 99
    assert values(kafka.bootstrap_servers, topic) == [b"%d" % n for n in range(100)]


def test_a_leader_that_is_killed(kafka3: RealKafka, topic: str) -> None:
    """Its followers take over; what was in flight is sent to them, once."""
    nodes = sorted(kafka3.nodes)
    kafka3.create_topic(
        topic, replica_assignment=[nodes, nodes[1:] + nodes[:1]], config={"min.insync.replicas": 2}
    )
    with producer_of(kafka3.bootstrap_servers, batch_size=500, linger_ms=1, **QUICK) as producer:
        futures = [producer.send(topic, b"%d" % n, partition=n % 2) for n in range(2_000)]
        producer.flush()
        kafka3.kill(kafka3.leaders(topic)[0])
        futures += [producer.send(topic, b"%d" % n, partition=n % 2) for n in range(2_000, 4_000)]
        producer.flush(timeout=60_000)
        assert [future.exception(0) for future in futures] == [None] * 4_000
    read = read_all(kafka3.bootstrap_servers, topic)
    assert {p: [int(m.value()) for m in messages] for p, messages in read.items()} == {
        p: list(range(p, 4_000, 2)) for p in (0, 1)
    }


def test_records_deleted_under_the_producer(kafka: RealKafka, topic: str) -> None:
    """What the broker remembers of a producer may go with the records; it goes on all the same."""
    from penstock.admin import Admin
    from penstock.types import TopicPartition

    create(kafka.bootstrap_servers, topic)
    with (
        producer_of(kafka.bootstrap_servers) as producer,
        Admin(bootstrap_servers=kafka.bootstrap_servers) as admin,
    ):
        for n in range(3):
            assert producer.send(topic, b"%d" % n).result(WAIT_S).offset == n
            admin.delete_records({TopicPartition(topic, 0): "latest"})

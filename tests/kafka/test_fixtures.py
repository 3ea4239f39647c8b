"""The servers that the other tests stand on do what they say."""

from __future__ import annotations

from collections.abc import Callable

import psycopg
import pytest
from confluent_kafka import TopicPartition
from tools.kafka.jars import KafkaToolError
from tools.kafka.kafka import java_tool
from tools.kafka.probe import live_brokers
from tools.postgres import RealPostgres

from tests.support.kafka import RealKafka

pytestmark = pytest.mark.kafka


def read_all(kafka: RealKafka, topic: str, count: int) -> list[bytes | None]:
    with kafka.reader("fixtures", auto_offset_reset="earliest") as consumer:
        consumer.assign([TopicPartition(topic, number, 0) for number in kafka.leaders(topic)])
        found: list[bytes | None] = []
        while len(found) < count:
            messages = consumer.consume(count - len(found), timeout=20)
            assert messages, f"{len(found)} of {count} records arrived"
            found += [message.value() for message in messages]
        return found


def test_what_is_produced_is_read_by_others(kafka: RealKafka, topic: str) -> None:
    kafka.create_topic(topic, 2)
    kafka.produce(topic, [(b"k%d" % number, b"v%d" % number) for number in range(50)])
    assert sorted(read_all(kafka, topic, 50)) == sorted(b"v%d" % number for number in range(50))
    assert sum(kafka.end_offsets(topic).values()) == 50


def test_places_are_in_order(kafka: RealKafka, topic: str) -> None:
    kafka.create_topic(topic, 2)
    assert kafka.produce(topic, [(None, b"a"), (None, b"b")], partition=1) == [(1, 0), (1, 1)]


def test_committed_offsets(kafka: RealKafka, topic: str, unique: Callable[[str], str]) -> None:
    kafka.create_topic(topic)
    group = unique("group")
    with kafka.reader(group) as consumer:
        consumer.commit(offsets=[TopicPartition(topic, 0, 7)], asynchronous=False)
    assert kafka.committed(group, topic) == {0: 7}


def test_kafkas_own_tools(kafka: RealKafka, topic: str) -> None:
    kafka.create_topic(topic)
    server = ["--bootstrap-server", kafka.bootstrap_servers, "--topic", topic]
    java_tool("org.apache.kafka.tools.ConsoleProducer", server, input="one\ntwo\n")
    read = java_tool(
        "org.apache.kafka.tools.consumer.ConsoleConsumer",
        [*server, "--from-beginning", "--max-messages", "2"],
    )
    assert read.stdout == "one\ntwo\n"


def test_a_failing_tool_says_what_it_wrote() -> None:
    with pytest.raises(KafkaToolError, match="NoSuchTool"):
        java_tool("org.apache.kafka.tools.NoSuchTool")


def test_a_dead_broker_loses_its_leaderships_and_comes_back(kafka3: RealKafka, topic: str) -> None:
    kafka3.create_topic(topic, replica_assignment=[[2, 1, 3]])
    kafka3.produce(topic, [(None, b"before")])
    kafka3.kill(2)
    assert not kafka3.nodes[2].running
    assert kafka3.produce(topic, [(None, b"after")]) == [(0, 1)]
    assert kafka3.leaders(topic)[0] in (1, 3)
    kafka3.restart(2)
    assert live_brokers("127.0.0.1", kafka3.nodes[1].port) == {1, 2, 3}


def test_clients_stay_behind_the_proxies(
    kafka3: RealKafka, kafka3_proxies: dict[int, object], topic: str
) -> None:
    kafka3.create_topic(topic, 3)
    with kafka3.reader("proxied", bootstrap_servers=kafka3.proxied_bootstrap_servers) as consumer:
        metadata = consumer.list_topics(topic, timeout=20)
    advertised = {f"{broker.host}:{broker.port}" for broker in metadata.brokers.values()}
    assert advertised == {proxy.address for proxy in kafka3.proxies.values()}


def test_postgres_keeps_what_was_committed_over_a_kill(
    postgres: RealPostgres, unique: Callable[[str], str]
) -> None:
    dsn = postgres.create_database(unique("db").lower()[:60])
    with psycopg.connect(dsn) as connection:
        connection.execute("CREATE TABLE t (n int)")
        connection.execute("INSERT INTO t VALUES (1)")
    postgres.kill()
    with pytest.raises(psycopg.OperationalError):
        psycopg.connect(dsn, connect_timeout=5)
    postgres.start()
    with psycopg.connect(dsn) as connection:
        assert connection.execute("SELECT n FROM t").fetchall() == [(1,)]

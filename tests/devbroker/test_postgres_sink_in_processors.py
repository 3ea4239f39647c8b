"""PostgresSink in processors: dead letters, where to go on, sessions that are ended all the time."""

from __future__ import annotations

import struct
import uuid
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest

from penstock import DevBroker, KafkaConsumer, KafkaProducer, PostgresSink, TopicPartition
from penstock.errors import HandlerStoppedError
from tests.support.sinks import Database, records_of

from .test_processor import Running, all_of, committed, processor_of, until

if TYPE_CHECKING:
    from tools.postgres import RealPostgres

pytestmark = pytest.mark.postgres

CHECKED = "CREATE TABLE t (n int PRIMARY KEY, v varchar(8) CHECK (v <> 'no'), d date)"


@pytest.fixture(scope="module")
def broker() -> Iterator[DevBroker]:
    with DevBroker(group_initial_rebalance_delay_ms=0) as running:
        yield running


@pytest.fixture
def database(postgres: RealPostgres) -> Database:
    return Database(postgres.create_database(f"db_{uuid.uuid4().hex}"))


def filled(broker: DevBroker, values: list[bytes], partitions: int = 1) -> str:
    topic = f"t-{uuid.uuid4().hex[:8]}"
    broker.create_topic(topic, partitions=partitions)
    with KafkaProducer(bootstrap_servers=broker.bootstrap_servers) as producer:
        for number, value in enumerate(values):
            producer.send(topic, value, partition=number % partitions, headers=[("n", b"%d" % number)])
    return topic


def test_bad_rows_become_dead_letters_with_their_origin(broker: DevBroker, database: Database) -> None:
    database.run(CHECKED)
    bad = {11: b"no json", 40: b'{"n": 39}', 41: b'{"n": "x"}'}
    topic = filled(broker, [bad.get(n, b'{"n": %d}' % n) for n in range(100)])
    broker.create_topic(f"{topic}.dlq")
    processor = processor_of(broker, database.group)
    processor.sink(topic, sink=PostgresSink(database.dsn, "t"), batch=30, dead_letter=f"{topic}.dlq")
    with Running(processor) as running:
        until(lambda: committed(broker, database.group, topic, 1) == {0: 100}, "all committed")
    assert running.error is None
    letters = all_of(broker, f"{topic}.dlq")
    origins = {
        struct.unpack(">q", dict(letter.headers)["kafka_dlt-original-offset"])[0]: letter
        for letter in letters
    }
    assert sorted(origins) == sorted(bad) and len(letters) == len(bad)
    assert {offset: letter.value for offset, letter in origins.items()} == bad
    assert all(dict(letter.headers)["kafka_dlt-original-topic"] == topic.encode() for letter in letters)
    assert all(dict(letter.headers)["n"] == b"%d" % offset for offset, letter in origins.items())
    assert b"duplicate key" in dict(origins[40].headers)["kafka_dlt-exception-message"]
    assert [n for (n,) in database.run("SELECT n FROM t ORDER BY n")] == [
        n for n in range(100) if n not in bad
    ]


def test_without_a_dead_letter_topic_a_bad_row_stops_the_processor(
    broker: DevBroker, database: Database
) -> None:
    database.run(CHECKED)
    topic = filled(broker, [b'{"n": %d}' % n for n in (0, 1, 1, 3)])
    processor = processor_of(broker, database.group)
    processor.sink(topic, sink=PostgresSink(database.dsn, "t"))
    with Running(processor) as running:
        running.ended()
    assert isinstance(running.error, HandlerStoppedError)
    assert "offset 2" in str(running.error.__cause__)
    assert database.run("SELECT n FROM t") == [(0,), (1,)]


@pytest.mark.parametrize("kafka_offset", [0, 3, 9])
def test_the_table_says_where_to_go_on_whatever_kafka_says(
    broker: DevBroker, database: Database, kafka_offset: int
) -> None:
    database.run("CREATE TABLE t (n int)")
    topic = filled(broker, [b'{"n": %d}' % n for n in range(10)])
    tp = TopicPartition(topic, 0)
    before = PostgresSink(database.dsn, "t")
    before.open(database.group)
    before.assigned([tp])
    before.write(records_of([b'{"n": %d}' % n for n in range(5)], topic=topic))
    before.close()
    with KafkaConsumer(bootstrap_servers=broker.bootstrap_servers, group_id=database.group) as consumer:
        consumer.assign([tp])
        consumer.commit({tp: kafka_offset})
    processor = processor_of(broker, database.group)
    processor.sink(topic, sink=PostgresSink(database.dsn, "t"))
    with Running(processor):
        until(lambda: len(database.run("TABLE t")) >= 10, "all rows")
        until(lambda: committed(broker, database.group, topic, 1) == {0: 10}, "all committed")
    assert database.run("SELECT n FROM t ORDER BY n") == [(n,) for n in range(10)]


def test_sessions_that_are_ended_again_and_again(broker: DevBroker, database: Database) -> None:
    """pg_terminate_backend from another session while two processors of a group store."""
    database.run("CREATE TABLE t (n int)")
    topic = filled(broker, [b'{"n": %d}' % n for n in range(4_000)], partitions=2)

    def storing() -> Any:
        processor = processor_of(broker, database.group)
        processor.sink(topic, sink=PostgresSink(database.dsn, "t"), batch=20)
        return Running(processor)

    ended_at = [0]

    def all_there() -> bool:
        """Ends all sessions once more for each few rows: oftener, and none would ever come to store any."""
        ((rows,),) = database.run("SELECT count(*) FROM t")
        if rows >= ended_at[-1] + 100:
            ended_at.append(rows)
            database.run(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name LIKE 'penstock%'"
            )
        return bool(rows >= 4_000)

    with storing() as one, storing() as other:
        until(all_there, "all rows")
        until(lambda: sum(committed(broker, database.group, topic, 2).values()) == 4_000, "all committed")
    assert len(ended_at) > 3
    assert (one.error, other.error) == (None, None)
    assert [n for (n,) in database.run("SELECT n FROM t ORDER BY n")] == list(range(4_000))

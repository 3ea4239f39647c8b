"""Exactly once, under kill -9 of every process at random moments: topic to topic (29), and into PostgreSQL (30)."""

from __future__ import annotations

import os
import random
import signal
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import psycopg
import pytest
from tools.kafka.kafka import java_tool

from tests.support.kafka import RealKafka
from tests.support.processors import child, ended

if TYPE_CHECKING:
    from tools.postgres import RealPostgres

pytestmark = pytest.mark.kafka

PARTITIONS = 3
RECORDS = 6_000
ROUNDS = int(os.environ.get("PENSTOCK_SOAK_ROUNDS", "4"))
WAIT_S = 90.0


def produced(kafka: RealKafka, topic: str, first: int, count: int) -> None:
    for partition in range(PARTITIONS):
        numbers = range(first + partition, first + count, PARTITIONS)
        kafka.produce(topic, ((b"k%d" % (n % 50), b"%d" % n) for n in numbers), partition=partition)


def until(condition: Callable[[], object], what: str, timeout_s: float = WAIT_S) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"in vain: {what}"
        time.sleep(0.1)


def as_java_reads(kafka: RealKafka, topic: str) -> dict[int, list[int]]:
    """What Kafka's own console consumer shows to who reads committed records, by partition, in order."""
    read = java_tool(
        "org.apache.kafka.tools.consumer.ConsoleConsumer",
        [
            "--bootstrap-server", kafka.bootstrap_servers, "--topic", topic, "--from-beginning", "--timeout-ms", "8000",
            "--isolation-level", "read_committed", "--formatter-property", "print.partition=true",
        ],
        check=False,
    )  # fmt: skip
    found: dict[int, list[int]] = defaultdict(list)
    for line in read.stdout.splitlines():
        if line.startswith("Partition:"):
            partition, value = line.removeprefix("Partition:").split("\t")
            found[int(partition)].append(int(value))
    return found


def expected(total: int) -> dict[int, list[int]]:
    return {partition: list(range(partition, total, PARTITIONS)) for partition in range(PARTITIONS)}


def test_29_transactional_copy(kafka: RealKafka, topic: str, unique: Callable[[str], str]) -> None:
    """Two copiers of a group; again and again one of them is killed in the midst, and another begins."""
    group, target, chance = unique("group"), unique("copy"), random.Random(29)
    kafka.create_topic(topic, PARTITIONS)
    kafka.create_topic(target, PARTITIONS)
    arguments = ("copy", kafka.bootstrap_servers, group, topic, target)
    total = 0

    def committed() -> int:
        return sum(kafka.committed(group, topic).values())

    with child(*arguments) as steady:
        for _ in range(ROUNDS):
            with child(*arguments) as doomed:
                produced(kafka, topic, total, RECORDS)
                total += RECORDS
                begun = committed()
                until(lambda: committed() > begun, "anything is committed")  # noqa: B023
                time.sleep(chance.random())
                ended(doomed, signal.SIGKILL)
            assert steady.poll() is None, ended(steady, signal.SIGTERM)
        until(lambda: committed() == total, "all is committed")
        ended(steady, signal.SIGTERM)
        assert steady.returncode == 0
    found = as_java_reads(kafka, target)
    assert sorted(n for numbers in found.values() for n in numbers) == list(range(total)), "lost, or twice"
    for partition, numbers in found.items():
        by_key = defaultdict(list)
        for number in numbers:
            by_key[number % 50].append(number)
        assert all(of_key == sorted(of_key) for of_key in by_key.values()), f"out of order in {partition}"


@pytest.fixture
def dsn(postgres: RealPostgres, unique: Callable[[str], str]) -> Iterator[str]:
    made = postgres.create_database(f"db_{random.randrange(1 << 40):x}")
    with psycopg.connect(made, autocommit=True) as connection:
        connection.execute("CREATE TABLE copies (place int, kafka_offset bigint, body text)")
    yield made


@pytest.mark.postgres
def test_30_pg_exactly_once(
    kafka: RealKafka, postgres: RealPostgres, dsn: str, topic: str, unique: Callable[[str], str]
) -> None:
    """Consumer, PostgreSQL and broker are killed in turn, at any moment; in the end the rows are what was produced, each once."""
    group, chance = unique("group"), random.Random(30)
    kafka.create_topic(topic, PARTITIONS)
    arguments = ("store", kafka.bootstrap_servers, group, topic, dsn)
    total = 0

    def rows() -> int:
        with psycopg.connect(dsn) as connection:
            found = connection.execute("SELECT count(*) FROM copies").fetchone()
        assert found is not None
        return int(found[0])

    with child(*arguments) as steady:
        for number in range(ROUNDS * 2):
            with child(*arguments) as doomed:
                before = rows()
                produced(kafka, topic, total, RECORDS)
                total += RECORDS
                until(lambda: rows() > before, "any row")  # noqa: B023
                time.sleep(chance.random() * 0.3)
                if number % 3 == 0:
                    ended(doomed, signal.SIGKILL)
                elif number % 3 == 1:
                    postgres.kill()
                    time.sleep(chance.random() * 0.3)
                    postgres.start()
                else:
                    kafka.kill(1)
                    time.sleep(chance.random() * 0.3)
                    kafka.restart(1)
                if doomed.poll() is None:
                    ended(doomed, chance.choice([signal.SIGKILL, signal.SIGTERM]))
            assert steady.poll() is None, ended(steady, signal.SIGTERM)
        until(lambda: rows() >= total, "all rows")
        errors = ended(steady, signal.SIGTERM)
        assert steady.returncode == 0, errors
    with psycopg.connect(dsn) as connection:
        stored = connection.execute(
            "SELECT place, body::int FROM copies ORDER BY place, kafka_offset"
        ).fetchall()
        offsets = connection.execute(
            "SELECT partition, next_offset FROM penstock_offsets WHERE group_id = %s", [group]
        )
        next_offsets = dict(offsets.fetchall())
    found: dict[int, list[int]] = defaultdict(list)
    for place, body in stored:
        found[place].append(body)
    assert found == expected(total)
    assert next_offsets == kafka.end_offsets(topic)

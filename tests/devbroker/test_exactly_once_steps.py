"""Test 30 step by step: a sink's process is killed before and after each thing that it says to PostgreSQL."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import psycopg
import pytest

from penstock import DevBroker, KafkaProducer

if TYPE_CHECKING:
    from tools.postgres import RealPostgres

pytestmark = pytest.mark.postgres
ROOT = Path(__file__).parents[2]
PARTITIONS, RECORDS = 2, 1_000
STEPS = 60
"""More than there are before a second batch is stored."""
TRIES = STEPS if os.environ.get("PENSTOCK_SOAK_ROUNDS") else 14
WAIT_S = 60.0


@pytest.fixture
def dsn(postgres: RealPostgres) -> Iterator[str]:
    made = postgres.create_database(f"db_{random.randrange(1 << 40):x}")
    with psycopg.connect(made, autocommit=True) as connection:
        connection.execute(
            "CREATE TABLE copies (place int, kafka_offset bigint, body text, stored int DEFAULT 1, PRIMARY KEY (place, kafka_offset))"
        )
        # An upsert would hide a record that is stored twice: the second time changes a row.
        connection.execute(
            "CREATE FUNCTION again() RETURNS trigger LANGUAGE plpgsql AS "
            "'BEGIN NEW.stored := OLD.stored + 1; RETURN NEW; END'"
        )
        connection.execute(
            "CREATE TRIGGER again BEFORE UPDATE ON copies FOR EACH ROW EXECUTE FUNCTION again()"
        )
    yield made


def begun(step: int, *arguments: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "tests.support.dying", str(step), *arguments]
    return subprocess.Popen(command, cwd=ROOT, stderr=subprocess.DEVNULL)


def test_30_each_step_of_a_transaction_may_be_the_last(dsn: str) -> None:
    steps = [*sorted(random.sample(range(1, STEPS), TRIES - 1)), STEPS]
    with DevBroker(group_initial_rebalance_delay_ms=0) as broker:
        broker.create_topic("orders", partitions=PARTITIONS)
        arguments = (broker.bootstrap_servers, "store", "orders", dsn)
        total = 0
        with KafkaProducer(bootstrap_servers=broker.bootstrap_servers) as producer:
            for step in steps:
                for _ in range(RECORDS // 10):
                    producer.send("orders", b"%d" % total, partition=total % PARTITIONS)
                    total += 1
                producer.flush()
                dying = begun(step, *arguments)
                assert dying.wait(WAIT_S) == -signal.SIGKILL, f"step {step} never came"
        living = begun(0, *arguments)
        try:
            with psycopg.connect(dsn, autocommit=True) as connection:
                deadline = time.monotonic() + WAIT_S
                while _count(connection) < total:
                    assert time.monotonic() < deadline and living.poll() is None
                    time.sleep(0.05)
                living.terminate()
                assert living.wait(WAIT_S) == 0
                rows = connection.execute(
                    "SELECT place, body::int, stored FROM copies ORDER BY place, kafka_offset"
                ).fetchall()
        finally:
            living.kill()
            living.wait()
    expected = [
        (place, number, 1) for place in range(PARTITIONS) for number in range(place, total, PARTITIONS)
    ]
    assert rows == expected, f"killed at steps {steps}"


def _count(connection: psycopg.Connection[tuple[int]]) -> int:
    found = connection.execute("SELECT count(*) FROM copies").fetchone()
    assert found is not None
    return int(found[0])

"""A spool against a real Kafka: an outage is worked through, and a kill in the midst of it repeats nothing that was done."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.kafka import RealKafka
from tests.support.spooling import Child

pytestmark = pytest.mark.kafka

RECORDS = 2_000
WAIT_S = 60.0


def until(condition: Callable[[], object], what: str) -> None:
    deadline = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < deadline, f"in vain: {what}"
        time.sleep(0.05)


def test_an_outage_is_worked_through_and_a_kill_repeats_nothing(
    kafka: RealKafka, topic: str, tmp_path: Path
) -> None:
    kafka.create_topic(topic, 1)
    kafka.produce(
        topic, ((b"k%d" % number, b"value-%04d" % number) for number in range(RECORDS)), partition=0
    )
    arguments, options = (kafka.bootstrap_servers, topic, tmp_path / "spool"), {"max_buffered_records": 50}
    with Child(*arguments, takes_s=0.02, concurrency=10, **options) as child:
        until(lambda: child.records_on_disk().count(b"value-") == RECORDS, "all are on disk")
        first = len(child.handled())
        assert first < RECORDS // 2, "most are on disk only"
        for node in kafka.nodes:
            kafka.pause(node)
        try:
            until(lambda: len(child.handled()) > RECORDS // 2, "progress during the outage")
            child.kill()
        finally:
            for node in kafka.nodes:
                kafka.resume(node)
    kafka.wait_ready()
    done = {offset for start, end in child.journal().ranges(None) for offset in range(start, end)}
    assert len(done) > RECORDS // 3
    with Child(*arguments, **options) as again:
        until(lambda: kafka.committed(f"g-{topic}", topic) == {0: RECORDS}, "all committed")
        again.stop()
    repeated = again.handled()
    assert not done & set(repeated), "the journal had them"
    assert set(child.handled()) | set(repeated) == set(range(RECORDS)), "a record is lost"
    assert len(repeated) == len(set(repeated))

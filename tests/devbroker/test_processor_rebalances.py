"""What a revocation leaves behind: test 10, on a broker; the simulation has the rest, in any order."""

from __future__ import annotations

import asyncio
import uuid
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest

from penstock import DevBroker, KafkaProducer, Processor
from tests.devbroker.test_processor import Running, committed, made, processor_of, until

QUICK, LATE = 1, 0  # offsets in each partition: the first record is the one that does not end in time


@pytest.fixture(scope="module")
def broker() -> Iterator[DevBroker]:
    with DevBroker(group_initial_rebalance_delay_ms=0) as running:
        yield running


@pytest.mark.parametrize("strategy", ["range", "cooperative-sticky"])
def test_10_what_ends_within_the_drain_counts_and_what_ends_later_does_not(
    broker: DevBroker, strategy: str
) -> None:
    topic, group = made(broker, partitions=2), uuid.uuid4().hex
    with KafkaProducer(bootstrap_servers=broker.bootstrap_servers) as producer:
        for partition in range(2):
            for offset in range(3):
                producer.send(topic, b"%d" % offset, b"k%d" % offset, partition=partition)
    begun: Counter[tuple[str, int, int]] = Counter()
    ended: set[tuple[str, int, int]] = set()
    may_end = {("first", LATE): False, ("first", QUICK): False, ("second", LATE): False}

    def member(name: str) -> Processor:
        processor = processor_of(
            broker, group, drain_timeout="1s", **{"partition.assignment.strategy": strategy}
        )

        # In a thread, which cannot be cancelled: it ends after its partition has gone.
        @processor.handler(topic, executor="thread", concurrency=8)
        def handle(record: Any) -> None:
            call = (name, record.partition, record.offset)
            begun[call] += 1
            asyncio.run(released(name, record.offset))
            ended.add(call)

        return processor

    async def released(name: str, offset: int) -> None:
        while not may_end.get((name, offset), True):
            await asyncio.sleep(0.01)

    with Running(member("first")) as first:
        until(lambda: len(begun) == 6 and len(ended) == 2, "all are begun, and two of three wait")
        with Running(member("second")):
            until(lambda: len(first.processor.health().details["partitions"]) == 2, "it has both")  # type: ignore[arg-type]
            may_end["first", QUICK] = True  # the drain has begun, or is about to
            until(lambda: any(name == "second" for name, _, _ in begun), "one of them has gone")
            (gone,) = {partition for name, partition, _ in begun if name == "second"}
            may_end["first", LATE] = True
            until(lambda: ("first", gone, LATE) in ended, "what was late has ended")
            begun_by_second = {offset for name, _, offset in begun if name == "second"}
            assert begun_by_second == {LATE}, "what ended in time is not handled again; what did not is"
            assert committed(broker, group, topic, 2).get(gone, 0) == LATE, (
                "and does not count for the first owner"
            )
            may_end["second", LATE] = True
            until(lambda: committed(broker, group, topic, 2) == {0: 3, 1: 3}, "all is committed")
    assert begun["second", gone, LATE] == 1

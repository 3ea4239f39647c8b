"""Exactly once from topic to topic, dead letters and retry topics included, while processes are killed."""

from __future__ import annotations

import asyncio
import json
import random
import signal
import time
from typing import Any

from penstock import DevBroker, KafkaConsumer, KafkaProducer, Output, Processor, TopicPartition
from penstock.processing.dead_letters import STACKTRACE
from tests.devbroker.test_processor import Running, committed, made, processor_of, until
from tests.support.processors import child, ended

ROUNDS, RECORDS, WAIT_S = 5, 600, 30.0


def committed_records(broker: DevBroker, topic: str) -> list[Any]:
    """Of all records that are part of no transaction, or of a committed one."""
    with KafkaConsumer(
        bootstrap_servers=broker.bootstrap_servers,
        isolation_level="read_committed",
        auto_offset_reset="earliest",
    ) as consumer:
        partitions = [TopicPartition(topic, info.partition) for info in consumer.partitions_for(topic)]
        consumer.assign(partitions)
        ends = consumer.end_offsets(partitions)
        found: list[Any] = []
        deadline = time.monotonic() + WAIT_S
        while any(consumer.position(tp) < ends[tp] for tp in partitions):
            assert time.monotonic() < deadline
            found += consumer.poll(100)
        return found


def committed_values(broker: DevBroker, topic: str) -> list[bytes]:
    return [record.value for record in committed_records(broker, topic)]


def progress(broker: DevBroker, topic: str, least: int) -> None:
    until(lambda: sum(committed(broker, "group", topic).values()) >= least, f"{least} are committed")


def written(broker: DevBroker, topic: str, least: int) -> None:
    until(lambda: len(committed_values(broker, topic)) >= least, f"{least} are written to {topic}")


def test_29_32_copies_and_dead_letters_are_each_there_once() -> None:
    with DevBroker(group_initial_rebalance_delay_ms=0, group_min_session_timeout_ms=100) as broker:
        source, target = made(broker), "target"
        for topic in (target, f"{target}.dlq", f"{target}.later"):
            broker.create_topic(topic, partitions=2)
        arguments = ("sort_out", broker.bootstrap_servers, "group", source, target)
        total = 0
        with KafkaProducer(bootstrap_servers=broker.bootstrap_servers) as producer:
            for number in range(ROUNDS + 1):
                with child(*arguments) as process:
                    before = sum(committed(broker, "group", source).values())
                    for n in range(total, total + RECORDS):
                        producer.send(source, b"%d" % n, b"k%d" % (n % 50), partition=n % 3)
                    total += RECORDS
                    producer.flush()
                    if number < ROUNDS:
                        progress(broker, source, before + 1)
                        time.sleep(random.random() * 0.3)
                        ended(process, signal.SIGKILL)
                        continue
                    progress(broker, source, total)
                    written(broker, target, total * 9 // 10)
                    errors = ended(process, signal.SIGTERM)
                    assert process.returncode == 0, errors
        good = sorted(json.loads(value)["number"] for value in committed_values(broker, target))
        bad = sorted(int(value) for value in committed_values(broker, f"{target}.dlq"))
        assert bad == list(range(0, total, 10))
        assert good == sorted(set(range(total)) - set(bad))


def test_29_what_is_done_beyond_the_offset_is_written_by_who_comes_next() -> None:
    """The first record hangs, all others are done: none of them may count as done, since nothing of them was written."""
    with DevBroker(group_initial_rebalance_delay_ms=0) as broker:
        source, target = made(broker, partitions=1), made(broker)
        with KafkaProducer(bootstrap_servers=broker.bootstrap_servers) as producer:
            for number in range(20):
                producer.send(source, b"%d" % number)
        handled: list[bytes] = []
        for hangs in (True, False):
            processor = processor_of(broker, "group", exactly_once=True, drain_timeout="100ms")

            @processor.handler(source, order_by=None, output=target)
            async def handle(record: Any, hangs: bool = hangs) -> bytes:
                while hangs and record.offset == 0:
                    await asyncio.sleep(0.01)
                handled.append(record.value)
                return bytes(record.value)

            with Running(processor):
                if hangs:
                    until(lambda: len(handled) == 19, "all but the first are handled")
                    time.sleep(0.2)  # for some commits
                else:
                    written(broker, target, 20)
        assert sorted(map(int, committed_values(broker, target))) == list(range(20))


def test_what_cannot_be_serialized_is_one_records_failure() -> None:
    with DevBroker(group_initial_rebalance_delay_ms=0) as broker:
        source = made(broker, 20)
        for exactly_once in (False, True):
            target = made(broker)
            letters = made(broker)
            processor: Processor = processor_of(
                broker, exactly_once=exactly_once, value_serializer=lambda value: json.dumps(value).encode()
            )

            @processor.handler(source, output=target, dead_letter=letters)
            async def handle(record: Any) -> Output:
                return Output(object() if record.value == b"7" else {"n": int(record.value)})

            with Running(processor):
                until(lambda: len(committed_values(broker, target)) == 19, "the others are there")  # noqa: B023
                until(lambda: committed_values(broker, letters) == [b"7"], "raw, and not as JSON")  # noqa: B023


def test_a_record_that_is_too_large_with_its_stack_trace_goes_without() -> None:
    with DevBroker(group_initial_rebalance_delay_ms=0) as broker:
        for exactly_once in (False, True):
            source, letters = made(broker), made(broker)
            with KafkaProducer(
                bootstrap_servers=broker.bootstrap_servers, max_request_size=2_000_000
            ) as producer:
                producer.send(source, b"x" * 1_043_000)
            processor = processor_of(broker, exactly_once=exactly_once)

            @processor.handler(source, dead_letter=letters)
            async def handle(record: Any) -> None:
                raise ValueError("it is too long a story: " + "x" * 9_000)

            with Running(processor):
                until(lambda: committed_values(broker, letters), "the dead letter")  # noqa: B023
            (letter,) = committed_records(broker, letters)
            assert STACKTRACE not in dict(letter.headers)

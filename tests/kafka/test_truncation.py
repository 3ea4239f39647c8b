"""RELIABILITY 23: an unclean election loses records that were read. Neither duplicates nor a reset follow (KIP-320)."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest

from penstock import KafkaConsumer, TopicPartition
from penstock.errors import LogTruncationError
from tests.support.kafka import RealKafka

pytestmark = pytest.mark.kafka
WAIT_S = 60.0
SURVIVING, LOST, NEW = 50, 30, 80


@contextmanager
def consumer_of(kafka: RealKafka, **config: Any) -> Iterator[KafkaConsumer]:
    options = {"auto_offset_reset": "earliest", "enable_auto_commit": False, "metadata_max_age_ms": 600_000}
    with KafkaConsumer(bootstrap_servers=kafka.bootstrap_servers, **{**options, **config}) as consumer:
        yield consumer


def read(consumer: KafkaConsumer, into: list[tuple[int, bytes]], count: int) -> None:
    """Until `into` holds so many (offset, value)."""
    deadline = time.monotonic() + WAIT_S
    while len(into) < count:
        assert time.monotonic() < deadline, (
            f"{len(into)} of {count} records within {WAIT_S} s; last: {into[-3:]}"
        )
        into += [(r.offset, r.value) for r in consumer.poll(timeout=100)]


def messages(name: str, count: int) -> list[tuple[None, bytes]]:
    return [(None, b"%s-%d" % (name.encode(), n)) for n in range(count)]


def lose_the_end(kafka: RealKafka, tp: TopicPartition, read_all: Callable[[], None]) -> None:
    """Let the leader alone store LOST more records, have them read, and elect the follower that never saw them."""
    leader = kafka.leaders(tp.topic)[tp.partition]
    (follower,) = {1, 2} - {leader}
    kafka.kill(follower)
    kafka.produce(tp.topic, messages("lost", LOST), config={"acks": 1})
    read_all()  # the high watermark passes them once the follower is out of the in-sync replicas
    kafka.kill(leader)
    kafka.restart(follower)
    deadline = time.monotonic() + WAIT_S
    while (now := kafka.leaders(tp.topic).get(tp.partition)) != follower:
        assert time.monotonic() < deadline, f"node {follower} was not elected; the leader is {now}"
        time.sleep(0.05)
    kafka.produce(tp.topic, messages("new", NEW), config={"acks": 1})


def expected(*parts: tuple[int, str, int]) -> list[tuple[int, bytes]]:
    return [(base + n, b"%s-%d" % (name.encode(), n)) for base, name, count in parts for n in range(count)]


def test_23_truncation(kafka3: RealKafka, topic: str, unique: Callable[[str], str]) -> None:
    """Four readers of all that was lost: one goes on, one has no reset policy, two have committed and stopped. The new log is longer
    than the old one was, so that an offset alone would not show that it belongs to another log."""
    settings = {"min.insync.replicas": 1, "unclean.leader.election.enable": "true"}
    kafka3.create_topic(topic, config=settings, replica_assignment=[[1, 2]])
    kafka3.produce(topic, messages("kept", SURVIVING))
    tp = TopicPartition(topic, 0)
    before = expected((0, "kept", SURVIVING), (SURVIVING, "lost", LOST))
    after = expected((SURVIVING, "new", NEW))
    group = unique("group")
    with ExitStack() as stack:
        going_on = stack.enter_context(consumer_of(kafka3, auto_offset_reset="earliest"))
        strict = stack.enter_context(consumer_of(kafka3, auto_offset_reset="none"))
        for consumer in (going_on, strict):
            consumer.assign([tp])
        strict.seek(tp, 0)
        seen: dict[KafkaConsumer, list[tuple[int, bytes]]] = {going_on: [], strict: []}

        def read_all() -> None:
            for consumer, into in seen.items():
                read(consumer, into, SURVIVING + LOST)
            with consumer_of(kafka3, group_id=group) as stopping:
                stopping.assign([tp])
                read(stopping, [], SURVIVING + LOST)
                stopping.commit()

        lose_the_end(kafka3, tp, read_all)
        read(going_on, seen[going_on], len(before + after))
        assert seen[going_on] == before + after
        with pytest.raises(
            LogTruncationError, match=f"parts from what was read at offset {SURVIVING}"
        ) as caught:
            read(strict, seen[strict], len(before) + 1)
        assert seen[strict] == before
        assert caught.value.offsets[tp].offset == SURVIVING + LOST
        assert caught.value.divergent_offsets[tp].offset == SURVIVING
        strict.seek(tp, caught.value.divergent_offsets[tp])
        read(strict, seen[strict], len(before + after))
        assert seen[strict] == before + after

    resumed: list[tuple[int, bytes]] = []
    with consumer_of(kafka3, group_id=group, auto_offset_reset="earliest", max_poll_records=10) as consumer:
        consumer.assign([tp])
        read(consumer, resumed, 10)
        consumer.commit()  # below what was committed, which is of records that are no more
        assert kafka3.committed(group, topic) == {0: SURVIVING + 10}
        read(consumer, resumed, NEW)
    assert resumed == after

"""Positions by the user's word: seek, reset policies, times, pause (RELIABILITY 28: no stale and no lost record)."""

from __future__ import annotations

import datetime
import random
import threading
import time
from collections import defaultdict
from collections.abc import Callable

import pytest
from confluent_kafka import Producer

from penstock import KafkaConsumer, OffsetAndMetadata, TopicPartition
from penstock.errors import IllegalStateError, NoOffsetForPartitionError, OffsetOutOfRangeError
from tests.support.consuming import WAIT_S, consumer_of, numbered, read, until
from tests.support.kafka import QUIET, RealKafka

pytestmark = pytest.mark.kafka


def test_seek_and_its_kin(kafka: RealKafka, topic: str) -> None:
    kafka.create_topic(topic, 1)
    kafka.produce(topic, numbered(20))
    tp = TopicPartition(topic, 0)
    with consumer_of(kafka) as consumer:
        consumer.assign([tp])
        assert [r.offset for r in read(consumer, 20)] == list(range(20))
        consumer.seek(tp, 13)
        assert consumer.position(tp) == 13
        assert [r.offset for r in read(consumer, 7)] == list(range(13, 20))
        consumer.seek_to_beginning(tp)
        assert consumer.position(tp) == 0
        consumer.seek_to_end()
        assert consumer.position(tp) == 20
        consumer.seek(tp, OffsetAndMetadata(19))
        assert read(consumer, 1)[0].offset == 19
        assert consumer.beginning_offsets([tp]) == {tp: 0}
        assert consumer.end_offsets([tp]) == {tp: 20}
        with pytest.raises(IllegalStateError, match="not assigned"):
            consumer.seek(TopicPartition(topic, 5), 0)
        with pytest.raises(ValueError, match="start at 0"):
            consumer.seek(tp, -3)


def test_offsets_for_times(kafka: RealKafka, topic: str) -> None:
    kafka.create_topic(topic, 1)
    kafka.produce(topic, numbered(3))
    middle = datetime.datetime.now(datetime.UTC) + datetime.timedelta(milliseconds=5)
    until(lambda: datetime.datetime.now(datetime.UTC) > middle)
    kafka.produce(topic, numbered(3))
    tp = TopicPartition(topic, 0)
    with consumer_of(kafka) as consumer:
        found = consumer.offsets_for_times({tp: middle})[tp]
        assert found is not None and found.offset == 3
        assert consumer.offsets_for_times({tp: 2**52})[tp] is None


def test_pause_keeps_what_was_fetched(kafka: RealKafka, topic: str) -> None:
    kafka.create_topic(topic, 2)
    kafka.produce(topic, numbered(10), partition=0)
    kafka.produce(topic, numbered(10), partition=1)
    paused, other = TopicPartition(topic, 0), TopicPartition(topic, 1)
    with consumer_of(kafka) as consumer:
        consumer.assign([paused, other])
        until(lambda: consumer._fetcher.buffered_records() == 20)
        consumer.pause(paused)
        assert consumer.paused() == {paused}
        assert {r.partition for r in read(consumer, 11, timeout_s=1)} == {1}
        fetches = consumer._fetcher.stats()["records"]
        consumer.resume(paused)
        assert [r.offset for r in read(consumer, 10)] == list(range(10))
        assert consumer._fetcher.stats()["records"] == fetches, (
            "what was fetched before the pause was fetched again"
        )


def test_nothing_committed_and_reset_none(kafka: RealKafka, topic: str, unique: Callable[[str], str]) -> None:
    kafka.create_topic(topic, 1)
    kafka.produce(topic, numbered(5))
    tp = TopicPartition(topic, 0)
    with consumer_of(kafka, group_id=unique("group"), auto_offset_reset="none") as consumer:
        consumer.assign([tp])
        with pytest.raises(NoOffsetForPartitionError) as caught:
            read(consumer, 1, timeout_s=10)
        assert caught.value.partitions == (tp,)
        consumer.seek(tp, 2)
        assert len(read(consumer, 3)) == 3
        consumer.seek(tp, 500)
        with pytest.raises(OffsetOutOfRangeError, match="500"):
            read(consumer, 1, timeout_s=10)
        consumer.seek(tp, 4)
        assert len(read(consumer, 1)) == 1


def test_out_of_range_follows_the_reset_policy(kafka: RealKafka, topic: str) -> None:
    kafka.create_topic(topic, 1)
    kafka.produce(topic, numbered(5))
    tp = TopicPartition(topic, 0)
    with consumer_of(kafka) as consumer:
        consumer.assign([tp])
        consumer.seek(tp, 500)
        assert [r.offset for r in read(consumer, 5)] == [0, 1, 2, 3, 4]


def fill(kafka: RealKafka, topic: str, partitions: int, count: int) -> list[TopicPartition]:
    kafka.create_topic(topic, partitions)
    for partition in range(partitions):
        kafka.produce(topic, numbered(count), partition=partition)
    return [TopicPartition(topic, partition) for partition in range(partitions)]


@pytest.mark.parametrize("seed", range(3))
def test_28_seek_batch(kafka: RealKafka, topic: str, seed: int) -> None:
    """All partitions are sought again and again while fetches, answers and chunks of the places before are under way: the first record
    of each is the one that was sought, and none follows but its successor."""
    chance = random.Random(seed)
    partitions = fill(kafka, topic, 8, 200)
    with consumer_of(kafka, max_poll_records=40, max_partition_fetch_bytes=2_000) as consumer:
        consumer.assign(partitions)
        for _ in range(25):
            expected = {tp: chance.randrange(200) for tp in partitions}
            for tp, offset in expected.items():
                consumer.seek(tp, offset)
            unseen = set(partitions)
            deadline = time.monotonic() + WAIT_S
            while unseen:
                assert time.monotonic() < deadline, f"nothing of {unseen}"
                for record in consumer.poll(timeout=500):
                    tp = record.topic_partition
                    assert record.offset == expected[tp], f"{tp}: {record.offset}, expected {expected[tp]}"
                    expected[tp] += 1
                    unseen.discard(tp)
                for tp in chance.sample(partitions, 2):
                    expected[tp] = chance.randrange(200)
                    consumer.seek(tp, expected[tp])


@pytest.mark.parametrize("seed", range(3))
def test_28_pause_resume(kafka: RealKafka, topic: str, seed: int) -> None:
    """Nothing of a paused partition is returned, nothing is lost, and what was fetched is not fetched again."""
    chance = random.Random(seed)
    partitions = fill(kafka, topic, 6, 300)
    seen: dict[TopicPartition, list[int]] = defaultdict(list)
    with consumer_of(kafka, max_poll_records=17, max_partition_fetch_bytes=2_000) as consumer:
        consumer.assign(partitions)
        deadline = time.monotonic() + WAIT_S
        while sum(map(len, seen.values())) < 6 * 300:
            assert time.monotonic() < deadline, {tp: len(offsets) for tp, offsets in seen.items()}
            resting = set(chance.sample(partitions, chance.randrange(6)))
            consumer.pause(resting)
            consumer.resume([tp for tp in partitions if tp not in resting])
            assert consumer.paused() == resting
            for record in consumer.poll(timeout=100):
                assert record.topic_partition not in resting
                seen[record.topic_partition].append(record.offset)
        assert consumer._fetcher.stats()["records"] == 6 * 300, "records were fetched twice"
    assert seen == {tp: list(range(300)) for tp in partitions}


def test_28_a_pause_outlives_a_rebalance_that_keeps_the_partition(
    kafka: RealKafka, topic: str, unique: Callable[[str], str]
) -> None:
    """As in Java's consumer, what is taken away and given back later is no longer paused."""
    partitions = fill(kafka, topic, 2, 10)
    with consumer_of(
        kafka, topic, group_id=unique("group"), partition_assignment_strategy="cooperative-sticky"
    ) as consumer:
        seen = [record.topic_partition for record in read(consumer, 20)]
        assert set(seen) == set(partitions)
        consumer.pause(partitions)
        other = KafkaConsumer(
            topic,
            bootstrap_servers=kafka.bootstrap_servers,
            group_id=consumer._core.config["group.id"],
            partition_assignment_strategy="cooperative-sticky",
        )
        polling, stop = _poll_until(other, lambda: len(other.assignment()) == 1)
        until(lambda: len(consumer.assignment()) == 1 and polling.is_set(), consumer)
        assert consumer.paused() == consumer.assignment()
        stop()
        until(lambda: len(consumer.assignment()) == 2, consumer)
        assert len(consumer.paused()) == 1


def _poll_until(
    consumer: KafkaConsumer, condition: Callable[[], bool]
) -> tuple[threading.Event, Callable[[], None]]:
    """Poll in a thread; the event tells that the condition came true, the function stops and closes."""
    reached, stopping = threading.Event(), threading.Event()

    def run() -> None:
        with consumer:
            while not stopping.is_set():
                consumer.poll(timeout=50)
                if condition():
                    reached.set()

    thread = threading.Thread(target=run)
    thread.start()

    def stop() -> None:
        stopping.set()
        thread.join()

    return reached, stop


# ---------------------------------------------------------------- reset policies


def produce_at(kafka: RealKafka, topic: str, timestamps_ms: list[int]) -> None:
    producer = Producer({"bootstrap.servers": kafka.bootstrap_servers, **QUIET})
    for number, timestamp_ms in enumerate(timestamps_ms):
        producer.produce(topic, b"%d" % number, partition=0, timestamp=timestamp_ms)
    assert producer.flush(WAIT_S) == 0


@pytest.mark.parametrize(
    ("policy", "position"),
    [
        ("earliest", 0),
        ("latest", 6),
        ("by_duration:PT1H", 4),
        ("by_duration:PT2H30M", 2),
        ("by_duration:P1D", 0),
        ("by_duration:PT1S", 6),  # nothing is that young: the end
    ],
)
def test_where_a_reset_leads(kafka: RealKafka, topic: str, policy: str, position: int) -> None:
    """KIP-1106. Two records each from three hours, two hours and half an hour ago."""
    kafka.create_topic(topic)
    now_ms, minute_ms = int(time.time() * 1000), 60_000
    produce_at(kafka, topic, [now_ms - ago * minute_ms for ago in (180, 180, 120, 120, 30, 30)])
    tp = TopicPartition(topic, 0)
    with consumer_of(kafka, auto_offset_reset=policy) as consumer:
        consumer.assign([tp])
        assert consumer.position(tp) == position
        kafka.produce(topic, [(None, b"new")])
        assert [r.offset for r in read(consumer, 7 - position)] == list(range(position, 7))
        consumer.seek_to_beginning(tp)
        assert consumer.position(tp) == 0


def test_offsets_for_times_of_many_partitions(kafka: RealKafka, topic: str) -> None:
    kafka.create_topic(topic, 3)
    now_ms = int(time.time() * 1000)
    produce_at(kafka, topic, [now_ms - 5_000, now_ms - 4_000, now_ms - 6_000, now_ms - 1_000])
    tps = [TopicPartition(topic, number) for number in range(3)]
    with consumer_of(kafka) as consumer:
        found = consumer.offsets_for_times(dict.fromkeys(tps, now_ms - 4_000))
        assert found[tps[0]] is not None and found[tps[1]] is None and found[tps[2]] is None
        first = found[tps[0]]
        assert first is not None and (first.offset, first.timestamp, first.leader_epoch) == (
            1,
            now_ms - 4_000,
            0,
        )
        assert consumer.offsets_for_times({tps[0]: 0})[tps[0]].offset == 0  # type: ignore[union-attr]

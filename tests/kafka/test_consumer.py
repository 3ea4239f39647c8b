"""KafkaConsumer against a real Apache Kafka: the public surface, snippet by snippet."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable

import pytest

from penstock import ConsumerRecords, KafkaConsumer, OffsetAndMetadata, TopicPartition
from penstock.errors import (
    ClosedError,
    CommitRewindError,
    ConcurrentUseError,
    ConfigError,
    DeserializationError,
    IllegalStateError,
    UnknownTopicOrPartitionError,
    WakeupError,
)
from tests.support.consuming import WAIT_S, consumer_of, numbered, read, until
from tests.support.kafka import RealKafka

pytestmark = pytest.mark.kafka


def test_the_first_snippet_as_written(kafka: RealKafka, topic: str, unique: Callable[[str], str]) -> None:
    kafka.create_topic(topic, 3)
    kafka.produce(topic, numbered(30))
    config = {
        "bootstrap.servers": kafka.bootstrap_servers,
        "group.id": unique("group"),
        "enable.auto.commit": False,
        "auto.offset.reset": "earliest",
        "key.deserializer": lambda x: bytes.decode(x, encoding="utf-8"),
        "value.deserializer": lambda x: bytes.decode(x, encoding="utf-8"),
    }
    consumer = KafkaConsumer(topic, **config)
    seen = {}
    deadline = time.monotonic() + WAIT_S
    while len(seen) < 30 and time.monotonic() < deadline:
        records = consumer.poll(timeout=1000)
        for record in records:
            seen[record.key] = record.value
    consumer.commit()
    assert seen == {f"k{i}": f"v{i}" for i in range(30)}
    assert kafka.committed(config["group.id"], topic) == kafka.end_offsets(topic)
    consumer.close()


def test_a_new_member_goes_on_where_the_group_stopped(
    kafka: RealKafka, topic: str, unique: Callable[[str], str]
) -> None:
    group = unique("group")
    kafka.create_topic(topic, 2)
    kafka.produce(topic, numbered(20))
    with consumer_of(kafka, topic, group_id=group) as consumer:
        assert len(read(consumer, 20)) == 20
        consumer.commit()
    kafka.produce(topic, numbered(5, start=20))
    with consumer_of(kafka, topic, group_id=group) as consumer:
        assert sorted(r.value for r in read(consumer, 5)) == sorted(v for _, v in numbered(5, start=20))


def test_two_members_share_the_partitions_and_one_takes_over(
    kafka: RealKafka, topic: str, unique: Callable[[str], str]
) -> None:
    group = unique("group")
    kafka.create_topic(topic, 4)
    with consumer_of(kafka, topic, group_id=group) as first:
        until(lambda: len(first.assignment()) == 4, first)
        second_ready = threading.Event()
        stop = threading.Event()
        owned: set[TopicPartition] = set()

        def second_member() -> None:
            with consumer_of(kafka, topic, group_id=group) as second:
                while not stop.is_set():
                    second.poll(timeout=50)
                    if len(second.assignment()) == 2:
                        owned.update(second.assignment())
                        second_ready.set()

        thread = threading.Thread(target=second_member)
        thread.start()
        until(second_ready.is_set, first)
        until(lambda: len(first.assignment()) == 2, first)
        assert owned.isdisjoint(first.assignment())
        assert len(owned | first.assignment()) == 4
        stop.set()
        thread.join()
        until(lambda: len(first.assignment()) == 4, first)


def test_assign_ints_name_partitions_of_the_constructors_topic(kafka: RealKafka, topic: str) -> None:
    kafka.create_topic(topic, 3)
    for partition in range(3):
        kafka.produce(topic, [(None, b"p%d" % partition)], partition=partition)
    with consumer_of(kafka, topic) as consumer:
        consumer.assign([0, 2])
        assert {r.value for r in read(consumer, 2)} == {b"p0", b"p2"}
        assert consumer.assignment() == {TopicPartition(topic, 0), TopicPartition(topic, 2)}


def test_assign_replaces_the_subscription_before_anything_was_consumed_and_not_later(
    kafka: RealKafka, topic: str, unique: Callable[[str], str]
) -> None:
    kafka.create_topic(topic, 2)
    kafka.produce(topic, numbered(10))
    with consumer_of(kafka, topic, group_id=unique("group")) as consumer:
        consumer.assign([TopicPartition(topic, 1)])
        assert {r.partition for r in read(consumer, 1)} == {1}
    with consumer_of(kafka, topic, group_id=unique("group")) as consumer:
        assert read(consumer, 1)
        with pytest.raises(IllegalStateError, match="assign"):
            consumer.assign([0])


def test_ints_without_exactly_one_topic_are_an_error(kafka: RealKafka, topic: str) -> None:
    with consumer_of(kafka) as consumer, pytest.raises((IllegalStateError, ConfigError, ValueError)):
        consumer.assign([0])


def test_every_field_of_a_record(kafka: RealKafka, topic: str) -> None:
    kafka.create_topic(topic, 1)
    before_ms = int(time.time() * 1000)
    kafka.produce(topic, [(b"key", b"value"), (None, None)], headers=[("a", b"1"), ("b", None), ("a", b"")])
    with consumer_of(kafka) as consumer:
        consumer.assign([TopicPartition(topic, 0)])
        first, second = read(consumer, 2)
    assert (first.topic, first.partition, first.offset, second.offset) == (topic, 0, 0, 1)
    assert before_ms - 1000 <= first.timestamp <= int(time.time() * 1000) + 1000
    assert first.timestamp_type == 0
    assert first.leader_epoch == 0
    assert (first.key, first.value, first.raw_key, first.raw_value) == (b"key", b"value", b"key", b"value")
    assert bytes(first.raw_value_view()) == b"value"
    assert first.headers == [("a", b"1"), ("b", None), ("a", b"")]
    assert (second.key, second.value, second.raw_key, second.raw_value_view()) == (None, None, None, None)
    assert topic in repr(first)


def test_records_are_a_sequence(kafka: RealKafka, topic: str) -> None:
    kafka.create_topic(topic, 2)
    for partition in (0, 1):
        kafka.produce(topic, numbered(5), partition=partition)
    with consumer_of(kafka) as consumer:
        consumer.assign([TopicPartition(topic, p) for p in (0, 1)])
        until(lambda: consumer._fetcher.buffered_records() == 10)
        records = consumer.poll(timeout=0)
    assert isinstance(records, ConsumerRecords)
    assert len(records) == 10 and bool(records)
    assert [r.offset for r in records[:3]] == [r.offset for r in list(records)[:3]]
    assert records[-1].offset == list(records)[-1].offset
    assert sorted(records.partitions) == [TopicPartition(topic, 0), TopicPartition(topic, 1)]
    assert [r.offset for r in records.records(TopicPartition(topic, 1))] == [0, 1, 2, 3, 4]
    with pytest.raises(IndexError):
        records[10]


def test_max_poll_records_bounds_a_poll_and_nothing_is_skipped(kafka: RealKafka, topic: str) -> None:
    kafka.create_topic(topic, 1)
    kafka.produce(topic, numbered(100))
    with consumer_of(kafka, max_poll_records=7) as consumer:
        consumer.assign([TopicPartition(topic, 0)])
        offsets: list[int] = []
        while len(offsets) < 100:
            records = consumer.poll(timeout=5000)
            assert 0 < len(records) <= 7
            offsets += [r.offset for r in records]
            assert consumer.position(TopicPartition(topic, 0)) == offsets[-1] + 1
    assert offsets == list(range(100))


def test_iteration(kafka: RealKafka, topic: str) -> None:
    kafka.create_topic(topic, 1)
    kafka.produce(topic, numbered(50))
    with consumer_of(kafka) as consumer:
        consumer.assign([TopicPartition(topic, 0)])
        values = []
        for record in consumer:
            values.append(record.value)
            if len(values) == 50:
                break
    assert values == [v for _, v in numbered(50)]


def test_a_loop_commits_what_it_was_handed_and_a_break_loses_nothing(
    kafka: RealKafka, topic: str, unique: Callable[[str], str]
) -> None:
    """One poll returns all ten: a commit after the third must not cover the other seven."""
    group = unique("group")
    kafka.create_topic(topic, 1)
    kafka.produce(topic, numbered(10))
    tp = TopicPartition(topic, 0)
    with consumer_of(kafka, group_id=group, enable_auto_commit=True) as consumer:
        consumer.assign([tp])
        until(lambda: consumer._fetcher.buffered_records() == 10)
        for record in consumer:
            if record.offset == 2:
                consumer.commit()
                break
        assert kafka.committed(group, topic) == {0: 3}
        assert consumer.position(tp) == 3
        for record in consumer:
            assert record.offset == 3
            break
        assert consumer.poll(timeout=5000)[0].offset == 4


@pytest.mark.parametrize("how", ["loop", "poll"])
def test_an_exception_leaves_what_was_not_handled_to_whoever_reads_next(
    kafka: RealKafka, topic: str, unique: Callable[[str], str], how: str
) -> None:
    """Auto-commit on close would else cover records that nobody has handled."""
    group = unique("group")
    kafka.create_topic(topic, 1)
    kafka.produce(topic, numbered(10))
    with (
        pytest.raises(RuntimeError, match="third"),
        consumer_of(kafka, group_id=group, enable_auto_commit=True, max_poll_records=5) as consumer,
    ):
        consumer.assign([TopicPartition(topic, 0)])
        until(lambda: consumer._fetcher.buffered_records() == 10)
        for record in consumer if how == "loop" else consumer.poll(timeout=5000):
            if record.offset == 2:
                raise RuntimeError("the third record could not be handled")
    assert kafka.committed(group, topic).get(0, 0) == (2 if how == "loop" else 0)


def test_a_seek_in_a_loop_is_not_undone_by_its_break(kafka: RealKafka, topic: str) -> None:
    kafka.create_topic(topic, 1)
    kafka.produce(topic, numbered(10))
    tp = TopicPartition(topic, 0)
    with consumer_of(kafka) as consumer:
        consumer.assign([tp])
        for record in consumer:
            if record.offset == 1:
                consumer.seek(tp, 8)
                break
        assert [r.offset for r in read(consumer, 2)] == [8, 9]


def test_a_subscription_without_a_group_says_so(kafka: RealKafka, topic: str) -> None:
    with consumer_of(kafka, topic) as consumer:
        for _ in range(2):
            with pytest.raises(ConfigError, match=r"group\.id.*assign"):
                consumer.poll(timeout=5000)
        consumer.assign([0])


def test_commit_forms_and_the_rule_that_it_never_goes_back(
    kafka: RealKafka, topic: str, unique: Callable[[str], str]
) -> None:
    group = unique("group")
    kafka.create_topic(topic, 1)
    kafka.produce(topic, numbered(10))
    tp = TopicPartition(topic, 0)
    with consumer_of(kafka, group_id=group) as consumer:
        consumer.assign([tp])
        records = read(consumer, 10)
        assert consumer.committed(tp) is None
        consumer.commit({tp: 3})
        assert consumer.committed(tp) == OffsetAndMetadata(3)
        consumer.commit({tp: OffsetAndMetadata(5, "a note")})
        assert consumer.committed([tp]) == {tp: OffsetAndMetadata(5, "a note")}
        consumer.commit(records[7])
        assert consumer.committed(tp).offset == 8  # type: ignore[union-attr]
        with pytest.raises(CommitRewindError, match=r"8.*allow_rewind"):
            consumer.commit({tp: 2})
        assert consumer.committed(tp).offset == 8  # type: ignore[union-attr]
        consumer.commit({tp: 2}, allow_rewind=True)
        assert kafka.committed(group, topic) == {0: 2}


def test_commit_async_calls_back_in_order(kafka: RealKafka, topic: str, unique: Callable[[str], str]) -> None:
    kafka.create_topic(topic, 1)
    kafka.produce(topic, numbered(10))
    tp = TopicPartition(topic, 0)
    done: list[tuple[int, BaseException | None]] = []
    with consumer_of(kafka, group_id=unique("group")) as consumer:
        consumer.assign([tp])
        read(consumer, 10)
        futures = [
            consumer.commit_async({tp: n}, lambda offsets, error: done.append((offsets[tp].offset, error)))
            for n in range(1, 6)
        ]
        until(lambda: len(done) == 5, consumer)
        assert [f.result()[tp].offset for f in futures] == [1, 2, 3, 4, 5]
        assert done == [(n, None) for n in range(1, 6)]
        assert consumer.committed(tp).offset == 5  # type: ignore[union-attr]


def test_auto_commit_commits_what_was_returned_and_close_the_rest(
    kafka: RealKafka, topic: str, unique: Callable[[str], str]
) -> None:
    group = unique("group")
    kafka.create_topic(topic, 1)
    kafka.produce(topic, numbered(10))
    with consumer_of(
        kafka, topic, group_id=group, enable_auto_commit=True, auto_commit_interval_ms=50, max_poll_records=4
    ) as consumer:
        seen = len(read(consumer, 4))
        assert seen == 4
        while seen < 10:
            seen += len(consumer.poll(timeout=500))
        until(lambda: kafka.committed(group, topic).get(0, 0) >= 4, consumer)
    assert kafka.committed(group, topic) == {0: 10}


def test_one_bad_record_costs_one_record(kafka: RealKafka, topic: str) -> None:
    kafka.create_topic(topic, 1)
    kafka.produce(topic, [(b"a", b"1"), (b"b", b"no number"), (b"c", b"3")])
    calls: Counter[bytes] = Counter()

    def number(data: bytes) -> int:
        calls[data] += 1
        return int(data)

    with consumer_of(kafka, value_deserializer=number) as consumer:
        consumer.assign([TopicPartition(topic, 0)])
        good, bad, other = read(consumer, 3)
        assert not calls, "a value was deserialized before anyone read it"
        assert (good.value, good.value, other.value) == (1, 1, 3)
        with pytest.raises(DeserializationError) as caught:
            bad.value
        assert bad.key == b"b" and bad.raw_value == b"no number"
    error = caught.value
    assert (error.topic, error.partition, error.offset, error.field) == (topic, 0, 1, "value")
    assert (error.raw_key, error.raw_value) == (b"b", b"no number")
    assert isinstance(error.__cause__, ValueError)
    assert calls[b"1"] == 1


def test_listener_and_seek_inside_it(kafka: RealKafka, topic: str, unique: Callable[[str], str]) -> None:
    kafka.create_topic(topic, 2)
    kafka.produce(topic, numbered(10), partition=0)
    kafka.produce(topic, numbered(10), partition=1)
    events: list[tuple[str, list[TopicPartition]]] = []

    class Listener:
        def on_partitions_assigned(self, partitions: list[TopicPartition]) -> None:
            events.append(("assigned", sorted(partitions)))
            for tp in partitions:
                consumer.seek(tp, 8)

        def on_partitions_revoked(self, partitions: list[TopicPartition]) -> None:
            events.append(("revoked", sorted(partitions)))
            consumer.commit()

    both = [TopicPartition(topic, 0), TopicPartition(topic, 1)]
    group = unique("group")
    with consumer_of(kafka, group_id=group) as consumer:
        consumer.subscribe([topic], listener=Listener())
        assert sorted((r.partition, r.offset) for r in read(consumer, 4)) == [(0, 8), (0, 9), (1, 8), (1, 9)]
    assert events == [("assigned", both), ("revoked", both)]
    assert kafka.committed(group, topic) == {0: 10, 1: 10}


def test_topics_and_partitions_for(kafka: RealKafka, topic: str) -> None:
    kafka.create_topic(topic, 3)
    with consumer_of(kafka) as consumer:
        infos = consumer.partitions_for(topic)
        assert [i.partition for i in infos] == [0, 1, 2]
        assert all(i.leader is not None and i.leader.port for i in infos)
        assert topic in consumer.topics()
        assert consumer.partitions_for(topic + "-missing") == []


def test_unsubscribe_leaves_and_subscribe_comes_back(
    kafka: RealKafka, topic: str, unique: Callable[[str], str]
) -> None:
    kafka.create_topic(topic, 1)
    kafka.produce(topic, numbered(5))
    with consumer_of(kafka, topic, group_id=unique("group")) as consumer:
        assert len(read(consumer, 5)) == 5
        revoked: list[TopicPartition] = []

        class Listener:
            def on_partitions_revoked(self, partitions: list[TopicPartition]) -> None:
                revoked.extend(partitions)

        consumer.subscribe([topic], listener=Listener())
        consumer.unsubscribe()
        assert revoked == [TopicPartition(topic, 0)]
        assert consumer.assignment() == set() and consumer.subscription() == set()
        consumer.subscribe([topic])
        assert len(read(consumer, 5)) == 5


def test_wakeup_from_another_thread(kafka: RealKafka, topic: str) -> None:
    kafka.create_topic(topic, 1)
    with consumer_of(kafka) as consumer:
        consumer.assign([TopicPartition(topic, 0)])
        threading.Timer(0.1, consumer.wakeup).start()
        with pytest.raises(WakeupError):
            consumer.poll(timeout=60_000)
        kafka.produce(topic, numbered(1))
        assert len(read(consumer, 1)) == 1


def test_two_threads_at_once(kafka: RealKafka, topic: str) -> None:
    kafka.create_topic(topic, 1)
    with consumer_of(kafka) as consumer:
        consumer.assign([TopicPartition(topic, 0)])
        inside = threading.Event()

        def long_poll() -> None:
            inside.set()
            with pytest.raises(WakeupError):
                consumer.poll(timeout=60_000)

        thread = threading.Thread(target=long_poll)
        thread.start()
        inside.wait()
        with pytest.raises(ConcurrentUseError, match="one thread"):
            while thread.is_alive():
                consumer.position(TopicPartition(topic, 0))
        consumer.wakeup()
        thread.join()


def test_use_after_close(kafka: RealKafka, topic: str) -> None:
    threads = threading.active_count()
    with consumer_of(kafka) as consumer:
        consumer.assign([TopicPartition(topic, 0)])
    consumer.close()
    for call in (consumer.poll, consumer.assignment, consumer.commit, lambda: consumer.partitions_for(topic)):
        with pytest.raises(ClosedError, match="closed"):
            call()
    until(lambda: threading.active_count() <= threads)


def test_a_partition_that_does_not_exist(kafka: RealKafka, topic: str) -> None:
    kafka.create_topic(topic, 2)
    kafka.produce(topic, numbered(3), partition=1)
    with consumer_of(kafka) as consumer:
        consumer.assign([TopicPartition(topic, 7), TopicPartition(topic, 1)])
        with pytest.raises(UnknownTopicOrPartitionError, match=r"-7 does not exist.*2 partitions"):
            read(consumer, 100, timeout_s=10)
        with pytest.raises(UnknownTopicOrPartitionError):
            consumer.end_offsets([TopicPartition(topic, 7)])


@pytest.mark.parametrize("codec", ["none", "gzip", "snappy", "lz4", "zstd"])
def test_every_codec(kafka: RealKafka, topic: str, codec: str) -> None:
    kafka.create_topic(topic, 1)
    messages = [(b"k%d" % i, b"some text that compresses well " * (i % 40)) for i in range(500)]
    kafka.produce(topic, messages, config={"compression.type": codec})
    with consumer_of(kafka) as consumer:
        consumer.assign([TopicPartition(topic, 0)])
        assert [(r.key, r.value) for r in read(consumer, 500)] == messages


def test_a_large_record_passes_small_limits(kafka: RealKafka, topic: str) -> None:
    """KIP-74: the first batch of a fetch comes whole, however large, so that no record can block its partition."""
    kafka.create_topic(topic, 1, config={"max.message.bytes": 20_000_000})
    big = bytes(range(256)) * 20_000
    kafka.produce(
        topic,
        [(b"a", b"small"), (b"b", big), (b"c", b"small")],
        config={"message.max.bytes": 20_000_000, "linger.ms": 0},
    )
    with consumer_of(kafka, max_partition_fetch_bytes=10_000, fetch_max_bytes=10_000) as consumer:
        consumer.assign([TopicPartition(topic, 0)])
        assert [len(r.value) for r in read(consumer, 3)] == [5, len(big), 5]


def test_arrow_columns(kafka: RealKafka, topic: str) -> None:
    import duckdb
    import polars
    import pyarrow

    kafka.create_topic(topic, 2)
    kafka.produce(topic, numbered(10), partition=0, headers=[("h", b"1")])
    kafka.produce(topic, [(None, None)], partition=1)
    with consumer_of(kafka) as consumer:
        consumer.assign([TopicPartition(topic, 0), TopicPartition(topic, 1)])
        until(lambda: consumer._fetcher.buffered_records() == 11)
        records = consumer.poll(timeout=0)
    table = pyarrow.table(records)
    assert table.num_rows == 11
    assert table.column_names == ["topic", "partition", "offset", "timestamp", "key", "value", "headers"]
    rows = {(r["partition"], r["offset"]): r for r in table.to_pylist()}
    assert rows[(0, 4)]["key"] == b"k4" and rows[(0, 4)]["value"] == b"v4" and rows[(0, 4)]["topic"] == topic
    assert rows[(0, 4)]["headers"] == [{"key": "h", "value": b"1"}]
    assert rows[(1, 0)]["key"] is None and rows[(1, 0)]["value"] is None
    frame = polars.DataFrame(records)
    assert frame.height == 11
    assert frame["offset"].to_list() == table["offset"].to_pylist()
    relation = duckdb.from_arrow(records)
    assert relation.aggregate('count(*), max("offset")').fetchall() == [(11, 9)]
    assert records.to_arrow().equals(table)

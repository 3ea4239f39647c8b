"""Positions: how they are found, and how they outlive other leaders, against a broker that holds elections on command."""

from __future__ import annotations

import concurrent.futures
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest

from penstock import DevBroker, KafkaConsumer, KafkaProducer, OffsetAndMetadata, TopicPartition
from penstock.devbroker import CLOSE
from penstock.errors import AuthorizationError, LogTruncationError

LIST_OFFSETS, API_VERSIONS, OFFSET_FOR_LEADER_EPOCH = 2, 18, 23
NOT_LEADER, CLUSTER_AUTHORIZATION_FAILED, TOPIC_AUTHORIZATION_FAILED = 6, 31, 29
FENCED_LEADER_EPOCH, UNKNOWN_LEADER_EPOCH = 74, 75
WAIT_S = 10.0


@pytest.fixture(scope="module")
def broker() -> Iterator[DevBroker]:
    with DevBroker() as running:
        yield running


@pytest.fixture
def topic(broker: DevBroker) -> str:
    name = f"t-{uuid.uuid4().hex[:8]}"
    broker.create_topic(name)
    return name


@pytest.fixture
def questions(broker: DevBroker) -> Iterator[list[int]]:
    """The number of partitions of each OffsetForLeaderEpoch request so far."""
    asked: list[int] = []

    def note(request: Any, connection: Any) -> None:
        asked.append(sum(len(topic.partitions) for topic in request.body.topics))

    remove = broker.intercept(OFFSET_FOR_LEADER_EPOCH, note)
    yield asked
    remove()


def produce(broker: DevBroker, topic: str, name: str, count: int, partition: int = 0) -> list[bytes]:
    """Each record in a batch of its own, so that the log can be cut behind any of them."""
    values = [b"%s-%d" % (name.encode(), n) for n in range(count)]
    with KafkaProducer(bootstrap_servers=broker.bootstrap_servers) as producer:
        for value in values:
            producer.send(topic, value, partition=partition)
            producer.flush()
    return values


def consumer_of(broker: DevBroker, *topics: str, **config: Any) -> KafkaConsumer:
    options = {"auto_offset_reset": "earliest", "enable_auto_commit": False, "fetch_max_wait_ms": 50}
    return KafkaConsumer(*topics, bootstrap_servers=broker.bootstrap_servers, **{**options, **config})


def until(condition: Callable[[], Any], what: str) -> None:
    deadline = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < deadline, f"{what}: not within {WAIT_S} s"
        time.sleep(0.005)


def read(consumer: KafkaConsumer, count: int) -> list[tuple[int, bytes]]:
    found: list[tuple[int, bytes]] = []
    deadline = time.monotonic() + WAIT_S
    while len(found) < count:
        assert time.monotonic() < deadline, f"{len(found)} of {count} records within {WAIT_S} s"
        found += [(r.offset, r.value) for r in consumer.poll(timeout=100)]
    return found


def at(base: int, values: Sequence[bytes]) -> list[tuple[int, bytes]]:
    return list(enumerate(values, base))


def settled(consumer: KafkaConsumer, tp: TopicPartition) -> bool:
    """Whether the leader of the newest metadata has been asked, if need be, and nothing is held back."""
    return bool(consumer._core.subscription.has_valid_position(tp))


# ---------------------------------------------------------------- elections


def test_after_a_clean_election_what_was_fetched_is_returned_and_not_fetched_again(
    broker: DevBroker, topic: str, questions: list[int]
) -> None:
    values = produce(broker, topic, "v", 20)
    tp = TopicPartition(topic, 0)
    with consumer_of(broker, max_poll_records=5) as consumer:
        consumer.assign([tp])
        until(lambda: consumer._fetcher.buffered_records() == 20, "all is fetched")
        assert read(consumer, 5) == at(0, values[:5])
        broker.elect(topic)
        until(lambda: questions and settled(consumer, tp), "the new leader was asked")
        assert read(consumer, 15) == at(5, values[5:])
        assert consumer._fetcher.stats()["records"] == 20
        new = produce(broker, topic, "w", 3)
        assert read(consumer, 3) == at(20, new)
    assert questions == [1]


def test_what_was_fetched_and_lost_is_not_returned(
    broker: DevBroker, topic: str, questions: list[int]
) -> None:
    """The position lies in what survives, the buffer beyond."""
    values = produce(broker, topic, "v", 20)
    tp = TopicPartition(topic, 0)
    with consumer_of(broker, max_poll_records=5) as consumer:
        consumer.assign([tp])
        until(lambda: consumer._fetcher.buffered_records() == 20, "all is fetched")
        assert read(consumer, 5) == at(0, values[:5])
        broker.elect(topic, end_offset=10)
        new = produce(broker, topic, "new", 15)
        until(lambda: questions and settled(consumer, tp), "the new leader was asked")
        assert read(consumer, 20) == at(5, values[5:10] + new)


@pytest.mark.parametrize("policy", ["earliest", "latest", "by_duration:PT0S"])
def test_a_position_that_is_lost_moves_to_where_the_logs_part(
    broker: DevBroker, topic: str, policy: str
) -> None:
    values = produce(broker, topic, "v", 20)
    tp = TopicPartition(topic, 0)
    with consumer_of(broker, auto_offset_reset=policy, group_id=topic) as consumer:
        consumer.assign([tp])
        consumer.seek(tp, 0)
        assert read(consumer, 20) == at(0, values)
        consumer.commit()
        broker.elect(topic, end_offset=12)
        new = produce(broker, topic, "new", 20)
        assert read(consumer, 20) == at(12, new)
        consumer.seek(tp, 14)
        consumer.commit()  # below the former commit, which was of records that are no more
        assert broker.committed(topic) == {(topic, 0): 14}


def test_several_elections_at_once(broker: DevBroker, topic: str) -> None:
    """Between two of them epochs pass without a record."""
    values = produce(broker, topic, "a", 10)
    tp = TopicPartition(topic, 0)
    with consumer_of(broker) as consumer:
        consumer.assign([tp])
        assert read(consumer, 10) == at(0, values)
        for _ in range(3):
            broker.elect(topic)
        broker.elect(topic, end_offset=7)
        broker.elect(topic)
        new = produce(broker, topic, "b", 5)
        assert read(consumer, 5) == at(7, new)
        broker.elect(topic, end_offset=4)
        broker.elect(topic)
        new = produce(broker, topic, "c", 9)
        assert read(consumer, 9) == at(4, new)


def test_without_a_reset_policy_the_user_decides(broker: DevBroker, topic: str) -> None:
    values = produce(broker, topic, "v", 20)
    tp = TopicPartition(topic, 0)
    with consumer_of(broker, auto_offset_reset="none", max_poll_records=8) as consumer:
        consumer.assign([tp])
        consumer.seek(tp, 0)
        until(lambda: consumer._fetcher.buffered_records() == 20, "all is fetched")
        assert read(consumer, 16) == at(0, values[:16])
        broker.elect(topic, end_offset=12)
        new = produce(broker, topic, "new", 20)
        until(lambda: not settled(consumer, tp), "the election is noticed")
        for _ in range(2):
            with pytest.raises(
                LogTruncationError, match=r"below the position 16 .*parts .* at offset 12"
            ) as caught:
                read(consumer, 100)
        assert caught.value.partitions == (tp,)
        assert caught.value.offsets == {tp: OffsetAndMetadata(16, "", 0)}
        assert caught.value.divergent_offsets == {tp: OffsetAndMetadata(12, "", 0)}
        consumer.seek(tp, caught.value.divergent_offsets[tp])
        assert read(consumer, 20)[:20] == at(12, new)


def test_the_question_is_one_per_leader(broker: DevBroker, questions: list[int]) -> None:
    name, count = f"many-{uuid.uuid4().hex[:8]}", 300
    broker.create_topic(name, count)
    partitions = [TopicPartition(name, n) for n in range(count)]
    with consumer_of(broker, group_id=name) as consumer:
        consumer.assign(partitions[:1])
        consumer.commit({tp: OffsetAndMetadata(0, "", 0) for tp in partitions})
    for tp in partitions:
        broker.elect(*tp)
    produce(broker, name, "x", 1, partition=count - 1)
    with consumer_of(broker, group_id=name) as consumer:
        consumer.assign(partitions)
        assert read(consumer, 1) == [(0, b"x-0")]
    assert questions == [count]


# ---------------------------------------------------------------- places that the user or the group names


def test_a_committed_offset_is_validated_where_another_leads(
    broker: DevBroker, topic: str, questions: list[int]
) -> None:
    produce(broker, topic, "v", 20)
    with consumer_of(broker, group_id=topic) as consumer:
        consumer.assign([TopicPartition(topic, 0)])
        read(consumer, 20)
        consumer.commit()
    with consumer_of(broker, group_id=topic) as consumer:
        consumer.assign([TopicPartition(topic, 0)])
        assert consumer.position(TopicPartition(topic, 0)) == 20
    assert questions == []  # the same leader: its log has only grown
    broker.elect(topic, end_offset=5)
    new = produce(broker, topic, "new", 30)
    with consumer_of(broker, group_id=topic) as consumer:
        consumer.assign([TopicPartition(topic, 0)])
        assert consumer.position(TopicPartition(topic, 0)) == 5
        assert read(consumer, 30) == at(5, new)


def test_26_the_committed_offset_of_a_former_topic_is_not_used(broker: DevBroker, topic: str) -> None:
    """A deleted topic takes its commits along, but a member that has not noticed may commit again: to a topic of the same name
    whose leaders are counted from zero."""
    tp = TopicPartition(topic, 0)
    with consumer_of(broker, group_id=topic) as consumer:
        consumer.assign([tp])
        consumer.commit({tp: OffsetAndMetadata(3, "", 7)})
    values = produce(broker, topic, "new", 10)
    with consumer_of(broker, group_id=topic) as consumer:
        consumer.assign([tp])
        assert read(consumer, 10) == at(0, values)
    with consumer_of(broker, group_id=topic, auto_offset_reset="none") as consumer:
        consumer.assign([tp])
        with pytest.raises(LogTruncationError, match="cannot tell") as caught:
            read(consumer, 1)
        assert caught.value.divergent_offsets == {}


def test_a_seek_with_a_leader_epoch_is_validated(broker: DevBroker, topic: str, questions: list[int]) -> None:
    produce(broker, topic, "v", 20)
    tp = TopicPartition(topic, 0)
    epoch = broker.elect(topic, end_offset=10)
    new = produce(broker, topic, "new", 15)
    with consumer_of(broker) as consumer:
        consumer.assign([tp])
        consumer.seek(tp, OffsetAndMetadata(18, "", 0))
        assert consumer.position(tp) == 10
        assert read(consumer, 15) == at(10, new)
        assert len(questions) == 1
        consumer.seek(tp, OffsetAndMetadata(18, "", epoch))
        assert read(consumer, 7) == at(18, new[8:])
        consumer.seek(tp, 18)
        assert read(consumer, 7) == at(18, new[8:])
        assert len(questions) == 1


def test_a_seek_elsewhere_makes_the_question_void(broker: DevBroker, topic: str) -> None:
    values = produce(broker, topic, "v", 20)
    tp = TopicPartition(topic, 0)
    held: concurrent.futures.Future[None] = concurrent.futures.Future()
    asked = threading.Event()

    def hold(request: Any, connection: Any) -> Any:
        asked.set()
        return held

    broker.elect(topic, end_offset=15)
    remove = broker.intercept(OFFSET_FOR_LEADER_EPOCH, hold)
    try:
        with consumer_of(broker) as consumer:
            consumer.assign([tp])
            consumer.seek(tp, OffsetAndMetadata(18, "", 0))
            assert asked.wait(WAIT_S)
            consumer.seek(tp, 3)
            assert read(consumer, 12) == at(3, values[3:15])
            held.set_result(None)
            assert consumer.position(tp) == 15
    finally:
        remove()


# ---------------------------------------------------------------- leaders that do not answer


@pytest.mark.parametrize("fault", [FENCED_LEADER_EPOCH, UNKNOWN_LEADER_EPOCH, NOT_LEADER, CLOSE], ids=str)
def test_what_passes_is_asked_again(broker: DevBroker, topic: str, fault: Any) -> None:
    produce(broker, topic, "v", 20)
    tp = TopicPartition(topic, 0)
    broker.elect(topic, end_offset=10)
    new = produce(broker, topic, "new", 5)
    count = iter(range(1_000_000))
    remove = broker.intercept(OFFSET_FOR_LEADER_EPOCH, lambda *_: fault if next(count) < 3 else None)
    try:
        with consumer_of(broker, retry_backoff_ms=1, reconnect_backoff_ms=1) as consumer:
            consumer.assign([tp])
            consumer.seek(tp, OffsetAndMetadata(20, "", 0))
            assert read(consumer, 5) == at(10, new)
    finally:
        remove()
    assert next(count) >= 4


@pytest.mark.parametrize("how", ["not authorized", "no epochs", "not offered"])
def test_who_cannot_be_asked_is_fetched_from(broker: DevBroker, topic: str, how: str) -> None:
    values = produce(broker, topic, "v", 20)
    tp = TopicPartition(topic, 0)
    broker.elect(topic)

    def no_epochs(request: Any, connection: Any) -> dict[str, Any]:
        partition = {"partition": 0, "leader_epoch": -1, "end_offset": -1}
        return {"topics": [{"topic": topic, "partitions": [partition]}]}

    def versions(request: Any, connection: Any) -> dict[str, Any]:
        highest = {0: 9, 1: 11, 2: 5, 3: 9, 18: 3}
        return {"api_keys": [{"api_key": k, "min_version": 0, "max_version": v} for k, v in highest.items()]}

    if how == "not offered":
        remove = broker.intercept(API_VERSIONS, versions)
    else:
        answer = no_epochs if how == "no epochs" else lambda *_: CLUSTER_AUTHORIZATION_FAILED
        remove = broker.intercept(OFFSET_FOR_LEADER_EPOCH, answer)
    try:
        with consumer_of(broker, retry_backoff_ms=1) as consumer:
            consumer.assign([tp])
            consumer.seek(tp, OffsetAndMetadata(5, "", 0))
            assert read(consumer, 15) == at(5, values[5:])
    finally:
        remove()


# ---------------------------------------------------------------- ListOffsets


def test_a_partition_that_cannot_be_asked_about_keeps_no_other_waiting(broker: DevBroker) -> None:
    name = f"two-{uuid.uuid4().hex[:8]}"
    broker.create_topic(name, 3)
    for partition in range(3):
        produce(broker, name, "v", 2, partition)
    codes = {0: NOT_LEADER, 1: TOPIC_AUTHORIZATION_FAILED}

    def answer(request: Any, connection: Any) -> dict[str, Any]:
        (asked,) = request.body.topics
        return {
            "topics": [
                {
                    "name": name,
                    "partitions": [
                        {
                            "partition_index": p.partition_index,
                            "error_code": codes.get(p.partition_index, 0),
                            "offset": 0,
                            "timestamp": -1,
                            "leader_epoch": 0,
                        }
                        for p in asked.partitions
                    ],
                }
            ]
        }

    remove = broker.intercept(LIST_OFFSETS, answer)
    try:
        with consumer_of(broker, retry_backoff_ms=1) as consumer:
            consumer.assign([TopicPartition(name, n) for n in range(3)])
            assert consumer.position(TopicPartition(name, 2)) == 0
            seen: set[int] = set()
            with pytest.raises(AuthorizationError, match=f"{name}-1"):
                while True:
                    seen |= {r.partition for r in consumer.poll(timeout=5000)}
            codes.clear()
            until(lambda: settled(consumer, TopicPartition(name, 0)), "partition 0 has a leader")
            consumer.seek_to_beginning(TopicPartition(name, 1))
            while seen != {0, 1, 2}:
                seen |= {r.partition for r in consumer.poll(timeout=5000)}
    finally:
        remove()


def test_the_last_wish_counts(broker: DevBroker, topic: str) -> None:
    """The answer to the first question comes when the second wish has long been said."""
    produce(broker, topic, "v", 10)
    tp = TopicPartition(topic, 0)
    held: concurrent.futures.Future[None] = concurrent.futures.Future()
    asked = threading.Event()

    def hold_first(request: Any, connection: Any) -> Any:
        if asked.is_set():
            return None
        asked.set()
        return held

    with consumer_of(broker) as consumer:
        consumer.assign([tp])
        assert consumer.position(tp) == 0
        remove = broker.intercept(LIST_OFFSETS, hold_first)
        try:
            consumer.seek_to_beginning(tp)
            assert asked.wait(WAIT_S)
            consumer.seek_to_end(tp)
            held.set_result(None)
            assert consumer.position(tp) == 10
        finally:
            remove()


def test_many_positions_are_one_request(broker: DevBroker) -> None:
    name, count = f"many-{uuid.uuid4().hex[:8]}", 500
    broker.create_topic(name, count)
    asked: list[int] = []

    def note(request: Any, connection: Any) -> None:
        asked.append(sum(len(t.partitions) for t in request.body.topics))

    partitions = [TopicPartition(name, n) for n in range(count)]
    with consumer_of(broker) as consumer:
        consumer.partitions_for(name)
        remove = broker.intercept(LIST_OFFSETS, note)
        try:
            consumer.assign(partitions)
            until(lambda: all(settled(consumer, tp) for tp in partitions), "all have a position")
            assert asked == [count]
            assert consumer.end_offsets(partitions) == dict.fromkeys(partitions, 0)
            assert asked == [count, count]
        finally:
            remove()


# ---------------------------------------------------------------- lag


def test_lag_is_known_from_what_was_fetched(broker: DevBroker, topic: str) -> None:
    tp = TopicPartition(topic, 0)
    produce(broker, topic, "v", 10)
    with consumer_of(broker, max_poll_records=4) as consumer:
        consumer.assign([tp])
        lag = consumer._core.positions.lag
        until(lambda: lag(tp) == 10, "the first fetch")
        read(consumer, 4)
        assert lag(tp) == 6
        read(consumer, 6)
        assert lag(tp) == 0
        produce(broker, topic, "w", 3)
        until(lambda: lag(tp) == 3, "the next fetch")
    broker.create_topic(f"{topic}-held")
    held = TopicPartition(f"{topic}-held", 0)
    remove = broker.intercept(LIST_OFFSETS, lambda *_: NOT_LEADER)
    try:
        with consumer_of(broker) as consumer:
            consumer.assign([held])
            assert consumer._core.positions.lag(held) is None
    finally:
        remove()

"""What a transactional KafkaProducer does, on whichever broker: a module that imports these tests gives a `bootstrap` fixture.

librdkafka reads what was written, as one who reads committed records and as one who reads all.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from confluent_kafka import Consumer
from confluent_kafka import TopicPartition as Place

from penstock import KafkaConsumer
from penstock.admin import Admin
from penstock.errors import (
    CommitFailedError,
    IllegalStateError,
    KafkaError,
    KafkaTimeoutError,
    ProducerFencedError,
    RecordTooLargeError,
    TransactionError,
)
from penstock.producer import DeliveryFuture, KafkaProducer
from penstock.types import ConsumerGroupMetadata, TopicPartition
from tests.devbroker.raw import RawClient

from .producer_behaviour import WAIT_S, create


@contextlib.contextmanager
def transactional(bootstrap: str, name: str, **config: Any) -> Iterator[KafkaProducer]:
    """One that has its producer id."""
    options = {"retry_backoff_ms": 20, "reconnect_backoff_ms": 5, "reconnect_backoff_max_ms": 100, **config}
    with KafkaProducer(bootstrap_servers=bootstrap, transactional_id=name, **options) as producer:
        as_often_as_it_takes(producer.init_transactions)  # some tests give each call little time
        yield producer


def as_often_as_it_takes(call: Callable[[], object]) -> None:
    while True:
        try:
            call()
            return
        except KafkaTimeoutError:
            continue


def committed(bootstrap: str, topic: str, isolation: str = "read_committed") -> list[bytes]:
    """All that one who reads committed records sees, partition by partition, once no transaction is open on the topic."""
    options = {"bootstrap.servers": bootstrap, "group.id": "nobody", "enable.auto.commit": False}
    everything = Consumer(
        {**options, "isolation.level": "read_uncommitted"}
    )  # to the other one the stable end is the end
    consumer = Consumer({**options, "isolation.level": isolation, "enable.partition.eof": True})
    try:
        count = len(consumer.list_topics(topic, timeout=WAIT_S).topics[topic].partitions)
        ends = {p: everything.get_watermark_offsets(Place(topic, p), timeout=WAIT_S)[1] for p in range(count)}
        found: dict[int, list[bytes]] = {p: [] for p in range(count)}
        consumer.assign([Place(topic, p, 0) for p in range(count)])
        left = set(found)
        deadline = time.monotonic() + WAIT_S
        while left:
            assert time.monotonic() < deadline, f"{topic}: partitions {left} are not read to their end"
            message = consumer.poll(0.5)
            if message is None:
                continue
            if message.error() is None:
                found[message.partition()].append(message.value())
            elif (
                message.offset() >= ends[message.partition()]
            ):  # the end of what is stable is told like an error
                left.discard(message.partition())
        return [value for values in found.values() for value in values]
    finally:
        everything.close()
        consumer.close()


def identity(producer: KafkaProducer) -> tuple[int, int]:
    """Producer id and epoch."""
    found = producer._sender.identity
    return found.producer_id, found.epoch


def offset_of(bootstrap: str, group: str, tp: TopicPartition) -> int | None:
    with Admin(bootstrap_servers=bootstrap) as admin:
        found = admin.group_offsets(group).get(tp)
        return None if found is None else found.offset


def test_commits_and_aborts_in_turn(bootstrap: str, topic: str) -> None:
    create(bootstrap, topic, 2)
    with transactional(bootstrap, topic, batch_size=200, linger_ms=0) as producer:
        for number in range(8):
            producer.begin_transaction()
            for part in range(10):
                producer.send(topic, b"%d.%d" % (number, part), partition=part % 2)
            if number % 3 == 1:
                producer.flush()
            if number % 2:
                producer.abort_transaction()
            else:
                producer.commit_transaction()
    expected = [b"%d.%d" % (n, part) for p in (0, 1) for n in range(0, 8, 2) for part in range(p, 10, 2)]
    assert committed(bootstrap, topic) == expected


def test_a_block_commits_or_aborts(bootstrap: str, topic: str) -> None:
    create(bootstrap, topic)
    with transactional(bootstrap, topic) as producer:
        with producer.transaction():
            producer.send(topic, b"kept")
        with pytest.raises(ZeroDivisionError), producer.transaction():
            producer.send(topic, b"dropped").result(WAIT_S)
            raise ZeroDivisionError
        with producer.transaction():
            producer.send(topic, b"kept too")
    assert committed(bootstrap, topic) == [b"kept", b"kept too"]
    assert committed(bootstrap, topic, "read_uncommitted") == [b"kept", b"dropped", b"kept too"]


def test_transactions_without_anything(bootstrap: str, topic: str) -> None:
    create(bootstrap, topic)
    with transactional(bootstrap, topic) as producer:
        for _ in range(2):
            with producer.transaction():
                pass
            producer.begin_transaction()
            producer.abort_transaction()
            with producer.transaction():
                producer.send(topic, b"x")
    assert committed(bootstrap, topic) == [b"x", b"x"]


def test_a_second_one_fences_the_first(bootstrap: str, topic: str) -> None:
    create(bootstrap, topic)
    with transactional(bootstrap, topic) as zombie:
        with zombie.transaction():
            zombie.send(topic, b"before")
        zombie.begin_transaction()
        zombie.send(topic, b"zombie").result(WAIT_S)
        with transactional(bootstrap, topic) as heir:
            with heir.transaction():
                heir.send(topic, b"heir")
            late = zombie.send(topic, b"late")
            assert isinstance(late.exception(WAIT_S), KafkaError)
            with pytest.raises(TransactionError):
                zombie.commit_transaction()
            with pytest.raises(ProducerFencedError):
                zombie.abort_transaction()
            with pytest.raises(ProducerFencedError):
                zombie.begin_transaction()
            with heir.transaction():
                heir.send(topic, b"heir again")
    assert committed(bootstrap, topic) == [b"before", b"heir", b"heir again"]


def test_a_commit_of_one_that_is_fenced(bootstrap: str, topic: str) -> None:
    create(bootstrap, topic)
    with transactional(bootstrap, topic) as zombie:
        zombie.begin_transaction()
        zombie.send(topic, b"zombie").result(WAIT_S)
        with transactional(bootstrap, topic), pytest.raises(ProducerFencedError):
            zombie.commit_transaction()
    assert committed(bootstrap, topic) == []


def test_an_abort_with_batches_on_their_way(bootstrap: str, topic: str) -> None:
    """What is given up may be stored or not; no sequence number of it is missed by what comes after."""
    create(bootstrap, topic, 3)
    with transactional(bootstrap, topic, batch_size=2_000, linger_ms=0) as producer:
        for number in range(6):
            producer.begin_transaction()
            futures = [producer.send(topic, bytes(500), partition=n % 3) for n in range(300)]
            if number % 2:
                futures[number * 20].result(WAIT_S)
            producer.abort_transaction()
            assert all(future.done() for future in futures)
            with producer.transaction():
                kept = [producer.send(topic, b"%d.%d" % (number, part), partition=part) for part in range(3)]
            assert [future.exception(0) for future in kept] == [None] * 3
    assert committed(bootstrap, topic) == [
        b"%d.%d" % (number, part) for part in range(3) for number in range(6)
    ]


def test_offsets_go_with_the_transaction_or_not_at_all(bootstrap: str, topic: str) -> None:
    create(bootstrap, topic)
    group, tp = f"{topic}-group", TopicPartition(topic, 0)
    member = member_of(group)
    with transactional(bootstrap, topic) as producer:
        for offset, commit in ((3, False), (5, True), (7, False), (9, True)):
            producer.begin_transaction()
            if offset > 4:
                producer.send(topic, b"%d" % offset)
            producer.send_offsets_to_transaction({tp: offset}, member)
            if commit:
                producer.commit_transaction()
            else:
                producer.abort_transaction()
            until(lambda: offset_of(bootstrap, group, tp), offset if commit else {3: None, 7: 5}[offset])
    assert committed(bootstrap, topic) == [b"5", b"9"]


def member_of(group: str, generation: int = -1, member_id: str = "") -> ConsumerGroupMetadata:
    return ConsumerGroupMetadata(group, generation, member_id, None)


def until(get: Callable[[], Any], expected: object) -> None:
    """Markers in the group's log follow the transaction's end."""
    deadline = time.monotonic() + WAIT_S
    while (found := get()) != expected:
        assert time.monotonic() < deadline, f"{found} instead of {expected}"
        time.sleep(0.01)


def test_offsets_of_a_member_that_the_group_does_not_have(bootstrap: str, topic: str) -> None:
    """KIP-447: the transaction has failed; the producer has not."""
    create(bootstrap, topic)
    group, tp = f"{topic}-group", TopicPartition(topic, 0)
    with transactional(bootstrap, topic) as producer:
        producer.begin_transaction()
        producer.send(topic, b"refused")
        with pytest.raises(CommitFailedError):
            producer.send_offsets_to_transaction({tp: 1}, member_of(group, 4, "not-a-member"))
        with pytest.raises(TransactionError, match="has to be aborted"):
            producer.commit_transaction()
        producer.abort_transaction()
        with producer.transaction():
            producer.send(topic, b"kept")
            producer.send_offsets_to_transaction({tp: 2}, member_of(group))
    until(lambda: offset_of(bootstrap, group, tp), 2)
    assert committed(bootstrap, topic) == [b"kept"]


def test_offsets_of_a_member_that_was_put_out(bootstrap: str, topic: str) -> None:
    """Its partitions may be another's by now. It is refused even before it has heard of it in poll()."""
    create(bootstrap, topic)
    group, tp = f"{topic}-group", TopicPartition(topic, 0)
    options: dict[str, Any] = {
        "group_id": group,
        "heartbeat_interval_ms": 50,
        "auto_offset_reset": "earliest",
    }
    with (
        KafkaConsumer(topic, bootstrap_servers=bootstrap, **options) as consumer,
        KafkaConsumer(topic, bootstrap_servers=bootstrap, **options) as heir,
        transactional(bootstrap, topic) as producer,
    ):
        while not consumer.assignment():
            consumer.poll(50)
        with RawClient(bootstrap) as raw:
            me = consumer.group_metadata()
            raw.ask(13, 3, group_id=group, members=[{"member_id": me.member_id}])
        until(lambda: consumer._core.membership.identity().generation_id, -1)
        while not heir.assignment():
            heir.poll(50)
        producer.begin_transaction()
        with pytest.raises(CommitFailedError):
            producer.send_offsets_to_transaction({tp: 7}, consumer.group_metadata())
        producer.abort_transaction()
        with producer.transaction():
            producer.send_offsets_to_transaction({tp: 9}, heir.group_metadata())
        until(lambda: offset_of(bootstrap, group, tp), 9)


def test_a_record_that_is_not_sent_forbids_the_commit(bootstrap: str, topic: str) -> None:
    """Whoever does not look at its future must not commit without it."""
    create(bootstrap, topic)
    with transactional(bootstrap, topic, max_request_size=10_000, max_block_ms=10_000) as producer:
        for wrong in (
            lambda: producer.send(topic, bytes(20_000)),
            lambda: producer.send("no good name", b"x"),
        ):
            producer.begin_transaction()
            producer.send(topic, b"dropped")
            assert wrong().exception(WAIT_S) is not None
            with pytest.raises(TransactionError, match="has to be aborted"):
                producer.commit_transaction()
            producer.abort_transaction()
        with producer.transaction():
            producer.send(topic, b"kept")
    assert committed(bootstrap, topic) == [b"kept"]


def test_a_record_that_the_broker_refuses(bootstrap: str, topic: str) -> None:
    create(bootstrap, topic, max_message_bytes=1_000)
    with transactional(bootstrap, topic) as producer:
        producer.begin_transaction()
        producer.send(topic, b"dropped").result(WAIT_S)
        assert isinstance(producer.send(topic, bytes(2_000)).exception(WAIT_S), RecordTooLargeError)
        with pytest.raises(TransactionError, match=r"max\.message\.bytes"):
            producer.commit_transaction()
        producer.abort_transaction()
        with producer.transaction():
            producer.send(topic, b"kept")
    assert committed(bootstrap, topic) == [b"kept"]


def test_a_batch_that_is_split_stays_in_its_transaction(bootstrap: str, topic: str) -> None:
    """Its halves have its sequence numbers, so that none is missing: a hole could only be mended by a new epoch."""
    create(bootstrap, topic, max_message_bytes=2_000)
    with transactional(bootstrap, topic, linger_ms=1_000, batch_size=4_000) as producer:
        for turn in range(3):
            with producer.transaction():
                # Some batches behind the first are refused as too large, or as out of order.
                for number in range(20):
                    producer.send(topic, b"%d.%02d" % (turn, number) + bytes(496))
    found = [value[:4] for value in committed(bootstrap, topic)]
    assert found == [b"%d.%02d" % (turn, number) for turn in range(3) for number in range(20)]


def test_what_takes_too_long_is_aborted_by_the_coordinator(bootstrap: str, topic: str) -> None:
    create(bootstrap, topic)
    with transactional(bootstrap, topic, transaction_timeout_ms=300, linger_ms=0) as producer:
        producer.begin_transaction()
        producer.send(topic, b"slow").result(WAIT_S)
        assert committed(bootstrap, topic) == [], "waits until nothing is open"
        with pytest.raises(ProducerFencedError):
            producer.commit_transaction()
    with transactional(bootstrap, topic) as producer, producer.transaction():
        producer.send(topic, b"next")
    assert committed(bootstrap, topic) == [b"next"]


def test_close_aborts_what_is_open(bootstrap: str, topic: str) -> None:
    create(bootstrap, topic)
    with transactional(bootstrap, topic, transaction_timeout_ms=600_000) as producer:
        producer.begin_transaction()
        producer.send(topic, b"open").result(WAIT_S)
        lingering = producer.send(topic, b"lingering")
    assert lingering.exception(0) is not None
    assert committed(bootstrap, topic) == [], "waits until nothing is open"


def test_what_other_threads_send_during_a_commit_is_in_it_or_refused(bootstrap: str, topic: str) -> None:
    create(bootstrap, topic, 2)
    refused: list[IllegalStateError] = []
    taken: list[list[DeliveryFuture]] = []

    def send(number: int) -> None:
        try:
            while True:
                taken[-1].append(producer.send(topic, b"%d.%d" % (len(taken), number), partition=number))
        except IllegalStateError as error:
            refused.append(error)

    with transactional(bootstrap, topic, linger_ms=0) as producer:
        for _ in range(5):
            producer.begin_transaction()
            taken.append([])
            threads = [threading.Thread(target=send, args=[number]) for number in range(2)]
            for thread in threads:
                thread.start()
            while len(taken[-1]) < 50:
                time.sleep(0.001)
            producer.commit_transaction()
            assert [future.exception(0) for future in taken[-1]] == [None] * len(taken[-1])
            for thread in threads:
                thread.join(WAIT_S)
    assert len(refused) == 10
    found = committed(bootstrap, topic)
    for number, futures in enumerate(taken, 1):
        assert sum(value.startswith(b"%d." % number) for value in found) == len(futures)

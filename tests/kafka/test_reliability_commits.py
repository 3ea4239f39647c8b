"""Commits while the group moves, revocations under a full buffer, and metadata that others have written."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import confluent_kafka
import pytest

from penstock import KafkaConsumer, OffsetAndMetadata, TopicPartition
from penstock.errors import CommitFailedError, KafkaError, ProtocolError
from tests.support import history as h
from tests.support.kafka import RealKafka
from tests.support.proxy import TO_CLIENT, Proxy

# kafka-python reads its schemas in a way that is deprecated
pytestmark = [pytest.mark.kafka, pytest.mark.filterwarnings("ignore:(read|open)_text is deprecated")]
WAIT_S = 60.0
ASSIGNORS = ["range", "cooperative-sticky", "consumer"]
"""The last one is the consumer protocol, where the coordinator assigns (KIP-848)."""


@contextmanager
def consumer_of(bootstrap: str, *topics: str, **config: Any) -> Iterator[KafkaConsumer]:
    options = {"auto_offset_reset": "earliest", "enable_auto_commit": False}
    with KafkaConsumer(*topics, bootstrap_servers=bootstrap, **{**options, **config}) as consumer:
        yield consumer


def member_options(kafka: RealKafka, group: str, assignor: str) -> dict[str, Any]:
    """Of a member with quick heartbeats."""
    if assignor == "consumer":
        kafka.configure_group(group, consumer_heartbeat_interval_ms=100)
        return {"group_id": group, "group_protocol": "consumer"}
    return {"group_id": group, "partition_assignment_strategy": assignor, "heartbeat_interval_ms": 100}


class Churn:
    """Others join the group, have a partition, and leave, one after another; the next comes once `whole()` holds again."""

    def __init__(
        self, bootstrap: str, topic: str, options: dict[str, Any], rounds: int, whole: Callable[[], bool]
    ) -> None:
        self._whole = whole
        self.finished = threading.Event()
        self.failure: BaseException | None = None
        self._make = lambda: consumer_of(bootstrap, **options)
        self._topic = topic
        self._rounds = rounds
        self._thread = threading.Thread(target=self._run, name="churn")

    def _run(self) -> None:
        try:
            for number in range(self._rounds):
                with self._make() as other:
                    other.subscribe([self._topic])
                    deadline = time.monotonic() + WAIT_S
                    while not other.assignment():
                        assert time.monotonic() < deadline, f"round {number}: no partition within {WAIT_S} s"
                        other.poll(timeout=50)
                    if number % 2:
                        other.unsubscribe()
                while not self._whole():
                    assert time.monotonic() < deadline, f"round {number}: its partitions did not go back"
                    time.sleep(0.01)
        except BaseException as error:
            self.failure = error
        finally:
            self.finished.set()

    def __enter__(self) -> Churn:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._thread.join(2 * WAIT_S)
        if self.failure is not None:
            raise self.failure


# ------------------------------------------------------------ commits in a rebalance


class Committer:
    """Commits in every way, and counts what becomes of it: "done", or the name of the error."""

    def __init__(self, consumer: KafkaConsumer) -> None:
        self.outcomes: Counter[str] = Counter()
        self.pending = 0
        self.done: dict[TopicPartition, int] = {}
        self.owned: set[TopicPartition] = set()
        self._consumer = consumer

    def sync(self) -> None:
        try:
            self._consumer.commit(dict(self.done))
            self.outcomes["done"] += 1
        except KafkaError as error:
            self.outcomes[type(error).__name__] += 1

    def asynchronous(self) -> None:
        self.pending += 1
        self._consumer.commit_async(None, self._answered)

    def _answered(self, offsets: object, error: BaseException | None) -> None:
        self.pending -= 1
        assert error is None or isinstance(error, KafkaError), repr(error)
        self.outcomes["done" if error is None else type(error).__name__] += 1

    # -- as a listener
    def on_partitions_assigned(self, partitions: list[TopicPartition]) -> None:
        self.sync()
        self.owned |= set(partitions)

    def on_partitions_revoked(self, partitions: list[TopicPartition]) -> None:
        self.sync()
        self._forget(partitions)

    def on_partitions_lost(self, partitions: list[TopicPartition]) -> None:
        self.sync()
        self._forget(partitions)

    def _forget(self, partitions: list[TopicPartition]) -> None:
        self.owned -= set(partitions)
        for tp in partitions:
            self.done.pop(tp, None)


@pytest.mark.parametrize("assignor", ASSIGNORS)
def test_14_commit_in_rebalance(
    kafka: RealKafka, topic: str, unique: Callable[[str], str], assignor: str
) -> None:
    """Each commit is done or refused with a typed error, every callback runs once, and reading goes on to the end."""
    kafka.create_topic(topic, 4)
    kafka.produce(topic, [(b"%d" % (n % 40), b"%d" % n) for n in range(20_000)])
    group, seen = unique("group"), set()
    options = member_options(kafka, group, assignor)
    with consumer_of(kafka.bootstrap_servers, max_poll_records=50, **options) as consumer:
        committer = Committer(consumer)
        consumer.subscribe([topic], listener=committer)
        deadline = time.monotonic() + WAIT_S

        def read() -> int:
            assert time.monotonic() < deadline, f"{len(seen)} read, {committer.outcomes}"
            records = consumer.poll(timeout=50)
            for record in records:
                seen.add(record.value)
                committer.done[record.topic_partition] = record.offset + 1
            return len(records)

        while not read():
            pass
        threads = {t.name for t in threading.enumerate()}
        with Churn(kafka.bootstrap_servers, topic, options, 4, lambda: len(committer.owned) == 4) as churn:
            while not churn.finished.is_set():
                read()
                for _ in range(3):
                    committer.asynchronous()
                    committer.sync()
        assert threads <= {t.name for t in threading.enumerate()}, "a thread of the consumer has died"
        ends = kafka.end_offsets(topic)
        while kafka.committed(group, topic) != ends:
            while read():
                pass
            committer.sync()
    assert committer.pending == 0, committer.outcomes
    assert len(seen) == 20_000 and committer.outcomes["done"] > 20, committer.outcomes
    assert set(committer.outcomes) <= {"done", "CommitFailedError", "CommitRewindError"}, committer.outcomes


@pytest.mark.parametrize("way", ["assign", "subscribe"])
def test_14_close_waits_for_commits_under_way(
    kafka: RealKafka, topic: str, unique: Callable[[str], str], way: str
) -> None:
    """What commit_async() was asked for before close() is stored, and its callbacks have run when close() returns.

    Source: ConsumerCoordinator.close of Kafka's Java client, which waits for pending asynchronous commits.
    """
    kafka.create_topic(topic, 1)
    kafka.produce(topic, [(None, b"%d" % n) for n in range(10)])
    group, tp = unique("group"), TopicPartition(topic, 0)
    told: list[tuple[int, BaseException | None]] = []
    with consumer_of(kafka.bootstrap_servers, group_id=group) as consumer:
        if way == "assign":
            consumer.assign([tp])
        else:
            consumer.subscribe([topic])
        deadline = time.monotonic() + WAIT_S
        while not consumer.poll(timeout=200):
            assert time.monotonic() < deadline
        for offset in range(1, 6):
            consumer.commit_async(
                {tp: offset}, lambda offsets, error: told.append((offsets[tp].offset, error))
            )
    assert kafka.committed(group, topic) == {0: 5}
    assert told == [(offset, None) for offset in range(1, 6)]


def test_14_a_commit_of_one_who_has_been_away_is_refused(
    kafka: RealKafka, topic: str, unique: Callable[[str], str]
) -> None:
    """The group went on without it; its commit is refused, its next poll brings it back where the group is."""
    kafka.create_topic(topic, 1)
    kafka.produce(topic, [(None, b"%d" % n) for n in range(20)])
    group, tp = unique("group"), TopicPartition(topic, 0)
    options = {
        "group_id": group,
        "max_poll_interval_ms": 1_000,
        "session_timeout_ms": 1_000,
        "heartbeat_interval_ms": 100,
    }
    with consumer_of(kafka.bootstrap_servers, topic, max_poll_records=5, **options) as slow:
        records: Any = []
        while not records:
            records = slow.poll(timeout=200)
        with consumer_of(kafka.bootstrap_servers, topic, max_poll_records=8, **options) as quick:
            taken: Any = []
            deadline = time.monotonic() + WAIT_S
            while not taken:
                assert time.monotonic() < deadline, "nobody takes over from one that does not poll"
                taken = quick.poll(timeout=200)
            assert taken[0].offset == 0
            quick.commit()
            with pytest.raises(CommitFailedError, match="poll"):
                slow.commit(records)
            future = slow.commit_async(records)
            assert isinstance(future.exception(WAIT_S), CommitFailedError)
            assert quick.committed(tp) == OffsetAndMetadata(taken[-1].offset + 1, "", 0)
        again: Any = []
        while not again:
            assert time.monotonic() < deadline, "it does not come back"
            again = slow.poll(timeout=200)
        assert again[0].offset == taken[-1].offset + 1


# ------------------------------------------------------------ a revocation under a full buffer


@pytest.mark.parametrize("assignor", ASSIGNORS)
def test_13_poll_vs_revoke(kafka: RealKafka, topic: str, unique: Callable[[str], str], assignor: str) -> None:
    """Much is fetched and waits; after the listener has returned nothing of the revoked partitions comes (KAFKA-20332)."""
    kafka.create_topic(topic, 4)
    for number in range(4):
        kafka.produce(topic, [(None, b"x" * 100)] * 20_000, partition=number)
    events: list[h.Event] = []
    owned: set[TopicPartition] = set()

    def places(partitions: list[TopicPartition]) -> frozenset[h.Place]:
        return frozenset(h.Place(*tp) for tp in partitions)

    class Listener:
        def on_partitions_assigned(self, partitions: list[TopicPartition]) -> None:
            events.append(h.Given("a", time.monotonic_ns(), places(partitions)))
            owned.update(partitions)

        def on_partitions_revoked(self, partitions: list[TopicPartition]) -> None:
            consumer.commit()
            events.append(h.Taken("a", time.monotonic_ns(), places(partitions)))
            owned.difference_update(partitions)

    options = member_options(kafka, unique("group"), assignor)
    with consumer_of(kafka.bootstrap_servers, max_poll_records=20, **options) as consumer:
        consumer.subscribe([topic], listener=Listener())

        def read() -> int:
            records = consumer.poll(timeout=50)
            now = time.monotonic_ns()
            events.extend(h.Read("a", now, h.Place(r.topic, r.partition), r.offset, "") for r in records)
            return len(records)

        while not read():
            pass
        with Churn(kafka.bootstrap_servers, topic, options, 3, lambda: len(owned) == 4) as churn:
            while not churn.finished.is_set():
                read()
        for _ in range(20):
            read()
    taken = [event for event in events if isinstance(event, h.Taken) and event.places]
    assert len(taken) >= 4, "three times for the others, once on close()"
    history = h.History([], {"a": events})
    assert h.only_while_owned(history) == []
    assert h.contiguous(history) == []


# ------------------------------------------------------------ metadata that others have written

ODD = [
    "",
    "\x00",
    "\ufeff\u202e \u0000tail",
    "\U0001f4a9" * 1_000,
    "e\u0301\u0327" * 500,
    "x" * 4_096,
    '{"a": [1,',
]


@pytest.mark.parametrize("writer", ["librdkafka", "kafka-python"])
def test_15_foreign_metadata(kafka: RealKafka, topic: str, unique: Callable[[str], str], writer: str) -> None:
    """Commit metadata is anyone's text, up to offset.metadata.max.bytes: it is told as it is and never in the way."""
    kafka.create_topic(topic, len(ODD))
    for number in range(len(ODD)):
        kafka.produce(topic, [(None, b"%d" % n) for n in range(3)], partition=number)
    import kafka as kafka_python

    group = unique("group")
    expected = ODD
    if writer == "librdkafka":  # in C a text ends at zero, which librdkafka sends with it
        expected = [text.replace("\x00", "0")[:4_095] + "\x00" for text in ODD]
        with kafka.reader(group) as consumer:
            consumer.commit(
                offsets=[
                    confluent_kafka.TopicPartition(topic, number, 2, text[:-1])
                    for number, text in enumerate(expected)
                ],
                asynchronous=False,
            )
    else:
        other = kafka_python.KafkaConsumer(bootstrap_servers=kafka.bootstrap_servers, group_id=group)
        try:
            places = [kafka_python.TopicPartition(topic, number) for number in range(len(ODD))]
            other.assign(places)
            other.commit(
                {
                    tp: kafka_python.OffsetAndMetadata(2, text, -1)
                    for tp, text in zip(places, ODD, strict=True)
                }
            )
        finally:
            other.close()
    assert resumed(kafka.bootstrap_servers, group, topic, len(ODD)) == expected


def resumed(bootstrap: str, group: str, topic: str, partitions: int) -> list[str]:
    """Offset 2 is committed everywhere: have a consumer go on from there; returns the metadata that it was told."""
    with consumer_of(bootstrap, topic, group_id=group) as consumer:
        places = [TopicPartition(topic, number) for number in range(partitions)]
        told = consumer.committed(places)
        found: dict[int, int] = {}
        deadline = time.monotonic() + WAIT_S
        while len(found) < partitions:
            assert time.monotonic() < deadline, f"started {found} of {partitions} partitions"
            for record in consumer.poll(timeout=200):
                found.setdefault(record.partition, record.offset)
        assert set(found.values()) == {2}
        consumer.commit()
        assert set(kafka_places(consumer.committed(places))) == {3}
        return [entry.metadata for entry in told.values() if entry is not None]


def kafka_places(found: dict[TopicPartition, OffsetAndMetadata | None]) -> list[int]:
    return [entry.offset for entry in found.values() if entry is not None]


def commit_raw(address: tuple[str, int], group: str, topic: str, offset: int, metadata: bytes | None) -> int:
    """OffsetCommit version 2 by hand, since no client lets through what is no text; returns the error code."""

    def text(data: bytes | None) -> bytes:
        return struct.pack(">h", -1) if data is None else struct.pack(">h", len(data)) + data

    entry = struct.pack(">iiq", 1, 0, offset) + text(metadata)
    body = text(group.encode()) + struct.pack(">i", -1) + text(b"") + struct.pack(">q", -1)
    request = (
        struct.pack(">hhi", 8, 2, 1)
        + text(b"by-hand")
        + body
        + struct.pack(">i", 1)
        + text(topic.encode())
        + entry
    )
    with socket.create_connection(address, WAIT_S) as connection, connection.makefile("rwb") as stream:
        stream.write(struct.pack(">i", len(request)) + request)
        stream.flush()
        (size,) = struct.unpack(">i", stream.read(4))
        return int(struct.unpack(">h", stream.read(size)[-2:])[0])


@pytest.mark.parametrize(
    "metadata", [None, b"\xff\xfe\x80\x00\xed\xa0\x80", b"\xc3"], ids=["null", "no-text", "cut-off"]
)
def test_15_metadata_that_is_no_text(
    kafka: RealKafka, topic: str, unique: Callable[[str], str], metadata: bytes | None
) -> None:
    kafka.create_topic(topic, 1)
    kafka.produce(topic, [(None, b"%d" % n) for n in range(3)])
    group = unique("group")
    coordinator = ("127.0.0.1", kafka.nodes[1].port)
    deadline = time.monotonic() + WAIT_S
    while code := commit_raw(coordinator, group, topic, 2, metadata):
        assert code in (14, 15, 16) and time.monotonic() < deadline, f"error code {code}"
    (told,) = resumed(kafka.bootstrap_servers, group, topic, 1)
    assert isinstance(told, str) and bool(told) == bool(metadata)


def test_15_metadata_that_arrives_as_no_text(
    kafka: RealKafka, kafka_proxies: dict[int, Proxy], topic: str, unique: Callable[[str], str]
) -> None:
    """Kafka itself mends what is no UTF-8; another broker may not. A typed error, and reading goes on once it is mended."""
    kafka.create_topic(topic, 1)
    kafka.produce(topic, [(None, b"%d" % n) for n in range(3)])
    group = unique("group")
    with kafka.reader(group) as other:
        other.commit(
            offsets=[confluent_kafka.TopicPartition(topic, 0, 2, "MARKED-METADATA")], asynchronous=False
        )
    (proxy,) = kafka_proxies.values()
    proxy.rewrite = lambda direction, data: (
        data.replace(b"MARKED-METADATA", b"\xff\xfe\x80\xed\xa0\x80ED-METADA")
        if direction == TO_CLIENT
        else data
    )
    with consumer_of(kafka.proxied_bootstrap_servers, topic, group_id=group) as consumer:
        with pytest.raises(ProtocolError, match=r"OFFSET_FETCH.*UTF-8"):
            consumer.committed(TopicPartition(topic, 0))
        deadline = time.monotonic() + WAIT_S
        with pytest.raises(ProtocolError, match=r"OFFSET_FETCH.*UTF-8"):
            while time.monotonic() < deadline:
                consumer.poll(timeout=100)
        proxy.heal()
        records: Any = []
        while not records:
            assert time.monotonic() < deadline, "it does not go on"
            with contextlib.suppress(ProtocolError):  # those that were on their way
                records = consumer.poll(timeout=100)
        assert records[0].offset == 2


def test_15_other_clients_read_ours(kafka: RealKafka, topic: str, unique: Callable[[str], str]) -> None:
    import kafka as kafka_python

    kafka.create_topic(topic, len(ODD))
    group = unique("group")
    with consumer_of(kafka.bootstrap_servers, group_id=group) as consumer:
        places = [TopicPartition(topic, number) for number in range(len(ODD))]
        consumer.assign(places)
        consumer.commit({tp: OffsetAndMetadata(2, text) for tp, text in zip(places, ODD, strict=True)})
    other = kafka_python.KafkaConsumer(bootstrap_servers=kafka.bootstrap_servers, group_id=group)
    try:
        told = [other.committed(kafka_python.TopicPartition(*tp), metadata=True).metadata for tp in places]
    finally:
        other.close()
    assert told == ODD


def test_15_metadata_that_is_too_large_is_refused(
    kafka: RealKafka, topic: str, unique: Callable[[str], str]
) -> None:
    """OFFSET_METADATA_TOO_LARGE, and the consumer goes on."""
    kafka.create_topic(topic, 1)
    tp = TopicPartition(topic, 0)
    with consumer_of(kafka.bootstrap_servers, group_id=unique("group")) as consumer:
        consumer.assign([tp])
        with pytest.raises(KafkaError, match="OFFSET_METADATA_TOO_LARGE"):
            consumer.commit({tp: OffsetAndMetadata(2, "x" * 4_097)})
        assert consumer.committed(tp) is None
        consumer.commit({tp: OffsetAndMetadata(2, "x" * 4_096)})
        assert consumer.committed(tp) == OffsetAndMetadata(2, "x" * 4_096)

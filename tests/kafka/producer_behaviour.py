"""What KafkaProducer does, on whichever broker: a module that imports these tests gives a `bootstrap` fixture.

Another client reads what was written: it is never only our own word.
"""

from __future__ import annotations

import asyncio
import itertools
import multiprocessing
import subprocess
import sys
import threading
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from confluent_kafka import Consumer, Message, Producer
from confluent_kafka import TopicPartition as Place

from penstock.admin import Admin, NewTopic
from penstock.errors import (
    BrokerError,
    ClosedError,
    ForkedError,
    IllegalStateError,
    KafkaTimeoutError,
    RecordTooLargeError,
    UnknownTopicOrPartitionError,
)
from penstock.producer import DeliveryFuture, KafkaProducer
from penstock.types import RecordMetadata

WAIT_S = 30.0
CODECS = ["none", "gzip", "snappy", "lz4", "zstd"]


@contextmanager
def producer_of(bootstrap: str, **config: Any) -> Iterator[KafkaProducer]:
    with KafkaProducer(bootstrap_servers=bootstrap, **config) as producer:
        yield producer


def create(bootstrap: str, topic: str, partitions: int = 1, **configs: object) -> str:
    with Admin(bootstrap_servers=bootstrap) as admin:
        dotted = {name.replace("_", "."): value for name, value in configs.items()}
        admin.create_topics([NewTopic(topic, partitions, configs=dotted)])
    return topic


def read_all(bootstrap: str, topic: str) -> dict[int, list[Message]]:
    """Every record, by partition, in the order of the log, as librdkafka reads it."""
    consumer = Consumer(
        {
            "bootstrap.servers": bootstrap,
            "group.id": "nobody",
            "enable.auto.commit": False,
            "check.crcs": True,
        }
    )
    try:
        count = len(consumer.list_topics(topic, timeout=WAIT_S).topics[topic].partitions)
        ends = {p: consumer.get_watermark_offsets(Place(topic, p), timeout=WAIT_S)[1] for p in range(count)}
        consumer.assign([Place(topic, p, 0) for p in range(count)])
        found: dict[int, list[Message]] = {p: [] for p in range(count)}
        nexts = dict.fromkeys(range(count), 0)
        while (left := sum(ends[p] - nexts[p] for p in range(count))) > 0:
            batch = consumer.consume(min(left, 5_000), timeout=WAIT_S)  # returns once it has that many
            assert batch, f"nothing came; have {nexts} of {ends}"
            for message in batch:
                assert message.error() is None, message.error()
                found[message.partition()].append(message)
                nexts[message.partition()] = message.offset() + 1
        return found
    finally:
        consumer.close()


def values(bootstrap: str, topic: str) -> list[bytes | None]:
    """All values, partition by partition."""
    return [message.value() for messages in read_all(bootstrap, topic).values() for message in messages]


@pytest.mark.parametrize("codec", CODECS)
def test_every_field_arrives(bootstrap: str, topic: str, codec: str) -> None:
    create(bootstrap, topic, retention_ms=-1)
    headers: list[tuple[str, bytes | None]] = [("a", b"1"), ("a", b"2"), ("naïve", None), ("empty", b"")]
    start = 1_700_000_000_000
    with producer_of(bootstrap, compression_type=codec) as producer:
        futures = [
            producer.send(topic, b"value" * 50, b"key", headers, timestamp_ms=start),
            producer.send(topic, None, "kéy", timestamp_ms=start + 5),
            producer.send(topic, "välue", None, timestamp_ms=start - 5),
            producer.send(topic, b"", b"", timestamp_ms=start + 7),
            producer.send(topic, bytearray(b"array"), memoryview(b"view"), {"one": b"x"}),
        ]
        results = [future.result(WAIT_S) for future in futures]
    assert results[:4] == [RecordMetadata(topic, 0, i, start + t) for i, t in enumerate((0, 5, -5, 7))]
    messages = read_all(bootstrap, topic)[0]
    assert [(m.key(), m.value()) for m in messages] == [
        (b"key", b"value" * 50),
        ("kéy".encode(), None),
        (None, "välue".encode()),
        (b"", b""),
        (b"view", b"array"),
    ]
    assert messages[0].headers() == headers
    assert [m.headers() for m in messages[1:4]] == [None] * 3
    assert messages[4].headers() == [("one", b"x")]
    assert [m.timestamp()[1] for m in messages] == [r.timestamp for r in results]


@pytest.mark.parametrize("codec", CODECS)
def test_many_records_in_small_batches_keep_their_order(bootstrap: str, topic: str, codec: str) -> None:
    create(bootstrap, topic, 3)
    with producer_of(bootstrap, compression_type=codec, batch_size=2_000, linger_ms=1) as producer:
        futures = [producer.send(topic, b"%d" % n, key=b"%d" % (n % 40)) for n in range(6_000)]
        producer.flush()
        places = [future.result(0) for future in futures]
    read = read_all(bootstrap, topic)
    for messages in read.values():
        numbers = [int(m.value()) for m in messages]
        assert numbers == sorted(set(numbers))
    there = {(m.partition(), m.offset()): int(m.value()) for messages in read.values() for m in messages}
    assert there == {(place.partition, place.offset): n for n, place in enumerate(places)}
    assert len(there) == 6_000


def test_keys_go_where_other_clients_send_them(bootstrap: str, topic: str) -> None:
    create(bootstrap, topic, 7)
    keys = [
        b"",
        b"a",
        b"key-%d" % 1,
        "schlüssel".encode(),
        *(b"%d" % n for n in range(300)),
        bytes(range(256)),
    ]
    theirs: dict[bytes, int] = {}
    other = Producer({"bootstrap.servers": bootstrap, "partitioner": "murmur2"})
    for key in keys:
        other.produce(
            topic, b"", key, on_delivery=lambda _, m: theirs.__setitem__(m.key() or b"", m.partition())
        )
    assert other.flush(WAIT_S) == 0
    with producer_of(bootstrap) as producer:
        futures = {key: producer.send(topic, key=key) for key in keys}
        assert {key: future.result(WAIT_S).partition for key, future in futures.items()} == theirs


def test_records_without_key_fill_one_batch_after_another(bootstrap: str, topic: str) -> None:
    create(bootstrap, topic, 4)
    with producer_of(bootstrap, batch_size=2_000, linger_ms=200) as producer:
        partitions = [producer.send(topic, bytes(100)) for _ in range(400)]
        producer.flush()
        order = [future.result(0).partition for future in partitions]
    changes = sum(1 for before, after in itertools.pairwise(order) if before != after)
    assert set(order) == {0, 1, 2, 3}
    assert changes < 60, "it stays with a partition until a batch is full"


def test_callbacks_come_in_order_with_the_place(bootstrap: str, topic: str) -> None:
    create(bootstrap, topic)
    told: list[tuple[RecordMetadata | None, BaseException | None]] = []
    with producer_of(bootstrap, batch_size=500) as producer:
        for n in range(100):
            producer.produce(
                topic, b"%d" % n, on_delivery=lambda metadata, error: told.append((metadata, error))
            )
        producer.flush()
        assert [(m.offset if m else None, e) for m, e in told] == [(n, None) for n in range(100)]
        told.clear()
        producer.produce(
            topic, bytes(2_000_000), on_delivery=lambda metadata, error: told.append((metadata, error))
        )
        assert [(m, type(e)) for m, e in told] == [(None, RecordTooLargeError)]


@pytest.mark.parametrize("acks", ["0", "1", "all"])
def test_acks(bootstrap: str, topic: str, acks: str) -> None:
    create(bootstrap, topic)
    with producer_of(bootstrap, acks=acks) as producer:
        offsets = [producer.send(topic, b"%d" % n).result(WAIT_S).offset for n in range(3)]
    assert offsets == ([-1, -1, -1] if acks == "0" else [0, 1, 2])
    if acks != "0":  # nobody acknowledged anything: when they arrive is not told
        assert values(bootstrap, topic) == [b"0", b"1", b"2"]


def test_a_record_lingers_and_goes_by_itself(bootstrap: str, topic: str) -> None:
    with producer_of(bootstrap, linger_ms=1) as producer:
        assert producer.send(topic, b"x").result(WAIT_S).offset == 0


def test_close_sends_what_lingers(bootstrap: str, topic: str) -> None:
    create(bootstrap, topic)
    with producer_of(bootstrap, linger_ms=60_000) as producer:
        future = producer.send(topic, b"x")
        assert not future.done()
    assert future.result(0).offset == 0
    assert values(bootstrap, topic) == [b"x"]


def test_flush_waits_for_what_was_sent_before_it(bootstrap: str, topic: str) -> None:
    with producer_of(bootstrap, linger_ms=60_000) as producer:
        futures = [producer.send(topic, b"x") for _ in range(10)]
        producer.flush(timeout=30_000)
        assert all(future.done() for future in futures)
        assert not producer.send(topic, b"y").done(), "what comes after it lingers again"


def test_many_threads_one_producer(bootstrap: str, topic: str) -> None:
    create(bootstrap, topic, 4)
    with producer_of(bootstrap, batch_size=1_000, linger_ms=1, buffer_memory=50_000) as producer:

        def work(thread: int) -> None:
            for n in range(500):
                producer.send(topic, b"%d-%d" % (thread, n), partition=thread % 4)

        threads = [threading.Thread(target=work, args=[number]) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(WAIT_S)
            assert not thread.is_alive()
        producer.flush()
    found: dict[int, list[int]] = defaultdict(list)
    for value in values(bootstrap, topic):
        thread, _, number = (value or b"").partition(b"-")
        found[int(thread)].append(int(number))
    assert found == {thread: list(range(500)) for thread in range(8)}


def test_serializers(bootstrap: str, topic: str) -> None:
    create(bootstrap, topic)

    def to_bytes(number: int) -> bytes:
        return number.to_bytes(2, "big")

    with producer_of(bootstrap, key_serializer=to_bytes, value_serializer=to_bytes) as producer:
        producer.send(topic, 258, key=1).result(WAIT_S)
        producer.send(topic, None, key=None).result(WAIT_S)
        with pytest.raises(OverflowError):
            producer.send(topic, 70_000)
    messages = read_all(bootstrap, topic)[0]
    assert [(m.key(), m.value()) for m in messages] == [(b"\0\1", b"\1\2"), (None, None)]


def test_what_cannot_be_sent_leaves_no_trace(bootstrap: str, topic: str) -> None:
    create(bootstrap, topic)
    with producer_of(bootstrap, value_serializer=lambda value: value) as producer:
        for wrong in (
            lambda: producer.send(topic, "text"),
            lambda: producer.send(topic, b"x", key=5),
            lambda: producer.send(topic, b"x", headers=[("h", "text")]),  # type: ignore[list-item]
            lambda: producer.send(topic, b"x", headers=[(5, b"v")]),  # type: ignore[list-item]
            lambda: producer.send(5, b"x"),  # type: ignore[arg-type]
        ):
            with pytest.raises(TypeError):
                wrong()
        with pytest.raises(ValueError, match="partition"):
            producer.send(topic, b"x", partition=-1)
        assert producer.send(topic, b"fine").result(WAIT_S).offset == 0
    assert values(bootstrap, topic) == [b"fine"]


def test_a_record_larger_than_the_request_is_told(bootstrap: str, topic: str) -> None:
    with producer_of(bootstrap, max_request_size=1_000) as producer:
        future = producer.send(topic, bytes(1_000))
        with pytest.raises(RecordTooLargeError, match=r"max\.request\.size"):
            future.result(0)


def test_a_batch_larger_than_the_topic_allows_is_split(bootstrap: str, topic: str) -> None:
    create(bootstrap, topic, max_message_bytes=2_000)
    sizes = [500, 500, 500, 500, 500, 5_000, 500, 500]
    with producer_of(bootstrap, linger_ms=1_000) as producer:
        futures = [producer.send(topic, bytes([n]) * size) for n, size in enumerate(sizes)]
        producer.flush()
    for future, size in zip(futures, sizes, strict=True):
        error = future.exception(0)
        assert isinstance(error, RecordTooLargeError) if size == 5_000 else error is None
    assert [value[0] for value in values(bootstrap, topic) if value] == [0, 1, 2, 3, 4, 6, 7]
    stored = [future.result(0).offset for n, future in enumerate(futures) if n != 5]
    assert stored == list(range(7))


def test_topics_and_partitions_that_do_not_exist(bootstrap: str, topic: str) -> None:
    create(bootstrap, topic, 2)
    with producer_of(bootstrap, max_block_ms=10_000) as producer:
        with pytest.raises(UnknownTopicOrPartitionError, match="2 partitions"):
            producer.send(topic, b"x", partition=2).result(WAIT_S)
        with pytest.raises(BrokerError, match="no good name"):
            producer.send("no good name", b"x").result(WAIT_S)
        assert [p.partition for p in producer.partitions_for(topic)] == [0, 1]


def test_new_partitions_are_found_when_asked_for(bootstrap: str, topic: str) -> None:
    create(bootstrap, topic)
    with producer_of(bootstrap) as producer, Admin(bootstrap_servers=bootstrap) as admin:
        producer.send(topic, b"x").result(WAIT_S)
        admin.create_partitions({topic: 3})
        assert producer.send(topic, b"y", partition=2).result(WAIT_S).partition == 2


def test_the_brokers_time_where_the_topic_asks_for_it(bootstrap: str, topic: str) -> None:
    create(bootstrap, topic, message_timestamp_type="LogAppendTime")
    with producer_of(bootstrap) as producer:
        place = producer.send(topic, b"x", timestamp_ms=1_000).result(WAIT_S)
    (message,) = read_all(bootstrap, topic)[0]
    assert message.timestamp() == (2, place.timestamp)
    assert place.timestamp > 1_600_000_000_000


def test_awaiting_a_future(bootstrap: str, topic: str) -> None:
    async def main(producer: KafkaProducer) -> list[int]:
        places = await asyncio.gather(*(_place(producer.send(topic, b"x")) for _ in range(5)))
        return [place.offset for place in places]

    async def _place(future: DeliveryFuture) -> RecordMetadata:
        return await future

    create(bootstrap, topic)
    with producer_of(bootstrap) as producer:
        assert asyncio.run(main(producer)) == [0, 1, 2, 3, 4]


def test_a_callback_may_send_but_not_wait(bootstrap: str, topic: str) -> None:
    create(bootstrap, topic)
    done = threading.Event()
    seen: list[Any] = []
    with producer_of(bootstrap, linger_ms=0) as producer:

        def again(metadata: RecordMetadata | None, error: BaseException | None) -> None:
            with pytest.raises(IllegalStateError, match="callback"):
                producer.flush()
            seen.append(producer.send(topic, b"second"))
            done.set()

        producer.produce(topic, b"first", on_delivery=again)
        assert done.wait(WAIT_S)
        assert seen[0].result(WAIT_S).offset == 1


def test_closed_is_closed(bootstrap: str, topic: str) -> None:
    producer = KafkaProducer(bootstrap_servers=bootstrap)
    producer.close()
    producer.close()
    for call in (lambda: producer.send(topic, b"x"), producer.flush, lambda: producer.partitions_for(topic)):
        with pytest.raises(ClosedError):
            call()


def test_no_thread_stays(bootstrap: str, topic: str) -> None:
    before = set(threading.enumerate())
    with producer_of(bootstrap) as producer:
        producer.send(topic, b"x").result(WAIT_S)
        assert set(threading.enumerate()) > before
    assert set(threading.enumerate()) == before


def _in_child(producer: KafkaProducer, topic: str, answers: Any) -> None:
    for call in (lambda: producer.send(topic, b"child"), producer.flush):
        try:
            call()
        except ForkedError:
            answers.put("ForkedError")
    producer.close()
    answers.put("closed")


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_forked_child_is_told(bootstrap: str, topic: str) -> None:
    create(bootstrap, topic)
    with producer_of(bootstrap) as producer:
        producer.send(topic, b"before").result(WAIT_S)
        context = multiprocessing.get_context("fork")
        answers = context.SimpleQueue()
        child = context.Process(target=_in_child, args=(producer, topic, answers))
        child.start()
        assert [answers.get() for _ in range(3)] == ["ForkedError", "ForkedError", "closed"]
        child.join(WAIT_S)
        assert child.exitcode == 0
        producer.send(topic, b"after").result(WAIT_S)
    assert values(bootstrap, topic) == [b"before", b"after"]


def test_a_script_that_forgets_to_close_still_sends(bootstrap: str, topic: str) -> None:
    create(bootstrap, topic)
    script = (
        "from penstock import KafkaProducer\n"
        f"producer = KafkaProducer(bootstrap_servers={bootstrap!r}, linger_ms=60_000)\n"
        f"for n in range(10): producer.send({topic!r}, str(n))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], timeout=WAIT_S, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert values(bootstrap, topic) == [b"%d" % n for n in range(10)]


def test_an_unclosed_producer_warns_and_ends(bootstrap: str, topic: str) -> None:
    producer = KafkaProducer(bootstrap_servers=bootstrap, linger_ms=60_000)
    future = producer.send(topic, b"x")
    with pytest.warns(ResourceWarning, match="unclosed"):
        del producer
    assert isinstance(future.exception(WAIT_S), ClosedError)


def test_nobody_there(unique: Callable[[str], str]) -> None:
    with producer_of("127.0.0.1:1", max_block_ms=300) as producer:
        with pytest.raises(KafkaTimeoutError, match=r"127\.0\.0\.1:1"):
            producer.send("t", b"x").result(0)
        with pytest.raises(KafkaTimeoutError):
            producer.partitions_for("t")

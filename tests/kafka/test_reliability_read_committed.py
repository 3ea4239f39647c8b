"""read_committed: no record of an aborted transaction is ever returned, all others are, in order (KIP-98)."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest
from confluent_kafka import Producer
from tools.kafka.kafka import java_tool

from penstock import KafkaConsumer, TopicPartition
from penstock.devbroker import DevBroker
from tests.support.kafka import QUIET, RealKafka

pytestmark = pytest.mark.kafka
WAIT_S = 60.0
FETCH = 1
Places = list[tuple[int, int, bytes]]


@contextmanager
def consumer_of(bootstrap: str, **config: Any) -> Iterator[KafkaConsumer]:
    options = {"auto_offset_reset": "earliest", "isolation_level": "read_committed"}
    with KafkaConsumer(bootstrap_servers=bootstrap, **{**options, **config}) as consumer:
        yield consumer


def read_to_end(bootstrap: str, topic: str, partitions: int = 1, **config: Any) -> Places:
    """(partition, offset, value) until the positions have reached the ends, which under read_committed are the last stable offsets."""
    with consumer_of(bootstrap, **config) as consumer:
        own = [TopicPartition(topic, number) for number in range(partitions)]
        consumer.assign(own)
        found: Places = []
        deadline = time.monotonic() + WAIT_S
        ends = consumer.end_offsets(own)
        while {tp: consumer.position(tp) for tp in own} != ends:
            assert time.monotonic() < deadline, f"{len(found)} read; ends {ends}"
            found += [(r.partition, r.offset, r.raw_value) for r in consumer.poll(timeout=100)]
        return found


def read_by_librdkafka(kafka: RealKafka, topic: str, isolation: str, partitions: int = 1) -> Places:
    """The same by another client, until it says that it is at the end."""
    from confluent_kafka import TopicPartition as Place

    found: Places = []
    with kafka.reader("other", isolation_level=isolation, enable_partition_eof=True) as consumer:
        consumer.assign([Place(topic, number, 0) for number in range(partitions)])
        ended = 0
        while ended < partitions:
            message = consumer.poll(WAIT_S)
            assert message is not None
            if message.error() is None:
                found.append((message.partition(), message.offset(), message.value()))
            else:
                ended += 1
    return found


class Writer:
    """A transactional producer of librdkafka; with `name` None one without transactions."""

    def __init__(self, bootstrap: str, topic: str, name: str | None, **config: Any) -> None:
        ids = {} if name is None else {"transactional.id": f"{topic}-{name}"}
        options = {name.replace("_", "."): value for name, value in config.items()}
        self.producer = Producer(
            {
                "bootstrap.servers": bootstrap,
                "linger.ms": 1,
                "enable.idempotence": True,
                **QUIET,
                **ids,
                **options,
            }
        )
        self._topic = topic
        if name is not None:
            self.producer.init_transactions(WAIT_S)

    def write(self, *values: bytes, partition: int = 0) -> Writer:
        for value in values:
            self.producer.produce(self._topic, value, partition=partition)
        assert self.producer.flush(WAIT_S) == 0
        return self

    def begin(self) -> Writer:
        self.producer.begin_transaction()
        return self

    def end(self, commit: bool) -> None:
        (self.producer.commit_transaction if commit else self.producer.abort_transaction)(WAIT_S)


def agree(kafka: RealKafka, topic: str, partitions: int = 1) -> Places:
    """Both isolation levels, beside librdkafka; returns what is committed, sorted."""
    for isolation in ("read_committed", "read_uncommitted"):
        ours = sorted(read_to_end(kafka.bootstrap_servers, topic, partitions, isolation_level=isolation))
        assert ours == sorted(read_by_librdkafka(kafka, topic, isolation, partitions)), isolation
    return sorted(read_to_end(kafka.bootstrap_servers, topic, partitions))


def test_27_read_committed(kafka: RealKafka, topic: str) -> None:
    """Transactions that lie across each other, plain records between them, an open one at the end."""
    kafka.create_topic(topic, 1)
    bootstrap = kafka.bootstrap_servers
    keeps, drops, stays_open = (Writer(bootstrap, topic, name) for name in ("keeps", "drops", "open"))
    plain = Writer(bootstrap, topic, None)
    keeps.begin().write(b"yes-0")
    drops.begin().write(b"no-0")
    plain.write(b"yes-1")
    keeps.write(b"yes-2")
    drops.write(b"no-1").end(commit=False)
    drops.begin().write(b"yes-3").end(commit=True)
    keeps.end(commit=True)
    drops.begin().write(b"no-2").end(commit=False)
    plain.write(b"yes-4")
    stays_open.begin().write(b"open")
    plain.write(b"behind the open one")
    drops.begin().write(b"committed behind the open one").end(commit=True)
    assert [value for *_, value in agree(kafka, topic)] == [b"yes-%d" % n for n in range(5)]
    stays_open.end(commit=False)
    rest = [b"behind the open one", b"committed behind the open one"]
    deadline = time.monotonic() + WAIT_S
    while (values := [v for *_, v in agree(kafka, topic)]) != [b"yes-%d" % n for n in range(5)] + rest:
        assert time.monotonic() < deadline, values


def test_27_what_is_open_is_waited_for(kafka: RealKafka, topic: str) -> None:
    """The reader stands at the last stable offset; it goes on when the transaction ends, and the aborted one stays unseen."""
    kafka.create_topic(topic, 1)
    first, second = (Writer(kafka.bootstrap_servers, topic, name) for name in "ab")
    first.begin().write(b"a")
    second.begin().write(b"b")
    tp = TopicPartition(topic, 0)
    with consumer_of(kafka.bootstrap_servers, fetch_max_wait_ms=100) as consumer:
        consumer.assign([tp])
        for _ in range(10):
            assert not consumer.poll(timeout=50)
        assert consumer.position(tp) == 0
        second.end(commit=True)
        for _ in range(10):
            assert not consumer.poll(timeout=50), "the first one is open still"
        first.end(commit=False)
        found: list[bytes] = []
        deadline = time.monotonic() + WAIT_S
        while not found:
            assert time.monotonic() < deadline
            found += [r.value for r in consumer.poll(timeout=100)]
        assert found == [b"b"]


def test_27_fetches_that_are_all_aborted(kafka: RealKafka, topic: str) -> None:
    """Many answers without a single record: the position goes on all the same, to what comes behind them."""
    kafka.create_topic(topic, 1)
    writer = Writer(kafka.bootstrap_servers, topic, "x", batch_size=2_000)
    for number in range(5):
        writer.begin()
        writer.write(*[b"no-%d" % number * 20] * 300).end(commit=False)
    small = {"max_partition_fetch_bytes": 3_000, "fetch_max_bytes": 3_000}
    assert read_to_end(kafka.bootstrap_servers, topic, **small) == []
    writer.begin().write(b"yes").end(commit=True)
    assert [value for *_, value in read_to_end(kafka.bootstrap_servers, topic, **small)] == [b"yes"]


@pytest.mark.parametrize("seed", range(3))
def test_27_any_order_of_transactions(kafka: RealKafka, topic: str, seed: int) -> None:
    chance = random.Random(seed)
    kafka.create_topic(topic, 2)
    writers = [Writer(kafka.bootstrap_servers, topic, str(n)) for n in range(4)]
    under_way: dict[int, list[bytes]] = {}
    committed: list[bytes] = []
    for step in range(120):
        number = chance.randrange(len(writers))
        writer, values = writers[number], under_way.get(number)
        if values is None:
            writer.begin()
            under_way[number] = []
        elif values and chance.random() < 0.3:
            commit = chance.random() < 0.5
            writer.end(commit)
            committed += under_way.pop(number) if commit else []
            under_way.pop(number, None)
        else:
            value = b"%d" % step
            writer.write(value, partition=chance.randrange(2))
            values.append(value)
    for number in under_way:
        writers[number].end(commit=False)
    assert sorted(value for *_, value in agree(kafka, topic, 2)) == sorted(committed)


def test_27_a_java_producers_transactions(kafka: RealKafka, topic: str) -> None:
    """Kafka's own producer ends a transaction every few milliseconds; the last one is left open and must not be returned."""
    kafka.create_topic(topic, 2)
    server = ["--bootstrap-server", kafka.bootstrap_servers, "--topic", topic]
    java_tool(
        "org.apache.kafka.tools.ProducerPerformance",
        [
            *(*server, "--num-records", "3000", "--record-size", "50", "--throughput", "-1"),
            *("--transactional-id", topic, "--transaction-duration-ms", "20"),
        ],
    )
    assert len(agree(kafka, topic, 2)) == 3_000


def test_27_a_marker_too_many(kafka: RealKafka, topic: str) -> None:
    """An operator aborts a transaction in one partition, and then its producer does too: the second marker ends nothing."""
    kafka.create_topic(topic, 1)
    writer, plain = Writer(kafka.bootstrap_servers, topic, "x"), Writer(kafka.bootstrap_servers, topic, None)
    writer.begin().write(b"no-0", b"no-1")
    abort = ["--bootstrap-server", kafka.bootstrap_servers, "abort", "--topic", topic, "--partition", "0"]
    java_tool("org.apache.kafka.tools.TransactionsCommand", [*abort, "--start-offset", "0"])
    plain.write(b"yes-0")
    before = kafka.end_offsets(topic)[0]
    writer.end(commit=False)
    deadline = time.monotonic() + WAIT_S
    while kafka.end_offsets(topic)[0] <= before:
        assert time.monotonic() < deadline, "no second marker"
    writer.begin().write(b"yes-1").end(commit=True)
    writer.begin().write(b"no-2").end(commit=False)
    plain.write(b"yes-2")
    assert [value for *_, value in agree(kafka, topic)] == [b"yes-0", b"yes-1", b"yes-2"]


# ------------------------------------------------------------ lists that are not sorted


def shuffled(order: Callable[[list[Any]], None]) -> Callable[[Any, Any], Any]:
    """An interceptor: the embedded broker's own answer, its list of aborted transactions in another order. The protocol names none."""
    from penstock.devbroker.apis import APIS
    from penstock.devbroker.server import Call

    handle, _ = APIS[FETCH].load()

    async def answer(request: Any, connection: Any) -> Any:
        fields = await handle(Call(connection._server, connection, request))
        for topic in fields["responses"]:
            for partition in topic["partitions"]:
                if partition.get("aborted_transactions"):
                    order(partition["aborted_transactions"])
        return fields

    return answer


@pytest.mark.parametrize("order", ["reversed", "shuffled", "doubled"])
def test_27_unsorted_lists_of_aborted_transactions(order: str) -> None:
    chance = random.Random(7)
    orders: dict[str, Callable[[list[Any]], None]] = {
        "reversed": lambda aborted: aborted.reverse(),
        "shuffled": chance.shuffle,
        "doubled": lambda aborted: aborted.extend(list(aborted)),
    }
    seen: list[int] = []

    def disturb(aborted: list[Any]) -> None:
        seen.append(len(aborted))
        orders[order](aborted)

    with DevBroker() as broker, ExitStack() as stack:
        broker.create_topic("t", 1)
        writers = [Writer(broker.bootstrap_servers, "t", str(n)) for n in range(3)]
        expected = []
        for turn in range(8):
            for number, writer in enumerate(writers):
                writer.begin().write(b"%d-%d" % (turn, number))
            for number, writer in enumerate(writers):
                writer.write(b"%d-%d again" % (turn, number))
                commit = (turn + number) % 3 == 0
                expected += [b"%d-%d" % (turn, number), b"%d-%d again" % (turn, number)] if commit else []
            for number, writer in enumerate(reversed(writers)):
                writer.end(commit=(turn + len(writers) - 1 - number) % 3 == 0)
        stack.callback(broker.intercept(FETCH, shuffled(disturb)))
        found = read_to_end(broker.bootstrap_servers, "t")
        assert sorted(value for *_, value in found) == sorted(expected)
        assert max(seen) > 5, "the lists were long enough to be out of order"

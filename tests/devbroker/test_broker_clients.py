"""Other people's clients against the embedded broker: what works there has to be Kafka's protocol, not our idea of it."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from confluent_kafka import (
    Consumer,
    ConsumerGroupTopicPartitions,
    IsolationLevel,
    KafkaException,
    Producer,
    TopicPartition,
)
from confluent_kafka.admin import AdminClient, ConfigResource, NewPartitions, NewTopic, OffsetSpec

from penstock.devbroker import DevBroker
from tests.support.closing import close

CODECS = ["none", "gzip", "snappy", "lz4", "zstd"]
WAIT_S = 15


@pytest.fixture(scope="module")
def broker() -> Iterator[DevBroker]:
    with DevBroker() as running:
        yield running


@pytest.fixture
def name() -> str:
    return f"n-{uuid.uuid4().hex[:10]}"


@pytest.fixture
def admin(broker: DevBroker) -> AdminClient:
    return AdminClient({"bootstrap.servers": broker.bootstrap_servers})


def producer(broker: DevBroker, **config: Any) -> Producer:
    return Producer({"bootstrap.servers": broker.bootstrap_servers, "linger.ms": 5, **config})


def consumer(broker: DevBroker, group: str, **config: Any) -> Consumer:
    base = {
        "bootstrap.servers": broker.bootstrap_servers,
        "group.id": group,
        "auto.offset.reset": "earliest",
        "enable.auto.commit": False,
        "session.timeout.ms": 6000,
        "heartbeat.interval.ms": 200,
    }
    return Consumer({**base, **config})


def fill(broker: DevBroker, topic: str, count: int, partitions: int = 1, **config: Any) -> None:
    with_keys = producer(broker, **config)
    for number in range(count):
        with_keys.produce(
            topic, str(number).encode(), key=str(number).encode(), partition=number % partitions
        )
    assert with_keys.flush(WAIT_S) == 0


def take(reader: Consumer, count: int) -> list[Any]:
    found: list[Any] = []
    deadline = time.monotonic() + WAIT_S
    while len(found) < count and time.monotonic() < deadline:
        for message in reader.consume(count - len(found), 0.5):
            assert message.error() is None, message.error()
            found.append(message)
    assert len(found) == count
    return found


def until(condition: Callable[[], bool], *consumers: Consumer) -> None:
    deadline = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < deadline, "did not happen in time"
        for each in consumers:
            assert each.poll(0.05) is None


# ---------------------------------------------------------------- confluent-kafka (librdkafka)
@pytest.mark.parametrize("codec", CODECS)
def test_librdkafka_round_trip_with_every_codec(broker: DevBroker, name: str, codec: str) -> None:
    sender = producer(broker, **{"compression.type": codec})
    rows = [(None, b"v", []), (b"k", None, []), (b"k", b"", [("h", b"1"), ("h", None), ("i", b"")])]
    rows += [(str(n).encode(), b"x" * 500, []) for n in range(200)]
    for key, value, headers in rows:
        sender.produce(name, value, key=key, headers=headers, timestamp=1_700_000_000_000)
    assert sender.flush(WAIT_S) == 0
    reader = consumer(broker, name)
    reader.subscribe([name])
    found = take(reader, len(rows))
    close(reader)
    assert [(m.key(), m.value(), m.headers() or []) for m in found] == rows
    assert [m.offset() for m in found] == list(range(len(rows)))
    assert found[0].timestamp() == (1, 1_700_000_000_000)


def test_librdkafka_group_of_two_shares_commits_and_resumes(broker: DevBroker, name: str) -> None:
    broker.create_topic(name, partitions=4)
    fill(broker, name, 40, 4)
    first, second = consumer(broker, name), consumer(broker, name)
    first.subscribe([name])
    found = take(first, 40)
    first.commit(asynchronous=False)
    second.subscribe([name])
    until(lambda: len(first.assignment()) == len(second.assignment()) == 2, first, second)
    mine, others = set(first.assignment()), set(second.assignment())
    assert {each.partition for each in mine | others} == {0, 1, 2, 3}
    close(first)
    until(lambda: len(second.assignment()) == 4, second)
    fill(broker, name, 4, 4)
    more = take(second, 4)
    close(second)
    assert {m.offset() for m in more} == {10}
    assert len({(m.partition(), m.offset()) for m in found}) == 40
    assert broker.committed(name) == {(name, index): 10 for index in range(4)}


@pytest.mark.parametrize("strategy", ["range", "roundrobin", "cooperative-sticky"])
def test_librdkafka_assignors(broker: DevBroker, name: str, strategy: str) -> None:
    broker.create_topic(name, partitions=3)
    members = [consumer(broker, name, **{"partition.assignment.strategy": strategy}) for _ in range(3)]
    for each in members:
        each.subscribe([name])
    until(lambda: all(len(each.assignment()) == 1 for each in members), *members)
    for each in members:
        close(each)


def test_librdkafka_static_member_returns_without_a_rebalance(broker: DevBroker, name: str) -> None:
    broker.create_topic(name, partitions=2)
    rebalances: list[int] = []
    stays = consumer(broker, name, **{"group.instance.id": "stays"})
    stays.subscribe([name], on_assign=lambda _, partitions: rebalances.append(len(partitions)))
    leaves = consumer(broker, name, **{"group.instance.id": "leaves"})
    leaves.subscribe([name])
    until(lambda: len(stays.assignment()) == len(leaves.assignment()) == 1, stays, leaves)
    close(leaves)
    before = len(rebalances)
    back = consumer(broker, name, **{"group.instance.id": "leaves"})
    back.subscribe([name])
    until(lambda: len(back.assignment()) == 1, stays, back)
    assert len(rebalances) == before
    close(stays)
    close(back)


def test_librdkafka_idempotent_producer(broker: DevBroker, name: str) -> None:
    fill(broker, name, 1000, **{"enable.idempotence": True})
    reader = consumer(broker, name)
    reader.subscribe([name])
    assert [int(m.value()) for m in take(reader, 1000)] == list(range(1000))
    close(reader)


def test_librdkafka_offsets_for_times_look_inside_batches(broker: DevBroker, name: str) -> None:
    for codec in CODECS:
        topic = f"{name}-{codec}"
        sender = producer(broker, **{"compression.type": codec, "linger.ms": 100})
        for number in range(50):
            sender.produce(topic, b"x" * 100, timestamp=1_000_000 + number * 10)
        assert sender.flush(WAIT_S) == 0
        reader = consumer(broker, name)
        for asked, expected in ((0, 0), (1_000_000, 0), (1_000_001, 1), (1_000_250, 25), (1_000_490, 49)):
            (answer,) = reader.offsets_for_times([TopicPartition(topic, 0, asked)], timeout=WAIT_S)
            assert answer.offset == expected, (codec, asked)
        (after,) = reader.offsets_for_times([TopicPartition(topic, 0, 2_000_000)], timeout=WAIT_S)
        assert after.offset == -1
        assert reader.get_watermark_offsets(TopicPartition(topic, 0), timeout=WAIT_S) == (0, 50)
        close(reader)


def test_log_append_time(broker: DevBroker, name: str) -> None:
    broker.create_topic(name, config={"message.timestamp.type": "LogAppendTime"})
    sender = producer(broker)
    times: list[tuple[int, int]] = []
    before = time.time_ns() // 1_000_000
    sender.produce(name, b"x", timestamp=5, on_delivery=lambda _, message: times.append(message.timestamp()))
    assert sender.flush(WAIT_S) == 0
    reader = consumer(broker, name)
    reader.subscribe([name])
    (found,) = take(reader, 1)
    close(reader)
    kind, stamp = found.timestamp()
    assert kind == 2
    assert before <= stamp <= time.time_ns() // 1_000_000
    assert times == [(2, stamp)]


def test_librdkafka_admin(broker: DevBroker, name: str, admin: AdminClient) -> None:
    created = admin.create_topics(
        [
            NewTopic(name, 2, 1, config={"max.message.bytes": "2000"}),
            NewTopic("bad name", 1, 1),
            NewTopic(name + "3", 1, 3),
        ]
    )
    created[name].result(WAIT_S)
    with pytest.raises(KafkaException, match="TOPIC_EXCEPTION"):
        created["bad name"].result(WAIT_S)
    with pytest.raises(KafkaException, match="REPLICATION_FACTOR"):
        created[name + "3"].result(WAIT_S)
    with pytest.raises(KafkaException, match="TOPIC_ALREADY_EXISTS"):
        admin.create_topics([NewTopic(name, 2, 1)])[name].result(WAIT_S)
    admin.create_partitions([NewPartitions(name, 5)])[name].result(WAIT_S)
    assert len(admin.list_topics(name, timeout=WAIT_S).topics[name].partitions) == 5
    resource = ConfigResource(ConfigResource.Type.TOPIC, name)
    config = admin.describe_configs([resource])[resource].result(WAIT_S)
    assert config["max.message.bytes"].value == "2000"
    assert config["retention.ms"].value == "604800000"
    cluster = admin.describe_cluster().result(WAIT_S)
    assert [node.port for node in cluster.nodes] == [broker.port]
    fill(broker, name, 10)
    deleted = admin.delete_records([TopicPartition(name, 0, 4)])[TopicPartition(name, 0)].result(WAIT_S)
    assert deleted.low_watermark == 4
    at = TopicPartition(name, 0)
    earliest = admin.list_offsets({at: OffsetSpec.earliest()}, isolation_level=IsolationLevel.READ_COMMITTED)
    assert earliest[at].result(WAIT_S).offset == 4
    assert admin.list_offsets({at: OffsetSpec.max_timestamp()})[at].result(WAIT_S).offset >= 4
    admin.delete_topics([name])[name].result(WAIT_S)
    assert name not in admin.list_topics(timeout=WAIT_S).topics


def test_librdkafka_group_admin(broker: DevBroker, name: str, admin: AdminClient) -> None:
    fill(broker, name, 5)
    reader = consumer(broker, name)
    reader.subscribe([name])
    take(reader, 5)
    reader.commit(asynchronous=False)
    listed = admin.list_consumer_groups().result(WAIT_S)
    assert {each.group_id: each.state.name for each in listed.valid}[name] == "STABLE"
    described = admin.describe_consumer_groups([name])[name].result(WAIT_S)
    (member,) = described.members
    assert [(each.topic, each.partition) for each in member.assignment.topic_partitions] == [(name, 0)]
    with pytest.raises(KafkaException, match="NON_EMPTY_GROUP"):
        admin.delete_consumer_groups([name])[name].result(WAIT_S)
    close(reader)
    rewound = ConsumerGroupTopicPartitions(name, [TopicPartition(name, 0, 2)])
    admin.alter_consumer_group_offsets([rewound])[name].result(WAIT_S)
    asked = ConsumerGroupTopicPartitions(name)
    offsets = admin.list_consumer_group_offsets([asked])[name].result(WAIT_S)
    assert [(each.topic, each.partition, each.offset) for each in offsets.topic_partitions] == [(name, 0, 2)]
    admin.delete_consumer_groups([name])[name].result(WAIT_S)
    assert broker.committed(name) == {}


def test_a_batch_over_the_limit_is_refused(broker: DevBroker, name: str) -> None:
    broker.create_topic(name, config={"max.message.bytes": 500})
    sender = producer(broker)
    errors: list[Any] = []
    sender.produce(name, b"x" * 600, on_delivery=lambda error, _: errors.append(error))
    assert sender.flush(WAIT_S) == 0
    assert errors[0].name() == "MSG_SIZE_TOO_LARGE"
    assert broker.end_offsets(name) == {0: 0}


def test_a_first_batch_larger_than_the_fetch_limits_arrives_whole(broker: DevBroker, name: str) -> None:
    sender = producer(broker)
    for _ in range(3):
        sender.produce(name, b"x" * 200_000)
        assert sender.flush(WAIT_S) == 0
    reader = consumer(broker, name, **{"fetch.message.max.bytes": 1000, "max.partition.fetch.bytes": 1000})
    reader.subscribe([name])
    assert [len(m.value()) for m in take(reader, 3)] == [200_000] * 3
    close(reader)


def test_topics_are_made_on_first_use_only_if_both_sides_want(name: str) -> None:
    with DevBroker(num_partitions=3) as willing:
        fill(willing, name, 1)
        assert list(willing.end_offsets(name)) == [0, 1, 2]
    with DevBroker(auto_create_topics_enable=False) as unwilling:
        refused: list[Any] = []
        sender = producer(unwilling, **{"message.timeout.ms": 1000})
        sender.produce(name, b"x", on_delivery=lambda error, _: refused.append(error.name()))
        sender.flush(WAIT_S)
        assert refused in (["_UNKNOWN_TOPIC"], ["_MSG_TIMED_OUT"], ["UNKNOWN_TOPIC_OR_PART"])


# ---------------------------------------------------------------- kafka-python
KAFKA_PYTHON_READS_RESOURCES_THE_OLD_WAY = pytest.mark.filterwarnings("ignore::DeprecationWarning")


@KAFKA_PYTHON_READS_RESOURCES_THE_OLD_WAY
@pytest.mark.parametrize("codec", [None, "gzip", "snappy", "lz4", "zstd"])
def test_kafka_python_round_trip(broker: DevBroker, name: str, codec: str | None) -> None:
    from kafka import KafkaConsumer, KafkaProducer

    sender = KafkaProducer(bootstrap_servers=broker.bootstrap_servers, compression_type=codec, linger_ms=10)
    futures = [sender.send(name, value=f"v{n}".encode(), key=b"k", headers=[("h", b"1")]) for n in range(50)]
    sender.flush(WAIT_S)
    assert [future.get(WAIT_S).offset for future in futures] == list(range(50))
    sender.close()
    reader = KafkaConsumer(
        name,
        bootstrap_servers=broker.bootstrap_servers,
        group_id=name,
        auto_offset_reset="earliest",
        enable_auto_commit=False,
        consumer_timeout_ms=WAIT_S * 1000,
    )
    values = [next(reader).value for _ in range(50)]
    reader.commit()
    close(reader)
    assert values == [f"v{n}".encode() for n in range(50)]
    assert broker.committed(name) == {(name, 0): 50}


@KAFKA_PYTHON_READS_RESOURCES_THE_OLD_WAY
def test_kafka_python_group_of_two(broker: DevBroker, name: str) -> None:
    from kafka import KafkaConsumer

    broker.create_topic(name, partitions=2)
    members = [
        KafkaConsumer(
            name, bootstrap_servers=broker.bootstrap_servers, group_id=name, heartbeat_interval_ms=200
        )
        for _ in range(2)
    ]
    deadline = time.monotonic() + WAIT_S
    while not all(len(each.assignment()) == 1 for each in members):
        assert time.monotonic() < deadline
        for each in members:
            each.poll(50)
    for each in members:
        close(each)


# ---------------------------------------------------------------- aiokafka
@pytest.mark.parametrize("codec", [None, "gzip", "snappy", "lz4", "zstd"])
async def test_aiokafka_round_trip(broker: DevBroker, name: str, codec: str | None) -> None:
    sender = AIOKafkaProducer(
        bootstrap_servers=broker.bootstrap_servers, compression_type=codec, enable_idempotence=True
    )
    await sender.start()
    placed = await asyncio.gather(
        *[await sender.send(name, f"v{n}".encode(), partition=0) for n in range(50)]
    )
    await sender.stop()
    assert [each.offset for each in placed] == list(range(50))
    reader = AIOKafkaConsumer(
        name,
        bootstrap_servers=broker.bootstrap_servers,
        group_id=name,
        auto_offset_reset="earliest",
        enable_auto_commit=False,
    )
    await reader.start()
    values = [(await asyncio.wait_for(reader.getone(), WAIT_S)).value for _ in range(50)]
    await reader.commit()
    await reader.stop()
    assert values == [f"v{n}".encode() for n in range(50)]
    assert broker.committed(name) == {(name, 0): 50}

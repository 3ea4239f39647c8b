"""What users write, as a type checker sees it: checked by test_typing.py with mypy and pyright, both strict. Never run.

Lines that end in an ignore comment are to be refused: a checker that takes them reports the comment as unneeded.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import datetime
import json
import re
import uuid
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from typing import Any, assert_type

import penstock
from penstock import (
    Adaptive,
    Admin,
    Assignor,
    AsyncKafkaConsumer,
    CircuitBreaker,
    ConsumerGroupMetadata,
    ConsumerRecord,
    ConsumerRecords,
    DeadLetter,
    Deduplicate,
    DevBroker,
    HttpSink,
    KafkaConsumer,
    KafkaProducer,
    MetricName,
    OffsetAndMetadata,
    OffsetAndTimestamp,
    Output,
    PartitionInfo,
    PostgresSink,
    Processor,
    RecordMetadata,
    Reject,
    Retry,
    RetryThis,
    RetryTopic,
    Skip,
    SkipRecord,
    Spool,
    SqliteSink,
    SqliteStore,
    Stop,
    TimestampType,
    TopicPartition,
)
from penstock.admin import ConfigEntry, GroupDescription, GroupListing, NewTopic, TopicDescription
from penstock.errors import (
    BrokerError,
    CommitFailedError,
    DeserializationError,
    KafkaError,
    LogTruncationError,
    WakeupError,
)
from penstock.group.protocol import MemberSubscription

HERE = TopicPartition("my-topic", 0)
Offsets = dict[TopicPartition, OffsetAndMetadata]


# ---------------------------------------------------------------- both consumers


class Listener:
    def __init__(self, consumer: KafkaConsumer) -> None:
        self.consumer = consumer

    def on_partitions_assigned(self, partitions: list[TopicPartition]) -> None:
        for partition in partitions:
            self.consumer.seek(partition, 0)

    def on_partitions_revoked(self, partitions: list[TopicPartition]) -> None:
        self.consumer.commit()

    def on_partitions_lost(self, partitions: list[TopicPartition]) -> None:
        print(f"lost {', '.join(str(partition) for partition in partitions)}")


class AsyncListener:
    async def on_partitions_assigned(self, partitions: list[TopicPartition]) -> None:
        await asyncio.sleep(0)


def dotted_and_snake_case() -> None:
    config: dict[str, Any] = {
        "bootstrap.servers": "localhost:9092",
        "group.id": "my-group",
        "enable.auto.commit": False,
        "key.deserializer": bytes.decode,
        "value.deserializer": json.loads,
    }
    dotted = KafkaConsumer("my-topic", **config)
    snake = KafkaConsumer("my-topic", "another", bootstrap_servers="localhost:9092", group_id="my-group")
    for consumer in (dotted, snake):
        consumer.close()


def reads(consumer: KafkaConsumer) -> None:
    consumer.subscribe(["my-topic"], listener=Listener(consumer))
    consumer.subscribe("my-topic")
    consumer.subscribe(pattern="orders-.*")
    consumer.subscribe(pattern=re.compile("orders-.*"))
    records = consumer.poll(timeout=1000)
    assert_type(records, ConsumerRecords)
    assert_type(consumer.poll(datetime.timedelta(seconds=1)), ConsumerRecords)
    for record in records:
        assert_type(record, ConsumerRecord)
        assert_type(record.topic, str)
        assert_type(record.partition, int)
        assert_type(record.offset, int)
        assert_type(record.timestamp, int)
        assert_type(record.timestamp_type, TimestampType)
        assert_type(record.leader_epoch, int)
        assert_type(record.topic_partition, TopicPartition)
        assert_type(record.raw_key, bytes | None)
        assert_type(record.raw_value, bytes | None)
        assert_type(record.raw_value_view(), memoryview | None)
        assert_type(record.headers, list[tuple[str, bytes | None]])
        for name, value in record.headers:
            print(name.upper(), b"" if value is None else value)
        order: dict[str, Any] = record.value  # whatever the deserializer makes
        print(order["id"], record.key)
    assert_type(records[0], ConsumerRecord)
    assert_type(records[1:], ConsumerRecords)
    assert_type(records[-1].offset, int)
    assert_type(records.records(HERE), ConsumerRecords)
    assert_type(records.partitions, list[TopicPartition])
    assert_type(records.next_offsets(), dict[TopicPartition, int])
    assert_type(len(records), int)
    if records:
        consumer.commit(records)
    for record in consumer:
        assert_type(record, ConsumerRecord)
    assert_type(iter(consumer), Iterator[ConsumerRecord])


def positions(consumer: KafkaConsumer) -> None:
    consumer.assign([0, 1, 2])
    consumer.assign([HERE, TopicPartition("my-topic", 1)])
    consumer.assign([("my-topic", 0)])
    assert_type(consumer.assignment(), set[TopicPartition])
    assert_type(consumer.subscription(), set[str])
    consumer.seek(HERE, 5)
    consumer.seek(HERE, OffsetAndMetadata(5, leader_epoch=2))
    consumer.seek_to_beginning()
    consumer.seek_to_end(HERE)
    consumer.pause(HERE)
    consumer.resume(*consumer.paused())
    assert_type(consumer.position(HERE, timeout=100), int)
    assert_type(consumer.beginning_offsets([HERE]), dict[TopicPartition, int])
    assert_type(consumer.end_offsets(consumer.assignment()), dict[TopicPartition, int])
    an_hour_ago = datetime.datetime.now(datetime.UTC) - datetime.timedelta(hours=1)
    assert_type(
        consumer.offsets_for_times({HERE: an_hour_ago}), dict[TopicPartition, OffsetAndTimestamp | None]
    )
    consumer.offsets_for_times({HERE: 1_700_000_000_000})
    consumer.offsets_for_times(dict.fromkeys(consumer.assignment(), an_hour_ago))
    assert_type(consumer.current_lag(HERE), int | None)
    for info in consumer.partitions_for("my-topic"):
        assert_type(info, PartitionInfo)
        print(info.partition, info.leader.host if info.leader is not None else "no leader")
    assert_type(consumer.topics(), dict[str, list[PartitionInfo]])
    consumer.unsubscribe()


def told(offsets: Offsets, error: BaseException | None) -> None:
    print(offsets, error)


async def told_later(offsets: Offsets, error: BaseException | None) -> None:
    await asyncio.sleep(0)


def commits(consumer: KafkaConsumer, record: ConsumerRecord) -> None:
    consumer.commit()
    consumer.commit(record)
    consumer.commit({HERE: 7}, allow_rewind=True, timeout=datetime.timedelta(seconds=5))
    consumer.commit({HERE: OffsetAndMetadata(7, "by hand")})
    next_offsets = {record.topic_partition: record.offset + 1}
    consumer.commit(next_offsets)
    kept: Offsets = {record.topic_partition: OffsetAndMetadata(record.offset + 1)}
    consumer.commit(kept)
    future = consumer.commit_async(callback=told)
    assert_type(future, concurrent.futures.Future[Offsets])
    consumer.commit_async({HERE: 8}, lambda offsets, error: print(offsets, error))
    assert_type(consumer.committed(HERE), OffsetAndMetadata | None)
    assert_type(consumer.committed([HERE]), dict[TopicPartition, OffsetAndMetadata | None])


def the_rest(consumer: KafkaConsumer) -> None:
    consumer.enforce_rebalance()
    assert_type(consumer.group_metadata(), ConsumerGroupMetadata)
    measured = consumer.metrics()
    assert_type(measured, dict[MetricName, float])
    lags = {name.tag("topic"): value for name, value in measured.items() if name.name == "records-lag"}
    assert_type(lags, dict[str | None, float])
    assert_type(consumer.client_instance_id(), uuid.UUID)
    consumer.note_progress()
    consumer.wakeup()
    with consumer as entered:
        assert_type(entered, KafkaConsumer)
    consumer.close(timeout=1000, leave_group=False)


def errors(consumer: KafkaConsumer) -> None:
    try:
        for record in consumer.poll():
            print(record.value)
    except DeserializationError as error:
        assert_type(error.raw_value, bytes | None)
        consumer.seek(error.topic_partition, error.offset + 1)
    except LogTruncationError as error:
        for partition, place in error.divergent_offsets.items():
            consumer.seek(partition, place)
    except CommitFailedError as error:
        print("retry" if error.retriable else "others have it", error)
    except WakeupError:
        pass
    except BrokerError as error:
        assert_type(error.code, int)
        print(error.name)
    except penstock.errors.KafkaTimeoutError:
        pass
    except KafkaError:
        raise


async def awaits(consumer: AsyncKafkaConsumer) -> None:
    await consumer.subscribe(["my-topic"], listener=AsyncListener())
    async with asyncio.timeout(5):
        records = await consumer.poll(timeout=datetime.timedelta(milliseconds=100))
    assert_type(records, ConsumerRecords)
    async for record in consumer:
        assert_type(record, ConsumerRecord)
        await consumer.commit(record)
        break
    assert_type(aiter(consumer), AsyncIterator[ConsumerRecord])
    await consumer.commit()
    await consumer.commit({HERE: 7}, allow_rewind=True)
    assert_type(consumer.commit_async(callback=told_later), asyncio.Future[Offsets])
    assert_type(await consumer.commit_async({HERE: 8}, told), Offsets)
    assert_type(await consumer.committed(HERE), OffsetAndMetadata | None)
    assert_type(await consumer.committed([HERE]), dict[TopicPartition, OffsetAndMetadata | None])
    await consumer.assign([0, HERE])
    await consumer.seek(HERE, 0)
    await consumer.pause(HERE)
    assert_type(await consumer.paused(), set[TopicPartition])
    assert_type(consumer.assignment(), set[TopicPartition])
    assert_type(await consumer.position(HERE), int)
    lag, ends = await asyncio.gather(consumer.current_lag(HERE), consumer.end_offsets([HERE]))
    assert_type(lag, int | None)
    assert_type(ends, dict[TopicPartition, int])
    polling = asyncio.create_task(consumer.poll())
    assert_type(await polling, ConsumerRecords)
    assert_type(await consumer.metrics(), dict[MetricName, float])
    async with consumer as entered:
        assert_type(entered, AsyncKafkaConsumer)
    await consumer.close(datetime.timedelta(seconds=5))


# ---------------------------------------------------------------- what users extend


class EvenlyByName(Assignor):
    name = "evenly-by-name"

    def assign(
        self,
        members: Mapping[str, MemberSubscription],
        partition_counts: Mapping[str, int],
        partition_racks: Mapping[TopicPartition, frozenset[str]] = {},
    ) -> dict[str, list[TopicPartition]]:
        found: dict[str, list[TopicPartition]] = {member: [] for member in members}
        names = sorted(members)
        for topic, count in sorted(partition_counts.items()):
            for number in range(count):
                found[names[number % len(names)]].append(TopicPartition(topic, number))
        return found


class Counter:
    """An interceptor, with any of the four methods."""

    def __init__(self) -> None:
        self.seen = 0

    def configure(self, config: Mapping[str, Any]) -> None:
        print(config["client.id"])

    def on_consume(self, records: ConsumerRecords) -> ConsumerRecords:
        self.seen += len(records)
        return records

    def on_commit(self, offsets: Offsets) -> None:
        print(offsets)


def extended() -> KafkaConsumer:
    return KafkaConsumer(
        "my-topic",
        bootstrap_servers=["localhost:9092"],
        group_id="my-group",
        partition_assignment_strategy=[EvenlyByName, "range"],
        interceptor_classes=[Counter()],
    )


# ---------------------------------------------------------------- producer, admin, embedded broker


def writes(producer: KafkaProducer) -> None:
    future = producer.send("my-topic", b"value", key="key", headers=[("trace", b"1"), ("empty", None)])
    stored = future.result(10)
    assert_type(stored, RecordMetadata)
    print(stored.topic, stored.partition, stored.offset, stored.timestamp)

    def delivered(metadata: RecordMetadata | None, error: BaseException | None) -> None:
        print(metadata.offset if metadata is not None else error)

    producer.produce("my-topic", {"n": 1}, partition=0, timestamp_ms=0, on_delivery=delivered)
    producer.flush(timeout=1000)
    assert_type(producer.partitions_for("my-topic"), list[PartitionInfo])
    with producer as entered:
        assert_type(entered, KafkaProducer)


def administers(admin: Admin) -> None:
    admin.create_topics([NewTopic("my-topic", 3)])
    for name, description in admin.describe_topics(["my-topic"]).items():
        assert_type(description, TopicDescription)
        print(name, description.is_internal)
    for listing in admin.list_groups():
        assert_type(listing, GroupListing)
    assert_type(admin.describe_group("my-group"), GroupDescription)
    assert_type(admin.group_offsets("my-group"), dict[TopicPartition, OffsetAndMetadata])
    admin.alter_group_offsets("my-group", {HERE: 5})
    admin.alter_group_offsets("my-group", {HERE: OffsetAndMetadata(5)})
    assert_type(admin.describe_configs(topic="my-topic"), dict[str, ConfigEntry])
    admin.delete_topics(["my-topic"])


def tests_with_a_broker() -> None:
    with DevBroker(num_partitions=3) as broker:
        broker.create_topic("my-topic", partitions=1)
        with Admin(bootstrap_servers=broker.bootstrap_servers) as admin:
            administers(admin)


def tables(records: ConsumerRecords) -> None:
    capsule: object = records.__arrow_c_stream__()
    print(capsule, penstock.__version__)


# ---------------------------------------------------------------- processing


def makes_a_processor() -> Processor:
    processor = Processor(
        {"bootstrap.servers": "localhost:9092"},
        group_id="orders",
        exactly_once=False,
        drain_timeout="10s",
        max_buffered_bytes="64MiB",
        memory_budget="1GiB",
        cpu_budget=1.5,
        spool=Spool("spool", max_bytes="2GB"),
    )

    @processor.handler(
        "orders",
        order_by="key",
        concurrency=Adaptive(least=4, most=500),
        retry=Retry(attempts=5, backoff="1s..1m", then=DeadLetter()),
        dead_letter="orders.dlq",
        on_error={ValueError: "dead_letter", LookupError: Skip(), MemoryError: Stop()},
        breaker=CircuitBreaker(on=ConnectionError),
        timeout="30s",
    )
    async def handle(record: ConsumerRecord) -> Output | None:
        if record.value is None:
            raise Reject("no order")
        if record.key is None:
            raise RetryThis("5s")
        return Output(b"value", key=b"key", topic="enriched")

    once = Deduplicate(SqliteStore("done.db"), by="value.id", expires="7d")

    @processor.handler("mails", deduplicate=once, executor="thread")
    def mail(record: ConsumerRecord) -> None:
        print(once.id_of(record))

    @processor.handler("bulk", batch=500, within="200ms", on_error={OSError: Retry(attempts=None)})
    async def bulk(records: ConsumerRecords) -> None:
        print(len(records))

    @processor.handler("later", order_by=None, on_error={OSError: RetryTopic("later.again", delay="10m")})
    async def later(record: ConsumerRecord) -> None:
        raise SkipRecord

    # what is decorated stays what it is
    kept: Callable[[ConsumerRecord], None] = mail
    print(kept, handle, bulk, later)
    processor.sink(
        "rows", sink=PostgresSink("postgresql://localhost/shop", "rows", {"id": "key"}, mode="upsert")
    )
    processor.sink("files", sink=SqliteSink("rows.db", "rows"), dead_letter="files.dlq")
    processor.sink("calls", sink=HttpSink("http://localhost/orders", headers={"a": "b"}))
    health = processor.health()
    assert_type(health.ready, bool)
    return processor


async def serves(processor: Processor) -> None:
    await processor.serve()
    processor.stop()


# ---------------------------------------------------------------- what a checker is to refuse


def mistaken_processor(processor: Processor) -> None:
    processor.handler("orders", order_by="value")  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]
    processor.handler("orders", executor="fork")  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]
    processor.sink("orders", sink=print)  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]


async def mistakes(consumer: KafkaConsumer, awaited: AsyncKafkaConsumer, record: ConsumerRecord) -> None:
    consumer.poll("1 s")  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]
    consumer.commit({"my-topic": 5})  # type: ignore[dict-item] # pyright: ignore[reportArgumentType]
    consumer.commit([HERE])  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]
    consumer.seek("my-topic", 5)  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]
    consumer.assign(HERE)  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]
    consumer.commit_async(callback=lambda offsets: None)  # type: ignore[arg-type,misc] # pyright: ignore
    record.offset = 5  # type: ignore[misc] # pyright: ignore[reportAttributeAccessIssue]
    print(record.off)  # type: ignore[attr-defined] # pyright: ignore
    for _ in awaited.poll():  # type: ignore[attr-defined] # pyright: ignore
        pass
    for _ in awaited:  # type: ignore[attr-defined] # pyright: ignore
        pass

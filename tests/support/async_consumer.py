"""What tests of AsyncKafkaConsumer share: the loops they run on, topics, listeners.

Every test runs on asyncio's own loop and on uvloop, and fails if the loop was told of an error that nobody took.
"""

from __future__ import annotations

import asyncio
import gc
import threading
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeVar

import pytest
import uvloop
from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient, NewTopic

from penstock import AsyncKafkaConsumer, ConsumerRecord, TopicPartition

T = TypeVar("T")
Run = Callable[[Coroutine[Any, Any, T]], T]
WAIT_S = 30.0
LOOPS = {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}
SESSION_MS = 6_000


@pytest.fixture(params=list(LOOPS))
def loop_name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def run(loop_name: str) -> Run[Any]:
    """Runs a coroutine in a new loop to its end."""

    def run(main: Coroutine[Any, Any, T]) -> T:
        """Bounded, so that what waits for ever is shown by where it waits."""
        complaints: list[dict[str, Any]] = []
        with asyncio.Runner(loop_factory=LOOPS[loop_name]) as runner:
            runner.get_loop().set_exception_handler(lambda loop, context: complaints.append(context))
            outcome = runner.run(asyncio.wait_for(main, 100))
            gc.collect()
        assert complaints == []
        return outcome

    return run


@pytest.fixture
def filled(bootstrap: str, topic: str) -> Callable[..., str]:
    """filled(count, partitions): the name of a topic whose partitions hold b"0", b"1" ... in turn."""

    def fill(count: int, partitions: int = 1) -> str:
        create(bootstrap, topic, partitions)
        produce(bootstrap, topic, range(count), partitions)
        return topic

    return fill


def create(bootstrap: str, topic: str, partitions: int) -> None:
    admin = AdminClient({"bootstrap.servers": bootstrap})
    admin.create_topics([NewTopic(topic, partitions, 1)])[topic].result(WAIT_S)


def produce(bootstrap: str, topic: str, numbers: range, partitions: int = 1) -> None:
    producer = Producer({"bootstrap.servers": bootstrap, "linger.ms": 5, "log_level": 2})
    for number in numbers:
        while True:
            try:
                producer.produce(topic, b"%d" % number, b"k%d" % number, partition=number % partitions)
                break
            except BufferError:
                producer.poll(0.1)
    assert producer.flush(WAIT_S) == 0


def consumer_of(bootstrap: str, *topics: str, **config: Any) -> AsyncKafkaConsumer:
    options = {"auto_offset_reset": "earliest", "enable_auto_commit": False, "session_timeout_ms": SESSION_MS}
    return AsyncKafkaConsumer(*topics, bootstrap_servers=bootstrap, **{**options, **config})


async def read(consumer: AsyncKafkaConsumer, count: int) -> list[ConsumerRecord]:
    """At least `count` records."""
    found: list[ConsumerRecord] = []
    async with asyncio.timeout(WAIT_S):
        while len(found) < count:
            found += await consumer.poll(timeout=500)
    return found


async def until(condition: Callable[[], Any], consumer: AsyncKafkaConsumer | None = None) -> None:
    async with asyncio.timeout(WAIT_S):
        while not condition():
            await (asyncio.sleep(0.01) if consumer is None else consumer.poll(timeout=20))


async def raised_by(awaitable: Awaitable[object]) -> BaseException | None:
    try:
        await awaitable
    except BaseException as error:
        return error
    return None


def values(records: list[ConsumerRecord]) -> list[int]:
    return [int(record.value) for record in records]


def engines() -> list[str]:
    return [t.name for t in threading.enumerate() if t.name.startswith("penstock-AsyncKafkaConsumer")]


class PlainListener:
    def __init__(self) -> None:
        self.events: list[tuple[str, int]] = []

    def on_partitions_assigned(self, partitions: list[TopicPartition]) -> None:
        self.events.append(("assigned", len(partitions)))

    def on_partitions_revoked(self, partitions: list[TopicPartition]) -> None:
        self.events.append(("revoked", len(partitions)))


class Held:
    """A listener whose methods wait for an event."""

    def __init__(self) -> None:
        self.begun = asyncio.Event()
        self.go_on = asyncio.Event()
        self.ended: list[str] = []
        self.error: Exception | None = None

    async def on_partitions_assigned(self, partitions: list[TopicPartition]) -> None:
        self.begun.set()
        await self.go_on.wait()
        self.ended.append("assigned")
        if self.error is not None:
            raise self.error

    async def on_partitions_revoked(self, partitions: list[TopicPartition]) -> None:
        self.begun.set()
        await self.go_on.wait()
        self.ended.append("revoked")

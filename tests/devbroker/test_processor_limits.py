"""What a processor keeps to: how many calls at once, how much is held, what waits elsewhere, what stands still."""

from __future__ import annotations

import asyncio
import threading
import time
import uuid
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest

from penstock import DevBroker, KafkaProducer
from penstock.errors import ConfigError
from penstock.processing import Adaptive, RetryTopic, Skip, adapting
from penstock.processing.executors import processes
from penstock.processing.executors.processes import MOST_IN_FRAME
from tests.devbroker.test_processor import Running, committed, made, processor_of, until
from tests.support.handlers import slowly


@pytest.fixture(scope="module")
def broker() -> Iterator[DevBroker]:
    with DevBroker(group_initial_rebalance_delay_ms=0) as running:
        yield running


def test_concurrency_adapts_to_what_the_dependency_can_take(
    broker: DevBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A dependency of 5 places: with each call beyond them all take longer."""
    monkeypatch.setattr(adapting, "_SAMPLES", 2)
    topic = made(broker, 4_000, keys=4_000)
    processor = processor_of(broker, memory_budget="1TiB", cpu_budget=64)
    places: list[asyncio.Semaphore] = []
    done = []
    limits = set()

    @processor.handler(topic, concurrency=Adaptive(least=2, most=200, start=2), name="adaptive")
    async def handle(record: Any) -> None:
        if not places:
            places.append(asyncio.Semaphore(5))
        async with places[0]:
            await asyncio.sleep(0.005)
        limits.add(processor.health().details["handlers"]["adaptive"]["concurrency"])  # type: ignore[index]
        done.append(record.value)

    with Running(processor):
        until(lambda: len(done) == 4_000, "all are handled")
    assert min(limits) == 2
    assert 5 <= max(limits) < 100, "it grew until all places were taken, and not without end"


def test_a_memory_budget_that_is_too_small_holds_back_and_never_stops(
    broker: DevBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(adapting, "_SAMPLES", 1)  # windows of a twentieth of a second
    topic = made(broker, 3_000)
    processor = processor_of(broker, memory_budget="1MiB", max_buffered_records=1_000)
    done = []
    held = []

    @processor.handler(topic, order_by=None, concurrency=1)
    async def handle(record: Any) -> None:
        await asyncio.sleep(0.002)
        held.append(processor.health().details["held_records"])
        done.append(record.value)

    with Running(processor):
        until(lambda: len(done) == 3_000, "all are handled")
    assert max(held[:500]) > 500, "it began with all that may be held"
    assert max(held[2_000:2_500]) <= 50, "and with the least at the end"


def test_a_cpu_budget_needs_something_to_adapt(broker: DevBroker) -> None:
    processor = processor_of(broker, cpu_budget=1.0)
    processor.handler("orders")(lambda record: None)
    with pytest.raises(ConfigError, match="Adaptive"):
        processor.run()


@pytest.mark.parametrize("limit", [{"max_buffered_records": 100}, {"max_buffered_bytes": "100kB"}])
def test_what_is_held_is_bounded_while_handlers_are_slow(broker: DevBroker, limit: dict[str, Any]) -> None:
    topic = made(broker)
    with KafkaProducer(bootstrap_servers=broker.bootstrap_servers) as producer:
        for number in range(1_500):
            producer.send(topic, value=b"%d" % number + b"x" * 1_000, partition=number % 3)
    processor = processor_of(broker, **limit)
    done, held = [], []

    @processor.handler(topic, order_by=None, concurrency=10)
    async def handle(record: Any) -> None:
        details = processor.health().details
        held.append((details["held_records"], details["held_bytes"], details["paused_partitions"]))
        await asyncio.sleep(0.002)
        done.append(record.value)

    with Running(processor):
        until(lambda: len(done) == 1_500, "all are handled")
    assert len(set(done)) == 1_500
    records, size_bytes, paused = (max(figures) for figures in zip(*held, strict=True))
    if "max_buffered_records" in limit:
        assert records <= 100
    else:
        assert size_bytes <= 110_000, "a tenth more than the limit: what one is taken to be, and what it is"
    assert paused == 3


def test_38_a_handler_that_hangs_is_told_of(broker: DevBroker, caplog: pytest.LogCaptureFixture) -> None:
    topic = made(broker, 30)
    processor = processor_of(broker, max_poll_interval_ms=1_500, session_timeout_ms=6_000)
    hangs = [True]

    @processor.handler(topic, order_by="key", concurrency=30)
    async def handle(record: Any) -> None:
        while record.value == b"7" and hangs[0]:
            await asyncio.sleep(0.01)

    def stalled() -> bool:
        return len(processor.health().details.get("stalled_partitions", ())) == 1  # type: ignore[arg-type]

    with Running(processor) as running:
        until(stalled, "the partition of the record is told of")
        assert any("has not moved past offset" in text for text in caplog.messages)
        until(lambda: processor.health().ready, "it is a member still: what it could do goes on")
        assert running.error is None
        hangs[0] = False


def test_what_waits_in_a_retry_topic_for_long_is_in_nobodys_way(broker: DevBroker) -> None:
    """More of them than may be held: they wait at the broker."""
    topic, later, group = made(broker, 600), made(broker, partitions=2), uuid.uuid4().hex
    processor = processor_of(broker, group, max_buffered_records=100)
    calls, held = Counter[bytes](), []

    @processor.handler(
        topic, order_by=None, on_error={ValueError: RetryTopic(later, delay="3s", attempts=2, then=Skip())}
    )
    async def handle(record: Any) -> None:
        calls[record.value] += 1
        held.append(processor.health().details["held_records"])
        if int(record.value) % 2 and record.topic == topic:
            raise ValueError("later")

    with Running(processor):
        until(lambda: len(calls) == 600, "all are tried once")
        assert sum(calls.values()) == 600
        with KafkaProducer(bootstrap_servers=broker.bootstrap_servers) as producer:
            for number in range(1_000, 1_200, 2):
                producer.send(topic, value=b"%d" % number)
        until(lambda: len(calls) == 700, "others are handled meanwhile")
        assert sum(calls.values()) == 700, "none of the others was due"
        until(lambda: sum(calls.values()) == 1_000, "they are handled when they are due")
    assert {n for n, count in calls.items() if count == 2} == {b"%d" % n for n in range(1, 600, 2)}
    assert max(held) <= 100
    assert sum(committed(broker, group, later, 2).values()) == 300


def test_a_batch_that_cannot_become_full_does_not_wait(broker: DevBroker) -> None:
    topic = made(broker, 300)
    processor, done = processor_of(broker, max_buffered_records=50), []

    @processor.handler(topic, order_by="partition", batch=1_000, within="1h")
    async def handle(records: Any) -> None:
        done.extend(record.value for record in records)

    with Running(processor):
        until(lambda: len(done) >= 250, "batches of what may be held")
    assert len(set(done)) == len(done)


@pytest.mark.parametrize("executor", ["async", "thread"])
def test_26_a_topic_that_is_made_again_begins_anew(broker: DevBroker, executor: Any) -> None:
    """While records of the old one are held: what is under way of them counts no more, and the commit goes back."""
    topic, group = made(broker, partitions=1), uuid.uuid4().hex
    processor = processor_of(broker, group)
    seen: list[bytes] = []
    may_go = threading.Event()

    def handle(record: Any) -> None:
        seen.append(record.value)
        if record.value == b"old 5":
            may_go.wait(30)

    async def handle_async(record: Any) -> None:
        seen.append(record.value)
        while record.value == b"old 5" and not may_go.is_set():
            await asyncio.sleep(0.01)

    processor.handler(topic, order_by=None, executor=executor)(
        handle_async if executor == "async" else handle
    )
    with KafkaProducer(bootstrap_servers=broker.bootstrap_servers) as producer:
        for number in range(20):
            producer.send(topic, b"old %d" % number)
        with Running(processor) as running:
            until(lambda: len(seen) == 20 and committed(broker, group, topic, 1) == {0: 5}, "all but one")
            broker.delete_topic(topic)
            broker.create_topic(topic, partitions=1)
            for number in range(3):
                producer.send(topic, b"new %d" % number)
            producer.flush()
            until(lambda: {b"new 0", b"new 1", b"new 2"} <= set(seen), "the new records are handled")
            until(lambda: committed(broker, group, topic, 1) == {0: 3}, "and committed")
            may_go.set()
            producer.send(topic, b"new 3")
            until(
                lambda: committed(broker, group, topic, 1) == {0: 4},
                "what ends of the old one changes nothing",
            )
            assert running.error is None


@pytest.mark.parametrize("exactly_once", [False, True], ids=["at least once", "exactly once"])
def test_36_a_stop_ends_though_no_broker_is_left(exactly_once: bool) -> None:
    with DevBroker(group_initial_rebalance_delay_ms=0) as broker:
        topic, target = made(broker, 300), made(broker)
        processor, handled = processor_of(broker, exactly_once=exactly_once, drain_timeout="1s"), []

        @processor.handler(topic, concurrency=5, output=target)
        async def handle(record: Any) -> bytes:
            handled.append(record.value)
            await asyncio.sleep(0.01)
            return bytes(record.value)

        with Running(processor) as running:
            until(lambda: len(handled) > 50, "some are handled")
            broker.stop()
            # Running.__exit__() stops it, and waits for its end
        assert running.error is None


@pytest.mark.parametrize("executor", ["thread", "process"])
def test_threads_and_processes_adapt_as_well(
    broker: DevBroker, monkeypatch: pytest.MonkeyPatch, executor: Any
) -> None:
    monkeypatch.setattr(adapting, "_SAMPLES", 1)
    topic = made(broker, 5_000, keys=5_000)
    processor = processor_of(broker, memory_budget="1TiB", drain_timeout="100ms")
    adaptive = Adaptive(least=1, most=2, start=1)
    processor.handler(topic, executor=executor, concurrency=adaptive, name="adaptive")(slowly)

    def at_once() -> int:
        handlers: Any = processor.health().details.get("handlers", {})
        works = handlers["adaptive"]["concurrency"] if "adaptive" in handlers else 0
        return int(works) // (MOST_IN_FRAME if executor == "process" else 1)

    with Running(processor):
        until(lambda: at_once() == 1, "it begins with one")
        until(lambda: at_once() == 2, "and goes on with two")


def test_processes_that_the_concurrency_has_no_use_for_are_ended(
    broker: DevBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It falls, since more than the budget is used, and their memory with it."""
    hungry = threading.Event()
    monkeypatch.setattr(adapting, "_SAMPLES", 1)
    monkeypatch.setattr(adapting.resources, "cpu_s", lambda pids: time.monotonic() * 1000 * hungry.is_set())
    monkeypatch.setattr(processes, "_SURPLUS_S", 0.1)
    topic = made(broker, 5_000, keys=5_000)
    group = f"g-{uuid.uuid4().hex[:8]}"
    processor = processor_of(broker, group, cpu_budget=64, drain_timeout="100ms")
    adaptive = Adaptive(least=1, most=3, start=3)
    processor.handler(topic, executor="process", concurrency=adaptive)(slowly)

    def at_work() -> int:
        stations = processor._runtime.stations if processor._runtime is not None else []
        return sum(len(station.executor.pids) for station in stations)

    with Running(processor) as running:
        until(lambda: at_work() > 1, "it begins with several")
        hungry.set()
        until(lambda: at_work() == 1, "one is left")
        before = sum(committed(broker, group, topic).values())
        until(lambda: sum(committed(broker, group, topic).values()) > before, "and goes on")
    assert running.error is None

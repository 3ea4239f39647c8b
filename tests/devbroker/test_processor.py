"""A processor against the embedded broker: order, retries, dead letters, commits, rebalances."""

from __future__ import annotations

import asyncio
import random
import threading
import time
import uuid
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from penstock import Admin, DevBroker, KafkaConsumer, KafkaProducer, TopicPartition
from penstock.errors import ConfigError, HandlerStoppedError
from penstock.processing import (
    CircuitBreaker,
    Output,
    Processor,
    Reject,
    Retry,
    RetryThis,
    RetryTopic,
    Skip,
    SkipRecord,
)
from tests.support import handlers

WAIT_S = 30.0


@pytest.fixture(scope="module")
def broker() -> Iterator[DevBroker]:
    with DevBroker(group_initial_rebalance_delay_ms=0) as running:
        yield running


def made(broker: DevBroker, records: int = 0, keys: int = 20, partitions: int = 3) -> str:
    name = f"t-{uuid.uuid4().hex[:8]}"
    broker.create_topic(name, partitions=partitions)
    with KafkaProducer(bootstrap_servers=broker.bootstrap_servers) as producer:
        for number in range(records):
            producer.send(name, value=b"%d" % number, key=b"k%d" % (number % keys))
    return name


def processor_of(broker: DevBroker, group_id: str | None = None, **options: Any) -> Processor:
    config = {
        "bootstrap.servers": broker.bootstrap_servers,
        "group.id": group_id or f"g-{uuid.uuid4().hex[:8]}",
        "auto.offset.reset": "earliest",
        "heartbeat.interval.ms": 100,
        "fetch.max.wait.ms": 50,
    }
    return Processor(config, commit_interval="50ms", **options)


class Running:
    """A processor in a thread of its own."""

    def __init__(self, processor: Processor) -> None:
        self.processor = processor
        self.error: BaseException | None = None
        self._thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        try:
            self.processor.run()
        except BaseException as error:
            self.error = error

    def __enter__(self) -> Running:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.processor.stop()
        self._thread.join(WAIT_S)
        assert not self._thread.is_alive(), "the processor does not end"

    def ended(self) -> None:
        self._thread.join(WAIT_S)
        assert not self._thread.is_alive()


def until(condition: Callable[[], object], what: str) -> None:
    deadline = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < deadline, f"in vain: {what}"
        time.sleep(0.01)


def committed(broker: DevBroker, group: str, topic: str, partitions: int = 3) -> dict[int, int]:
    with KafkaConsumer(bootstrap_servers=broker.bootstrap_servers, group_id=group) as consumer:
        found = consumer.committed([TopicPartition(topic, number) for number in range(partitions)])
    return {tp.partition: entry.offset for tp, entry in found.items() if entry is not None}


def all_of(broker: DevBroker, topic: str) -> list[Any]:
    with KafkaConsumer(
        topic,
        bootstrap_servers=broker.bootstrap_servers,
        auto_offset_reset="earliest",
        group_id=uuid.uuid4().hex,
    ) as consumer:
        partitions = [TopicPartition(topic, info.partition) for info in consumer.partitions_for(topic)]
        end = sum(consumer.end_offsets(partitions).values())
        records: list[Any] = []
        deadline = time.monotonic() + WAIT_S
        while len(records) < end:
            assert time.monotonic() < deadline
            records.extend(consumer.poll(200))
        return records


class Orders:
    """Notes who is handled when, and fails the test if two of one key are at once, or out of order."""

    def __init__(self) -> None:
        self.seen: dict[bytes, list[int]] = defaultdict(list)
        self.busy: set[bytes] = set()
        self.most = 0
        self.lock = threading.Lock()
        self.faults: list[str] = []

    def begin(self, record: Any) -> None:
        with self.lock:
            if record.key in self.busy:
                self.faults.append(f"two of {record.key} at once")
            self.busy.add(record.key)
            self.most = max(self.most, len(self.busy))

    def end(self, record: Any, done: bool = True) -> None:
        with self.lock:
            self.busy.discard(record.key)
            if done:
                seen = self.seen[record.key]
                if seen and record.offset <= seen[-1]:
                    self.faults.append(f"{record.key}: {record.offset} after {seen[-1]}")
                seen.append(record.offset)

    @property
    def count(self) -> int:
        return sum(len(offsets) for offsets in self.seen.values())


@pytest.mark.parametrize("executor", ["async", "thread"])
def test_06_key_order_holds_with_retries_and_far_more_handlers_than_partitions(
    broker: DevBroker, executor: str
) -> None:
    topic, orders, chance = made(broker, 600, keys=40), Orders(), random.Random(3)
    group = uuid.uuid4().hex
    processor = processor_of(broker, group)

    async def handle(record: Any) -> None:
        orders.begin(record)
        await asyncio.sleep(chance.random() * 0.002)
        failed = chance.random() < 0.2
        orders.end(record, done=not failed)
        if failed:
            raise ConnectionError("not now")

    def handle_plainly(record: Any) -> None:
        asyncio.run(handle(record))

    declare = processor.handler(topic, concurrency=32, retry=Retry(attempts=None, backoff="1ms..5ms"))
    declare(handle if executor == "async" else handle_plainly)
    with Running(processor):
        until(lambda: orders.count == 600, "all handled")
        until(lambda: sum(committed(broker, group, topic).values()) == 600, "all committed")
    assert not orders.faults
    assert orders.most > 3, "no more at once than partitions"


def test_31_a_record_that_waits_for_its_retry_holds_back_its_key_alone(broker: DevBroker) -> None:
    topic, seen, release = made(broker, 100, keys=10, partitions=1), [], threading.Event()
    group = uuid.uuid4().hex
    processor = processor_of(broker, group)
    first = {}

    @processor.handler(topic, retry=Retry(attempts=None, backoff="20ms"))
    async def handle(record: Any) -> None:
        if record.key == b"k3" and not release.is_set():
            first.setdefault("offset", record.offset)
            assert record.offset == first["offset"], "a later record of the key overtakes"
            raise ConnectionError
        seen.append(record)

    with Running(processor):
        until(lambda: len(seen) == 90, "all other keys")
        until(lambda: committed(broker, group, topic, 1) == {0: first["offset"]}, "the prefix, and no more")
        release.set()
        until(lambda: len(seen) == 100, "the key that waited")
        until(lambda: committed(broker, group, topic, 1) == {0: 100}, "all")
    assert [r.offset for r in seen if r.key == b"k3"] == sorted(r.offset for r in seen if r.key == b"k3")


def test_what_was_done_beyond_the_prefix_is_not_repeated_after_a_restart(broker: DevBroker) -> None:
    topic, group = made(broker, 300, keys=30, partitions=1), uuid.uuid4().hex
    seen: list[int] = []
    stuck = threading.Event()

    def life(let_go: bool) -> Processor:
        processor = processor_of(broker, group, drain_timeout="100ms")

        @processor.handler(topic)
        async def handle(record: Any) -> None:
            if record.offset == 7 and not let_go:
                stuck.set()
                await asyncio.sleep(1000)
            seen.append(record.offset)

        return processor

    with Running(life(let_go=False)):
        until(lambda: len(seen) == 290 and stuck.is_set(), "all keys but the one that is stuck")
    assert committed(broker, group, topic, 1) == {0: 7}
    before = set(seen)
    seen.clear()
    with Running(life(let_go=True)):
        until(lambda: len(seen) == 10, "what was not done")
        until(lambda: committed(broker, group, topic, 1) == {0: 300}, "all committed")
    assert not before & set(seen), "handled twice, though it was known to be done"
    assert before | set(seen) == set(range(300))


def test_failures_lead_where_the_policy_says(broker: DevBroker) -> None:
    topic, group = made(broker, 50, keys=50), uuid.uuid4().hex
    dead = made(broker, partitions=1)
    handled: dict[int, int] = defaultdict(int)
    processor = processor_of(broker, group)

    @processor.handler(
        topic,
        retry=Retry(attempts=3, backoff="1ms"),
        dead_letter=dead,
        on_error={ZeroDivisionError: Skip(), LookupError: "dead_letter"},
    )
    async def handle(record: Any) -> None:
        number = int(record.value)
        handled[number] += 1
        match number:
            case 1:
                raise ValueError("always")
            case 2:
                raise ZeroDivisionError
            case 3:
                raise KeyError("gone")
            case 4:
                raise Reject("no")
            case 5:
                raise SkipRecord
            case 6 if handled[6] < 8:
                raise RetryThis("1ms")
            case 7 if handled[7] < 3:
                raise ValueError("at first")

    with Running(processor):
        until(lambda: sum(committed(broker, group, topic).values()) == 50, "all committed")
    assert [handled[n] for n in range(8)] == [1, 3, 1, 1, 1, 1, 8, 3]
    letters = {int(record.value): dict(record.headers) for record in all_of(broker, dead)}
    assert set(letters) == {1, 3, 4}
    headers = letters[1]
    assert headers["kafka_dlt-original-topic"] == topic.encode()
    assert headers["kafka_dlt-exception-fqcn"] == b"builtins.ValueError"
    assert headers["kafka_dlt-exception-message"] == b"always"
    assert b"Traceback" in (headers["kafka_dlt-exception-stacktrace"] or b"")
    assert headers["penstock_dlt-attempts"] == b"3"


def test_without_a_policy_a_failure_stops_and_nothing_is_committed_past_it(broker: DevBroker) -> None:
    topic, group = made(broker, 30, keys=30, partitions=1), uuid.uuid4().hex
    processor = processor_of(broker, group)

    @processor.handler(topic)
    async def handle(record: Any) -> None:
        if record.offset == 12:
            raise RuntimeError("broken")

    with Running(processor) as running:
        running.ended()
    assert isinstance(running.error, HandlerStoppedError)
    assert running.error.offset == 12 and isinstance(running.error.__cause__, RuntimeError)
    assert committed(broker, group, topic, 1) == {0: 12}


@pytest.mark.parametrize("executor", ["async", "thread"])
def test_batches_hold_what_came_and_bad_records_are_found_in_them(broker: DevBroker, executor: str) -> None:
    topic, group = made(broker, 1000, keys=50), uuid.uuid4().hex
    dead = made(broker, partitions=1)
    processor = processor_of(broker, group)
    seen: list[tuple[int, int]] = []
    sizes: list[int] = []

    def check(records: Any) -> None:
        if any(record.value in (b"123", b"124", b"777") for record in records):
            raise ValueError("one of these")
        sizes.append(len(records))
        seen.extend((record.partition, record.offset) for record in records)

    async def check_async(records: Any) -> None:
        check(records)

    declare = processor.handler(topic, order_by="partition", batch=100, within="50ms", dead_letter=dead)
    declare(check_async if executor == "async" else check)
    with Running(processor):
        until(lambda: sum(committed(broker, group, topic).values()) == 1000, "all committed")
    assert max(sizes) == 100
    assert len(seen) == len(set(seen)) == 997
    for partition in range(3):
        offsets = [offset for where, offset in seen if where == partition]
        assert offsets == sorted(offsets)
    assert sorted(int(record.value) for record in all_of(broker, dead)) == [123, 124, 777]


def test_batches_are_read_as_arrow(broker: DevBroker) -> None:
    topic, rows = made(broker, 200), []
    processor = processor_of(broker)

    @processor.handler(topic, order_by=None, batch=64, within="20ms")
    def handle(records: Any) -> None:
        rows.extend(records.to_arrow().column("value").to_pylist())

    with Running(processor):
        until(lambda: len(rows) == 200, "all rows")
    assert sorted(map(int, rows)) == list(range(200))


def test_what_handlers_return_is_written_before_the_commit(broker: DevBroker) -> None:
    topic, out, other, group = made(broker, 100), made(broker), made(broker), uuid.uuid4().hex
    processor = processor_of(broker, group)

    @processor.handler(topic, output=out)
    async def handle(record: Any) -> Any:
        number = int(record.value)
        if number % 10 == 0:
            return None
        if number % 10 == 1:
            return [Output(b"x", key=record.key, topic=other), b"twice"]
        return Output(record.value, key=record.key, headers=(("n", b"1"),))

    with Running(processor):
        until(lambda: sum(committed(broker, group, topic).values()) == 100, "all committed")
    assert len(all_of(broker, out)) == 90 and len(all_of(broker, other)) == 10


@pytest.mark.parametrize("strategy", ["range", "cooperative-sticky"])
def test_07_rebalances_under_load_lose_nothing_and_overlap_nowhere(broker: DevBroker, strategy: str) -> None:
    through_rebalances(broker, uuid.uuid4().hex, **{"partition.assignment.strategy": strategy})


def through_rebalances(broker: DevBroker, group: str, records: int = 3_000, **options: Any) -> None:
    """Members come and go; each record is handled, per key never twice at once among those alive."""
    topic, orders, done = made(broker, records, keys=60, partitions=6), Orders(), set()

    def member() -> Processor:
        processor = processor_of(broker, group, **options)

        @processor.handler(topic, concurrency=20)
        async def handle(record: Any) -> None:
            orders.begin(record)
            try:
                await asyncio.sleep(0.005)
                done.add((record.partition, record.offset))
            finally:
                orders.busy.discard(record.key)

        return processor

    with Running(member()):
        for _ in range(3):
            with Running(member()):
                before = len(done)
                until(lambda: len(done) > before + 200 or len(done) == records, "progress with two")  # noqa: B023
        until(lambda: len(done) == records, "all handled")
        until(lambda: sum(committed(broker, group, topic, 6).values()) == records, "all committed")
    assert not orders.faults


def test_retry_topics_come_back_when_they_are_due(broker: DevBroker) -> None:
    topic, later, group = made(broker, 20), made(broker, partitions=1), uuid.uuid4().hex
    calls: dict[bytes, list[float]] = defaultdict(list)
    processor = processor_of(broker, group)

    @processor.handler(
        topic,
        order_by=None,
        on_error={ConnectionError: RetryTopic(later, delay="300ms", attempts=3, then=Skip())},
    )
    async def handle(record: Any) -> None:
        calls[record.value].append(time.monotonic())
        if record.value == b"5" and len(calls[b"5"]) < 3:
            raise ConnectionError
        if record.value == b"6":
            raise ConnectionError

    with Running(processor):
        until(lambda: len(calls) == 20 and len(calls[b"5"]) == 3 and len(calls[b"6"]) == 3, "the retries")
        until(lambda: sum(committed(broker, group, later, 1).values()) == 4, "retries committed")
    for value in (b"5", b"6"):
        gaps = [b - a for a, b in zip(calls[value], calls[value][1:], strict=False)]
        assert all(gap >= 0.29 for gap in gaps), "before it was due"


def test_a_breaker_pauses_while_the_dependency_is_down(broker: DevBroker) -> None:
    topic, up = made(broker, 200, keys=200), threading.Event()
    calls, done = [0], []
    breaker = CircuitBreaker(failures=3, pause="50ms..100ms")
    processor = processor_of(broker)

    @processor.handler(topic, concurrency=4, retry=Retry(attempts=2, backoff="1ms"), breaker=breaker)
    async def handle(record: Any) -> None:
        calls[0] += 1
        if not up.is_set():
            raise ConnectionError
        done.append(record.offset)

    with Running(processor) as running:
        until(lambda: breaker.state == "open", "it opens")
        time.sleep(0.5)
        assert calls[0] < 40, "it was called on and on"
        assert running.error is None, "attempts were counted while it was down"
        up.set()
        until(lambda: len(done) == 200, "all handled once it is up")


def test_a_handler_that_hangs_is_ended_by_its_timeout(broker: DevBroker) -> None:
    topic, group, dead = made(broker, 10, keys=10), uuid.uuid4().hex, made(broker, partitions=1)
    processor = processor_of(broker, group)

    @processor.handler(topic, timeout="100ms", retry=Retry(attempts=2, backoff="1ms"), dead_letter=dead)
    async def handle(record: Any) -> None:
        if record.value == b"4":
            await asyncio.sleep(1000)

    with Running(processor):
        until(lambda: sum(committed(broker, group, topic).values()) == 10, "all committed")
    (letter,) = all_of(broker, dead)
    assert dict(letter.headers)["kafka_dlt-exception-fqcn"] == b"penstock.errors.HandlerTimeoutError"


def test_32_nothing_is_committed_past_a_dead_letter_that_cannot_be_stored() -> None:
    with DevBroker(group_initial_rebalance_delay_ms=0, auto_create_topics_enable=False) as broker:
        topic, group, dead = made(broker, 40, keys=40, partitions=1), uuid.uuid4().hex, "made.late"
        processor = processor_of(broker, group, max_block_ms=300)
        seen = []

        @processor.handler(topic, dead_letter=dead)
        async def handle(record: Any) -> None:
            seen.append(record.offset)
            if record.offset == 5:
                raise ValueError

        with Running(processor):
            until(lambda: len(seen) == 40, "all others")
            until(lambda: committed(broker, group, topic, 1) == {0: 5}, "the prefix")
            time.sleep(1.0)  # some tries
            assert committed(broker, group, topic, 1) == {0: 5}
            broker.create_topic(dead, partitions=1)
            until(lambda: committed(broker, group, topic, 1) == {0: 40}, "all, once it is stored")
        assert len(all_of(broker, dead)) == 1


def test_what_does_not_go_together_is_refused_with_a_remedy(broker: DevBroker) -> None:
    with pytest.raises(ConfigError, match=r"group\.id"):
        Processor(bootstrap_servers="localhost:1")
    with pytest.raises(ConfigError, match="did you mean"):
        Processor(bootstrap_servers="localhost:1", group_idd="x")
    processor = processor_of(broker)
    with pytest.raises(ConfigError, match="order_by=None"):
        processor.handler("t", on_error={OSError: RetryTopic("later")})(print)
    with pytest.raises(ConfigError, match="dead_letter="):
        processor.handler("t", on_error={OSError: "dead_letter"})(print)
    with pytest.raises(ConfigError, match="names of its topics"):
        processor.handler()(print)
    with pytest.raises(ConfigError, match="has a handler already"):
        processor.handler("t")(print)
        processor.handler("t")(print)
    with pytest.raises(ConfigError, match="no duration"):
        Retry(backoff="soon")
    with pytest.raises(ConfigError, match="without handlers"):
        processor_of(broker).run()


def test_an_admin_sees_its_lag(broker: DevBroker) -> None:
    topic, group = made(broker, 10), uuid.uuid4().hex
    processor = processor_of(broker, group)
    processor.handler(topic)(lambda record: None)
    with Running(processor):
        until(lambda: sum(committed(broker, group, topic).values()) == 10, "all committed")
        assert processor.health().ready
    assert not processor.health().ready
    with Admin(bootstrap_servers=broker.bootstrap_servers) as admin:
        assert admin is not None


def test_processes_run_what_crashes_hangs_or_needs_a_core(broker: DevBroker) -> None:
    """Poison records cost their process, and go to the dead letters; all others are done, in other processes."""
    topic, out, dead, group = made(broker), made(broker), made(broker, partitions=1), uuid.uuid4().hex
    poison = ["die", "exit", "crash", "hang", "fail", "odd"]
    with KafkaProducer(bootstrap_servers=broker.bootstrap_servers) as producer:
        for number in range(300):
            value = poison[number // 50] if number % 50 == 20 else str(number)
            producer.send(topic, value=value, key=f"k{number % 40}")
    processor = processor_of(broker, group, value_deserializer=handlers.text)
    processor.handler(
        topic,
        executor="process",
        concurrency=2,
        timeout="2s",
        retry=Retry(attempts=2, backoff="1ms"),
        dead_letter=dead,
        output=out,
    )(handlers.of_orders)
    with Running(processor) as running:
        until(lambda: sum(committed(broker, group, topic).values()) == 300 or running.error, "all committed")
        assert running.error is None
    done = [record.value.split() for record in all_of(broker, out)]
    assert len(done) == 294 and len({value for _, value in done}) == 294
    assert len({pid for pid, _ in done}) > 2, "processes that died were replaced"
    letters = {record.value: dict(record.headers) for record in all_of(broker, dead)}
    assert {value.decode() for value in letters} == set(poison)
    assert letters[b"crash"]["kafka_dlt-exception-fqcn"] == b"penstock.errors.WorkerDiedError"
    assert letters[b"hang"]["kafka_dlt-exception-fqcn"] == b"penstock.errors.HandlerTimeoutError"
    assert b"in the worker process" in (letters[b"fail"]["kafka_dlt-exception-stacktrace"] or b"")
    assert b"OddError" in (letters[b"odd"]["kafka_dlt-exception-message"] or b"")


def test_processes_take_batches(broker: DevBroker) -> None:
    topic, out, group = made(broker, 500), made(broker), uuid.uuid4().hex
    processor = processor_of(broker, group)
    processor.handler(topic, executor="process", batch=100, within="50ms", order_by="partition", output=out)(
        handlers.count
    )
    with Running(processor):
        until(lambda: sum(committed(broker, group, topic).values()) == 500, "all committed")
    assert sum(int(record.value) for record in all_of(broker, out)) == 500


def test_what_no_other_process_can_find_is_refused(broker: DevBroker) -> None:
    processor = processor_of(broker)
    processor.handler(made(broker), executor="process")(lambda record: None)
    with pytest.raises(ConfigError, match="cannot find"):
        processor.run()


def test_a_handler_that_stops_the_processor_is_not_called_again(broker: DevBroker) -> None:
    topic, calls = made(broker, 20, keys=20, partitions=1), Counter[int]()
    processor = processor_of(broker)

    @processor.handler(topic, retry=Retry(attempts=3, backoff="1ms"))
    async def handle(record: Any) -> None:
        calls[record.offset] += 1
        if record.offset == 12:
            raise RuntimeError("broken")

    with Running(processor) as running:
        running.ended()
    assert calls[12] == 3, "it was called after the decision to stop"


def test_with_transactions_nothing_is_called_done_whose_outputs_are_not_written(broker: DevBroker) -> None:
    topic, out, group = made(broker, 20, keys=20, partitions=1), made(broker), uuid.uuid4().hex
    processor, called, may_go = processor_of(broker, group, exactly_once=True), [], threading.Event()

    @processor.handler(topic, output=out)
    def handle(record: Any) -> Output:
        if record.offset == 3:
            may_go.wait(WAIT_S)
        called.append(record.offset)
        return Output(record.value)

    def stored() -> Any:
        with KafkaConsumer(bootstrap_servers=broker.bootstrap_servers, group_id=group) as consumer:
            return consumer.committed(TopicPartition(topic, 0))

    with Running(processor):
        until(lambda: len(called) == 19 and stored() is not None and stored().offset == 3, "all but one")
        time.sleep(0.2)  # some commits
        assert stored().metadata == "", "outputs in memory would be lost with the process"
        may_go.set()
        until(lambda: stored().offset == 20, "all committed")

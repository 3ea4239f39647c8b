"""A processor that is exactly once, against the embedded broker: what comes between the steps of its commits."""

from __future__ import annotations

import concurrent.futures
import contextlib
import uuid
from collections.abc import Iterator
from typing import Any

import pytest

from penstock import DevBroker, KafkaConsumer, Output, Processor, TopicPartition
from penstock.errors import RecordTooLargeError
from tests.devbroker.test_processor import Running, committed, made, processor_of, until
from tests.kafka.transaction_behaviour import committed as read

TXN_OFFSET_COMMIT, END_TXN = 28, 26


@pytest.fixture(scope="module", params=[2, 1], ids=["version-2", "version-1"])
def broker(request: pytest.FixtureRequest) -> Iterator[DevBroker]:
    with DevBroker(group_initial_rebalance_delay_ms=0, transaction_version=request.param) as running:
        yield running


class Held:
    """Requests of one kind are held once hold() was called, until let_go()."""

    def __init__(self, broker: DevBroker, api_key: int) -> None:
        self.holding = False
        self.count = 0
        self._gate: concurrent.futures.Future[Any] = concurrent.futures.Future()
        self._remove = broker.intercept(api_key, self._hold)

    def _hold(self, request: Any, connection: Any) -> Any:
        if not self.holding:
            return None
        self.count += 1
        return self._gate

    def hold(self) -> None:
        self.holding = True

    def let_go(self) -> None:
        self.holding = False
        self._remove()
        self._gate.set_result(None)


def copier(broker: DevBroker, group: str, source: str, target: str, **options: Any) -> Processor:
    processor = processor_of(broker, group, exactly_once=True, **options)

    @processor.handler(source, output=target)
    async def copy(record: Any) -> Output:
        return Output(record.value, key=record.key, partition=record.partition)

    return processor


def numbers(broker: DevBroker, topic: str) -> list[int]:
    return sorted(int(value) for value in read(broker.bootstrap_servers, topic))


@pytest.mark.parametrize("api_key", [TXN_OFFSET_COMMIT, END_TXN], ids=["offsets", "end"])
def test_one_that_is_stopped_in_the_midst_of_a_commit(broker: DevBroker, api_key: int) -> None:
    """The last commit comes after the one that is under way, and does not write again what that one has written."""
    source, target, group = made(broker, 300), made(broker), uuid.uuid4().hex
    held = Held(broker, api_key)
    held.hold()
    with Running(copier(broker, group, source, target)) as running:
        until(lambda: held.count, "a commit is under way")
        running.processor.stop()
        running._thread.join(0.5)
        held.let_go()
        running.ended()
    assert running.error is None, repr(running.error)
    done = sum(committed(broker, group, source).values())
    found = numbers(broker, target)
    assert len(found) == len(set(found)) == done
    with Running(copier(broker, group, source, target)):
        until(lambda: sum(committed(broker, group, source).values()) == 300, "all is copied")
    assert numbers(broker, target) == list(range(300))


@pytest.mark.parametrize("protocol", ["classic", "consumer"])
@pytest.mark.parametrize("api_key", [TXN_OFFSET_COMMIT, END_TXN], ids=["offsets", "end"])
def test_a_rebalance_in_the_midst_of_a_commit(broker: DevBroker, api_key: int, protocol: str) -> None:
    """Partitions go to another member between the offsets and the end: it goes on where that transaction ends, or it is aborted."""
    source, target, group = made(broker, 300), made(broker), uuid.uuid4().hex
    held = Held(broker, api_key)
    held.hold()
    with contextlib.ExitStack() as stack:
        first = stack.enter_context(Running(_with_protocol(broker, group, source, target, protocol)))
        until(lambda: held.count, "a commit is under way")
        second = stack.enter_context(Running(_with_protocol(broker, group, source, target, protocol)))
        second._thread.join(0.7)  # long enough to join, and to be told to wait
        held.let_go()
        until(lambda: sum(committed(broker, group, source).values()) == 300, "all is copied")
    assert first.error is None, repr(first.error)
    assert second.error is None, repr(second.error)
    assert numbers(broker, target) == list(range(300))


def _with_protocol(broker: DevBroker, group: str, source: str, target: str, protocol: str) -> Processor:
    config = {"bootstrap.servers": broker.bootstrap_servers, "group.id": group, "group.protocol": protocol}
    config |= {"auto.offset.reset": "earliest", "fetch.max.wait.ms": "50"}
    if protocol == "classic":
        config["heartbeat.interval.ms"] = "100"
    processor = Processor(config, exactly_once=True, commit_interval="50ms")

    @processor.handler(source, output=target)
    async def copy(record: Any) -> Output:
        return Output(record.value, key=record.key, partition=record.partition)

    return processor


def test_brokers_that_are_not_there_yet_are_waited_for(caplog: pytest.LogCaptureFixture) -> None:
    with DevBroker(group_initial_rebalance_delay_ms=0) as broker:
        source, target, group = made(broker, 30), made(broker), uuid.uuid4().hex
        broker.stop()
        processor = copier(broker, group, source, target, **{"max.block.ms": 200})
        with Running(processor) as running:
            until(lambda: caplog.text.count("transactional id cannot be taken yet") > 1, "it tries")
            broker.start()
            until(lambda: sum(committed(broker, group, source).values()) == 30, "all is copied")
        assert running.error is None
        assert numbers(broker, target) == list(range(30))


def test_an_output_that_the_broker_refuses_ends_it(broker: DevBroker) -> None:
    """Not lost, and not tried for ever: nothing is committed past it."""
    source, target, group = made(broker, 1, partitions=1), uuid.uuid4().hex, uuid.uuid4().hex
    broker.create_topic(target, config={"max.message.bytes": 10_000})
    processor = processor_of(broker, group, exactly_once=True)

    @processor.handler(source, output=target)
    async def enlarge(record: Any) -> Output:
        return Output(bytes(20_000))

    with Running(processor) as running:
        running.ended()
    assert isinstance(running.error, RecordTooLargeError)
    assert committed(broker, group, source, 1) == {}
    assert read(broker.bootstrap_servers, target) == []


def test_outputs_too_large_for_one_batch_go_in_two(broker: DevBroker) -> None:
    source, target, group = made(broker, 200), uuid.uuid4().hex, uuid.uuid4().hex
    broker.create_topic(target, config={"max.message.bytes": 2_000})
    processor = processor_of(broker, group, exactly_once=True)

    @processor.handler(source, output=target)
    async def enlarge(record: Any) -> Output:
        return Output(record.value.rjust(500, b"0"))

    with Running(processor) as running:
        until(lambda: sum(committed(broker, group, source).values()) == 200, "all is written")
    assert running.error is None
    assert numbers(broker, target) == list(range(200))


def test_an_output_larger_than_a_request_is_that_records_failure(broker: DevBroker) -> None:
    source, target, dead, group = made(broker, 30), made(broker), made(broker), uuid.uuid4().hex
    processor = processor_of(broker, group, exactly_once=True)

    @processor.handler(source, output=target, dead_letter=dead)
    async def enlarge(record: Any) -> Output:
        return Output(record.value if record.value != b"7" else bytes(2_000_000))

    with Running(processor) as running:
        until(lambda: sum(committed(broker, group, source).values()) == 30, "all are done with")
    assert running.error is None
    assert numbers(broker, dead) == [7]
    assert numbers(broker, target) == [n for n in range(30) if n != 7]


def test_offsets_are_not_told_while_a_transaction_holds_them(broker: DevBroker) -> None:
    """KIP-447: whoever asks meanwhile, as the next owner does, waits for the transaction's end."""
    from tests.kafka.transaction_behaviour import member_of, transactional

    source, group = made(broker), uuid.uuid4().hex
    place = TopicPartition(source, 0)

    def ask() -> int:
        with KafkaConsumer(bootstrap_servers=broker.bootstrap_servers, group_id=group) as consumer:
            entry = consumer.committed(place)
            assert entry is not None
            return entry.offset

    with (
        transactional(broker.bootstrap_servers, group) as producer,
        concurrent.futures.ThreadPoolExecutor() as pool,
    ):
        for offset in (5, 9):
            producer.begin_transaction()
            producer.send_offsets_to_transaction({place: offset}, member_of(group))
            asked = pool.submit(ask)
            with pytest.raises(TimeoutError):
                asked.result(0.3)
            producer.commit_transaction()
            assert asked.result(30) == offset

"""Transactions against the embedded broker: the same as against a real Kafka by both protocols, and every fault on command."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from penstock.devbroker import CLOSE, DevBroker
from penstock.errors import BrokerError, KafkaTimeoutError, ProducerFencedError, TransactionError
from tests.devbroker.raw import RawClient
from tests.kafka.transaction_behaviour import *  # noqa: F403 - the tests that all brokers pass
from tests.kafka.transaction_behaviour import (
    WAIT_S,
    TopicPartition,
    committed,
    create,
    identity,
    member_of,
    offset_of,
    transactional,
    until,
)

PRODUCE, INIT_PRODUCER_ID, ADD_PARTITIONS, ADD_OFFSETS, END_TXN, OFFSETS = 0, 22, 24, 25, 26, 28
UNKNOWN_TOPIC, NOT_ENOUGH_REPLICAS, OUT_OF_ORDER, INVALID_TXN_STATE = 3, 19, 45, 48
UNKNOWN_MAPPING, CONCURRENT, PRODUCER_FENCED, TRANSACTION_ABORTABLE = 49, 51, 90, 120


@pytest.fixture(scope="module", params=[2, 1], ids=["version-2", "version-1"])
def broker(request: pytest.FixtureRequest) -> Iterator[DevBroker]:
    with DevBroker(transaction_version=request.param) as running:
        yield running


@pytest.fixture
def bootstrap(broker: DevBroker) -> str:
    return broker.bootstrap_servers


class Faults:
    """faults(api key, ...) has the next requests of that kind answered so, in turn; None lets one pass. `left` counts what is to come."""

    def __init__(self, broker: DevBroker) -> None:
        self._broker = broker
        self._to_come: dict[int, list[Any]] = {}
        self._removes: list[Callable[[], None]] = []

    def __call__(self, api_key: int, *answers: Any) -> None:
        to_come = self._to_come.setdefault(api_key, [])
        to_come.extend(answers)
        self._removes.append(
            self._broker.intercept(api_key, lambda request, _: to_come.pop(0) if to_come else None)
        )

    @property
    def left(self) -> int:
        return sum(len(answers) for answers in self._to_come.values())

    def close(self) -> None:
        for remove in self._removes:
            remove()


@pytest.fixture
def faults(broker: DevBroker) -> Iterator[Faults]:
    made = Faults(broker)
    yield made
    made.close()


def by_version_2(broker: DevBroker) -> bool:
    return broker._options.number("transaction.version") == 2


def test_epochs_run_out_and_a_new_producer_id_follows(broker: DevBroker, bootstrap: str, topic: str) -> None:
    create(bootstrap, topic)
    with transactional(bootstrap, topic) as producer:
        first, _ = identity(producer)
        assert broker._server is not None
        broker._server.transactions.machine.by_id[topic].epoch = 2**15 - 4
        producer._sender.identity.epoch = 2**15 - 4
        seen = set()
        for number in range(5):
            producer.begin_transaction()
            producer.send(topic, b"dropped").result(WAIT_S)
            producer.send(
                topic, bytes(100)
            )  # may be on its way: by version 1 such an abort raises the epoch, too
            producer.abort_transaction()
            with producer.transaction():
                producer.send(topic, b"%d" % number)
            seen.add(identity(producer)[0])
    assert first in seen
    assert len(seen) == 2
    assert committed(bootstrap, topic) == [b"%d" % number for number in range(5)]


@pytest.mark.parametrize("api_key", [PRODUCE, ADD_PARTITIONS, ADD_OFFSETS, OFFSETS, END_TXN])
def test_a_coordinator_that_asks_for_an_abort(
    broker: DevBroker, bootstrap: str, topic: str, faults: Faults, api_key: int
) -> None:
    """TRANSACTION_ABORTABLE, which newer brokers answer by either protocol (KIP-890, KIP-1050)."""
    if by_version_2(broker) and api_key in (ADD_PARTITIONS, ADD_OFFSETS):
        pytest.skip("not asked by version 2")
    create(bootstrap, topic)
    group, place = member_of(topic), TopicPartition(topic, 0)
    with transactional(bootstrap, topic) as producer:
        faults(api_key, TRANSACTION_ABORTABLE)
        producer.begin_transaction()
        producer.send(topic, b"dropped")
        with pytest.raises(TransactionError, match="TRANSACTION_ABORTABLE") as told:
            producer.send_offsets_to_transaction({place: 1}, group)
            producer.commit_transaction()
        assert not isinstance(told.value, ProducerFencedError)
        producer.abort_transaction()
        assert faults.left == 0
        with producer.transaction():
            producer.send(topic, b"kept")
            producer.send_offsets_to_transaction({place: 2}, group)
    assert committed(bootstrap, topic) == [b"kept"]
    until(lambda: offset_of(bootstrap, topic, place), 2)


@pytest.mark.parametrize("fault", [CONCURRENT, CLOSE, NOT_ENOUGH_REPLICAS], ids=str)
def test_what_passes_is_waited_for(bootstrap: str, topic: str, faults: Faults, fault: Any) -> None:
    create(bootstrap, topic, 2)
    place = TopicPartition(topic, 0)
    with transactional(bootstrap, topic, batch_size=200, linger_ms=0) as producer:
        faults(PRODUCE, None, fault, fault, None, None, fault)
        for api_key in (ADD_PARTITIONS, ADD_OFFSETS, OFFSETS, END_TXN):
            if fault != NOT_ENOUGH_REPLICAS:
                faults(api_key, fault, fault, None, fault)
        for number in range(6):
            with producer.transaction():
                for part in range(40):
                    producer.send(topic, b"%d.%d" % (number, part), partition=part % 2)
                producer.send_offsets_to_transaction({place: number}, member_of(topic))
    expected = [b"%d.%d" % (n, part) for p in range(2) for n in range(6) for part in range(p, 40, 2)]
    assert committed(bootstrap, topic) == expected
    until(lambda: offset_of(bootstrap, topic, place), 5)


def test_a_batch_that_overtakes_another_waits_for_it(bootstrap: str, topic: str, faults: Faults) -> None:
    """The first of two in flight is refused for the moment, the second since the first is missing: neither ends the transaction."""
    create(bootstrap, topic)
    with transactional(bootstrap, topic, batch_size=100, linger_ms=0) as producer:
        producer.begin_transaction()
        producer.send(topic, b"first").result(WAIT_S)
        faults(PRODUCE, NOT_ENOUGH_REPLICAS)
        futures = [producer.send(topic, b"%02d" % n + bytes(98)) for n in range(20)]
        producer.commit_transaction()
        assert [future.exception(0) for future in futures] == [None] * 20
    found = committed(bootstrap, topic)
    assert [value[:2] for value in found] == [b"fi", *(b"%02d" % n for n in range(20))]


def test_a_hole_ends_the_transaction_and_the_next_epoch_mends_it(
    bootstrap: str, topic: str, faults: Faults
) -> None:
    create(bootstrap, topic)
    with transactional(bootstrap, topic) as producer:
        before = identity(producer)
        producer.begin_transaction()
        producer.send(topic, b"dropped").result(WAIT_S)
        faults(PRODUCE, OUT_OF_ORDER)
        assert isinstance(producer.send(topic, b"dropped").exception(WAIT_S), BrokerError)
        with pytest.raises(TransactionError):
            producer.commit_transaction()
        producer.abort_transaction()
        assert identity(producer) > before
        with producer.transaction():
            producer.send(topic, b"kept")
    assert committed(bootstrap, topic) == [b"kept"]


def test_an_abort_that_takes_several_calls_is_as_unclean_as_it_was(
    broker: DevBroker, bootstrap: str, topic: str, faults: Faults
) -> None:
    """The first call gives batches up and runs out of time; the second one sees none, and has to begin a new epoch all the same."""
    create(bootstrap, topic)
    with transactional(bootstrap, topic, max_block_ms=400, linger_ms=60_000) as producer:
        before = identity(producer)
        producer.begin_transaction()
        first = producer.send(topic, b"dropped")
        producer.flush()
        assert first.exception(0) is None
        producer.send(topic, b"dropped, too")
        faults(END_TXN, *[CONCURRENT] * 25)
        with pytest.raises(KafkaTimeoutError):
            producer.abort_transaction()
        while identity(producer) == before:
            with contextlib.suppress(KafkaTimeoutError):
                producer.abort_transaction()
        with producer.transaction():
            producer.send(topic, b"kept")
    assert committed(bootstrap, topic) == [b"kept"]


def test_partitions_that_cannot_be_added_do_not_keep_an_abort_waiting(
    broker: DevBroker, bootstrap: str, topic: str, faults: Faults
) -> None:
    """An answer says that they are not in: nothing is to be waited for. It is not asked again after the transaction's end either."""
    if by_version_2(broker):
        pytest.skip("not asked by version 2")
    create(bootstrap, topic)
    with transactional(bootstrap, topic, linger_ms=0, max_block_ms=10_000) as producer:
        faults(ADD_PARTITIONS, *[UNKNOWN_TOPIC] * 10_000)
        producer.begin_transaction()
        future = producer.send(topic, b"dropped")
        until(lambda: faults.left < 9_999, True)
        producer.abort_transaction()
        assert isinstance(future.exception(0), TransactionError)
        asked = faults.left
        time.sleep(0.3)
        assert faults.left == asked
        faults.close()
        with producer.transaction():
            producer.send(topic, b"kept")
    assert committed(bootstrap, topic) == [b"kept"]


def test_an_end_that_arrives_once_more_ends_nothing_else(bootstrap: str, topic: str, faults: Faults) -> None:
    """It was sent again, since its connection broke, and the first one takes its time: it would commit half of the next transaction."""
    create(bootstrap, topic)
    with transactional(bootstrap, topic) as producer, RawClient(bootstrap) as raw:
        producer_id, epoch = identity(producer)
        faults(END_TXN, CLOSE)
        with producer.transaction():
            producer.send(topic, b"kept")
        assert identity(producer) > (producer_id, epoch)
        producer.begin_transaction()
        producer.send(topic, b"dropped").result(WAIT_S)
        late = {"transactional_id": topic, "producer_id": producer_id, "producer_epoch": epoch}
        assert int(raw.ask(END_TXN, 4, **late, committed=True).error_code) == PRODUCER_FENCED
        producer.abort_transaction()
    assert committed(bootstrap, topic) == [b"kept"]


@pytest.mark.parametrize("code", [INVALID_TXN_STATE, UNKNOWN_MAPPING])
def test_an_end_that_is_refused_is_the_end_of_the_producer(
    broker: DevBroker, bootstrap: str, topic: str, faults: Faults, code: int
) -> None:
    """Nobody is left to wait for an outcome that never comes."""
    create(bootstrap, topic)
    with transactional(bootstrap, topic) as producer:
        faults(END_TXN, code)
        producer.begin_transaction()
        producer.send(topic, b"unknown")
        with pytest.raises(ProducerFencedError, match="close this producer") as told:
            producer.commit_transaction()
        assert isinstance(told.value.__cause__, BrokerError)
        for call in (producer.commit_transaction, producer.abort_transaction, producer.begin_transaction):
            with pytest.raises(ProducerFencedError, match="can only be closed"):
                call()
    with transactional(bootstrap, topic) as heir, heir.transaction():
        heir.send(topic, b"heir")
    assert committed(bootstrap, topic) == [b"heir"]

"""Transactions of the embedded broker: the machine by itself, then librdkafka's producers and readers."""

from __future__ import annotations

import itertools
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Consumer, KafkaException, Producer, TopicPartition

from penstock.devbroker import CLOSE, DevBroker
from penstock.devbroker.cluster import Cluster
from penstock.devbroker.codes import Code
from penstock.devbroker.coordinator import Coordinator, TransactionCoordinator
from penstock.devbroker.group_events import CommitOffsets
from penstock.devbroker.log import PartitionLog
from penstock.devbroker.options import BrokerOptions
from penstock.devbroker.storage import FileStorage
from penstock.devbroker.stores import OffsetStore, TransactionStore
from penstock.devbroker.transactions import (
    EndGroupOffsets,
    StoreTransaction,
    Transaction,
    Transactions,
    TransactionState,
    WriteMarkers,
)
from penstock.types import OffsetAndMetadata
from penstock.types import TopicPartition as Partition
from tests.devbroker.test_broker_log import batch

WAIT_S = 15
T0, T1 = Partition("t", 0), Partition("t", 1)
END_TXN = 26


# ---------------------------------------------------------------- the machine
def new_machine() -> Transactions:
    ids = itertools.count(100)
    return Transactions(lambda: next(ids), max_timeout_ms=60_000)


def states(effects: list[Any]) -> list[TransactionState]:
    return [each.transaction.state for each in effects if isinstance(each, StoreTransaction)]


def test_a_commit_is_decided_durably_before_its_markers() -> None:
    machine = new_machine()
    code, producer_id, epoch, effects = machine.init("x", 1000, -1, -1)
    assert (code, producer_id, epoch, states(effects)) == (Code.NONE, 100, 0, [TransactionState.EMPTY])
    assert machine.may_write(100, 0, T0) is Code.INVALID_TXN_STATE
    machine.add("x", 100, 0, 0, [T0])
    code, effects = machine.add("x", 100, 0, 5, [T1], "g")
    (stored,) = effects
    assert isinstance(stored, StoreTransaction)
    assert stored.transaction.partitions == {T0, T1}
    assert machine.may_write(100, 0, T0) is Code.NONE
    assert machine.may_commit_offsets("x", 100, 0, "g") is Code.NONE
    assert machine.may_commit_offsets("x", 100, 0, "other") is Code.INVALID_TXN_STATE
    assert machine.next_deadline_ms() == 1000
    code, effects = machine.end("x", 100, 0, True)
    assert code is Code.NONE
    assert effects[1:3] == [WriteMarkers(100, 0, True, (T0, T1)), EndGroupOffsets("g", 100, True)]
    assert states(effects) == [TransactionState.PREPARE_COMMIT, TransactionState.COMPLETE_COMMIT]
    assert effects[0].transaction.partitions == {T0, T1}, "after a crash the markers can still be written"
    assert machine.next_deadline_ms() is None


def test_the_same_decision_again_is_no_error_another_is() -> None:
    machine = new_machine()
    machine.init("x", 1000, -1, -1)
    assert machine.end("x", 100, 0, True)[0] is Code.INVALID_TXN_STATE
    machine.add("x", 100, 0, 0, [T0])
    machine.end("x", 100, 0, True)
    assert machine.end("x", 100, 0, True) == (Code.NONE, [])
    assert machine.end("x", 100, 0, False)[0] is Code.INVALID_TXN_STATE


def test_a_new_process_fences_the_old_and_aborts_what_it_left_open() -> None:
    machine = new_machine()
    machine.init("x", 1000, -1, -1)
    machine.add("x", 100, 0, 0, [T0])
    code, producer_id, epoch, effects = machine.init("x", 1000, -1, -1)
    assert (code, producer_id, epoch) == (Code.NONE, 100, 1)
    assert WriteMarkers(100, 1, False, (T0,)) in effects
    assert machine.add("x", 100, 0, 0, [T0])[0] is Code.PRODUCER_FENCED
    assert machine.end("x", 100, 0, True)[0] is Code.PRODUCER_FENCED
    assert machine.may_write(100, 0, T0) is Code.INVALID_PRODUCER_EPOCH
    assert machine.init("x", 1000, 100, 0)[0] is Code.PRODUCER_FENCED
    assert machine.init("x", 1000, 100, 1)[2] == 2
    assert machine.add("x", 999, 2, 0, [T0])[0] is Code.INVALID_PRODUCER_ID_MAPPING
    assert machine.add("unknown", 100, 2, 0, [T0])[0] is Code.INVALID_PRODUCER_ID_MAPPING


def test_what_is_open_too_long_is_aborted_and_its_producer_fenced() -> None:
    machine = new_machine()
    machine.init("x", 1000, -1, -1)
    machine.add("x", 100, 0, 500, [T0])
    assert machine.tick(1499) == []
    assert WriteMarkers(100, 1, False, (T0,)) in machine.tick(1500)
    assert machine.end("x", 100, 0, True)[0] is Code.PRODUCER_FENCED


def test_timeouts_and_ids_that_are_refused() -> None:
    machine = new_machine()
    assert machine.init("x", 60_001, -1, -1)[0] is Code.INVALID_TRANSACTION_TIMEOUT
    assert machine.init("x", 0, -1, -1)[0] is Code.INVALID_TRANSACTION_TIMEOUT
    assert machine.init("", 1000, -1, -1)[0] is Code.INVALID_REQUEST


def test_epochs_run_out_and_a_new_producer_id_follows() -> None:
    machine = new_machine()
    machine.init("x", 1000, -1, -1)
    machine.by_id["x"].epoch = 2**15 - 2
    assert machine.init("x", 1000, -1, -1)[:3] == (Code.NONE, 101, 0)
    assert machine.may_write(100, 2**15 - 2, T0) is Code.INVALID_PRODUCER_ID_MAPPING


def test_by_version_2_each_end_raises_the_epoch_and_may_be_asked_for_again() -> None:
    machine = new_machine()
    machine.init("x", 1000, -1, -1)
    machine.add("x", 100, 0, 0, [T0])
    code, effects = machine.end_and_go_on("x", 100, 0, True)
    assert code is Code.NONE
    assert WriteMarkers(100, 1, True, (T0,)) in effects
    assert machine.end_and_go_on("x", 100, 0, True) == (Code.NONE, [])
    assert machine.end_and_go_on("x", 100, 0, False)[0] is Code.PRODUCER_FENCED
    assert machine.add("x", 100, 0, 0, [T0])[0] is Code.PRODUCER_FENCED, "late"
    assert machine.may_write(100, 0, T0) is Code.INVALID_PRODUCER_EPOCH
    assert machine.end_and_go_on("x", 100, 1, True)[0] is Code.INVALID_TXN_STATE, "nothing to commit"
    assert machine.end_and_go_on("x", 100, 1, False)[0] is Code.NONE, (
        "nothing to abort, and the epoch is raised"
    )
    assert machine.by_id["x"].epoch == 2
    machine.init("x", 1000, -1, -1)
    assert machine.end_and_go_on("x", 100, 1, False)[0] is Code.PRODUCER_FENCED, "another one has it now"


def test_by_version_2_the_last_epoch_ends_with_a_new_producer_id() -> None:
    machine = new_machine()
    machine.init("x", 1000, -1, -1)
    machine.by_id["x"].epoch = last = 2**15 - 2
    machine.add("x", 100, last, 0, [T0])
    code, effects = machine.end_and_go_on("x", 100, last, True)
    assert WriteMarkers(100, last + 1, True, (T0,)) in effects
    assert (code, machine.by_id["x"].producer_id, machine.by_id["x"].epoch) == (Code.NONE, 101, 0)
    assert machine.end_and_go_on("x", 100, last, True) == (Code.NONE, [])


@pytest.mark.parametrize("commit", [True, False])
def test_a_decision_of_an_earlier_life_is_carried_out(commit: bool) -> None:
    state = TransactionState.PREPARE_COMMIT if commit else TransactionState.PREPARE_ABORT
    machine = new_machine()
    effects = machine.resume(Transaction("x", 7, 3, 1000, state, {T0}, {"g"}), 0)
    assert effects[:2] == [WriteMarkers(7, 3, commit, (T0,), only_open=True), EndGroupOffsets("g", 7, commit)]
    assert machine.next_deadline_ms() is None
    assert machine.end("x", 7, 3, commit)[0] is Code.NONE


def test_an_open_transaction_of_an_earlier_life_goes_on() -> None:
    machine = new_machine()
    assert machine.resume(Transaction("x", 7, 3, 1000, TransactionState.ONGOING, {T0}), 50) == []
    assert machine.next_deadline_ms() == 1050
    assert machine.end("x", 7, 3, True)[0] is Code.NONE


# ---------------------------------------------------------------- librdkafka
@pytest.fixture(scope="module")
def broker() -> Iterator[DevBroker]:
    with DevBroker() as running:
        yield running


@pytest.fixture
def name(broker: DevBroker) -> str:
    topic = f"n-{uuid.uuid4().hex[:10]}"
    broker.create_topic(topic)
    return topic


def transactional(broker: DevBroker, name: str, **config: Any) -> Producer:
    producer = Producer({"bootstrap.servers": broker.bootstrap_servers, "transactional.id": name, **config})
    producer.init_transactions(WAIT_S)
    return producer


def read(broker: DevBroker, topic: str, isolation: str) -> list[bytes]:
    """Everything from the start to the end that this reader may see."""
    reader = Consumer(
        {
            "bootstrap.servers": broker.bootstrap_servers,
            "group.id": "unused",
            "enable.auto.commit": False,
            "isolation.level": isolation,
            "enable.partition.eof": True,
        }
    )
    reader.assign([TopicPartition(topic, 0, 0)])
    values: list[bytes] = []
    deadline = time.monotonic() + WAIT_S
    while time.monotonic() < deadline:
        message = reader.poll(0.5)
        if message is not None and message.error() is not None:
            reader.close()
            return values
        if message is not None:
            values.append(message.value())
    raise AssertionError("no end of the partition was seen")


def test_committed_and_aborted_records(broker: DevBroker, name: str) -> None:
    producer = transactional(broker, name)
    for number, commit in enumerate([True, False, True, False]):
        producer.begin_transaction()
        for part in range(3):
            producer.produce(name, f"{number}.{part}".encode())
        if commit:
            producer.commit_transaction(WAIT_S)
        else:
            producer.flush(WAIT_S)
            producer.abort_transaction(WAIT_S)
    producer.begin_transaction()
    producer.produce(name, b"open")
    producer.flush(WAIT_S)
    committed = [f"{number}.{part}".encode() for number in (0, 2) for part in range(3)]
    assert read(broker, name, "read_committed") == committed
    assert len(read(broker, name, "read_uncommitted")) == 13
    producer.commit_transaction(WAIT_S)
    assert read(broker, name, "read_committed") == [*committed, b"open"]


def test_a_zombie_is_fenced_and_its_records_are_aborted(broker: DevBroker, name: str) -> None:
    zombie = transactional(broker, name)
    zombie.begin_transaction()
    zombie.produce(name, b"zombie")
    zombie.flush(WAIT_S)
    heir = transactional(broker, name)
    heir.begin_transaction()
    heir.produce(name, b"heir")
    heir.commit_transaction(WAIT_S)
    with pytest.raises(KafkaException) as refused:
        zombie.commit_transaction(WAIT_S)
    assert refused.value.args[0].name() in ("_FENCED", "PRODUCER_FENCED", "INVALID_PRODUCER_EPOCH")
    assert read(broker, name, "read_committed") == [b"heir"]


def test_offsets_are_committed_with_the_records_or_not_at_all(broker: DevBroker, name: str) -> None:
    reader = Consumer(
        {"bootstrap.servers": broker.bootstrap_servers, "group.id": name, "auto.offset.reset": "earliest"}
        | {"enable.auto.commit": False}
    )
    source = Producer({"bootstrap.servers": broker.bootstrap_servers})
    source.produce(f"{name}-in", b"x")
    assert source.flush(WAIT_S) == 0
    reader.subscribe([f"{name}-in"])
    deadline = time.monotonic() + WAIT_S
    while reader.poll(0.1) is None:
        assert time.monotonic() < deadline
    producer = transactional(broker, name)
    for commit in (False, True):
        producer.begin_transaction()
        producer.produce(name, b"out")
        position = reader.position(reader.assignment())
        producer.send_offsets_to_transaction(position, reader.consumer_group_metadata(), WAIT_S)
        assert broker.committed(name) == {}
        if commit:
            producer.commit_transaction(WAIT_S)
        else:
            producer.abort_transaction(WAIT_S)
    assert broker.committed(name) == {(f"{name}-in", 0): 1}
    assert read(broker, name, "read_committed") == [b"out"]
    reader.close()


def test_a_transaction_that_times_out_is_aborted(broker: DevBroker, name: str) -> None:
    producer = transactional(broker, name, **{"transaction.timeout.ms": 1000, "message.timeout.ms": 900})
    producer.begin_transaction()
    producer.produce(name, b"slow")
    producer.flush(WAIT_S)
    deadline = time.monotonic() + WAIT_S
    while broker.end_offsets(name) != {0: 2}:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    assert read(broker, name, "read_committed") == []
    with pytest.raises(KafkaException):
        producer.commit_transaction(WAIT_S)


def test_a_commit_whose_answer_was_lost_is_done_once(broker: DevBroker, name: str) -> None:
    lost: list[int] = []

    def lose_first(request: Any, connection: Any) -> Any:
        if lost:
            return None
        lost.append(1)
        assert broker._server is not None
        body = request.body
        broker._server.transactions.end(
            body.transactional_id, body.producer_id, body.producer_epoch, body.committed
        )
        return CLOSE

    producer = transactional(broker, name)
    producer.begin_transaction()
    producer.produce(name, b"once")
    producer.flush(WAIT_S)
    remove = broker.intercept(END_TXN, lose_first)
    producer.commit_transaction(WAIT_S)
    remove()
    assert lost
    assert read(broker, name, "read_committed") == [b"once"]
    assert broker.end_offsets(name) == {0: 2}


def test_an_open_transaction_survives_a_restart_and_can_be_committed(tmp_path: Path) -> None:
    broker = DevBroker(tmp_path)
    broker.start()
    broker.create_topic("t")
    producer = transactional(broker, "x", **{"reconnect.backoff.ms": 10, "reconnect.backoff.max.ms": 100})
    producer.begin_transaction()
    producer.produce("t", b"before")
    producer.flush(WAIT_S)
    broker.stop()
    broker.start()
    assert read(broker, "t", "read_committed") == []
    producer.produce("t", b"after")
    producer.commit_transaction(WAIT_S)
    assert read(broker, "t", "read_committed") == [b"before", b"after"]
    broker.stop()


class Crash(Exception):
    """The process ends here, as far as this test goes."""


@pytest.mark.parametrize("markers_written", [0, 1])
async def test_a_decision_survives_a_crash_before_its_markers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, markers_written: int
) -> None:
    place = FileStorage(tmp_path)
    cluster = Cluster(place, BrokerOptions())
    topic = cluster.create_topic("t", 2)
    groups = Coordinator(OffsetStore(place), cluster.options)
    shell = TransactionCoordinator(TransactionStore(place), cluster, groups)
    _, producer_id, epoch = shell.init("x", 1000, -1, -1)
    shell.add("x", producer_id, epoch, [T0, T1], "g")
    for log in topic.partitions:
        log.append(batch([b"v"], producer=(producer_id, epoch, 0), attributes=0x10), 0)
    offsets = {T0: OffsetAndMetadata(5)}
    await groups.submit(lambda token: CommitOffsets(token, "g", -1, "", None, offsets, producer_id))

    real, done = PartitionLog.append_marker, []

    def crash_later(log: PartitionLog, *args: Any) -> int:
        if len(done) == markers_written:
            raise Crash
        done.append(1)
        return real(log, *args)

    with monkeypatch.context() as patch:
        patch.setattr(PartitionLog, "append_marker", crash_later)
        with pytest.raises(Crash):
            shell.end("x", producer_id, epoch, True)
    place.close()

    place = FileStorage(tmp_path)
    cluster = Cluster(place, BrokerOptions())
    groups = Coordinator(OffsetStore(place), cluster.options)
    shell = TransactionCoordinator(TransactionStore(place), cluster, groups)
    assert [log.last_stable_offset for log in cluster.topic("t").partitions] == [2, 2]
    assert [log.aborted_in(0, 9) for log in cluster.topic("t").partitions] == [[], []]
    assert groups.machine.groups["g"].offsets == offsets
    assert shell.end("x", producer_id, epoch, True) is Code.NONE
    place.close()

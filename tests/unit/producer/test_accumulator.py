"""Which batches are ready, when, and in which order."""

from __future__ import annotations

from dataclasses import replace

import pytest

from penstock.producer.accumulator import PartitionQueue, RecordAccumulator
from penstock.producer.batch import ProducerBatch, Stored
from penstock.producer.sequences import ProducerIdentity
from penstock.producer.settings import ProducerSettings

SETTINGS = ProducerSettings(linger_ms=5, batch_size_bytes=1_000, idempotent=False)


def add(accumulator: RecordAccumulator, queue: PartitionQueue, size: int, now_ms: int) -> ProducerBatch:
    """What KafkaProducer.send() does, without its lock and its waiting."""
    batch = queue.open
    if batch is None or not accumulator.has_room(batch, size):
        batch = accumulator.open_batch(queue, now_ms)
    batch.size_bytes = batch.builder.append(0, None, bytes(size), ())
    batch.count += 1
    batch.reserved_bytes += size
    accumulator.used_bytes += size
    return batch


def queues(accumulator: RecordAccumulator, count: int = 1) -> list[PartitionQueue]:
    topic = accumulator.topic("t")
    topic.resize(count)
    return topic.queues


def leader(topic: str, partition: int) -> int:
    return partition


@pytest.fixture
def accumulator() -> RecordAccumulator:
    return RecordAccumulator(SETTINGS, lambda: 0.0)


def test_a_batch_lingers(accumulator: RecordAccumulator) -> None:
    (queue,) = queues(accumulator)
    add(accumulator, queue, 10, now_ms=100)
    found = accumulator.ready(104, leader)
    assert (found.by_node, found.next_ms) == ({}, 105)
    assert accumulator.ready(105, leader).by_node == {0: [queue]}


def test_a_full_batch_does_not(accumulator: RecordAccumulator) -> None:
    (queue,) = queues(accumulator)
    add(accumulator, queue, 600, now_ms=100)
    add(accumulator, queue, 600, now_ms=100)
    assert len(queue.batches) == 2
    assert accumulator.ready(100, leader).by_node == {0: [queue]}


@pytest.mark.parametrize("why", ["flushing", "starved"])
def test_nothing_lingers_while_somebody_waits(accumulator: RecordAccumulator, why: str) -> None:
    (queue,) = queues(accumulator)
    add(accumulator, queue, 10, now_ms=100)
    setattr(accumulator, why, 1)
    assert accumulator.ready(100, leader).by_node == {0: [queue]}


def test_a_partition_without_leader_is_told(accumulator: RecordAccumulator) -> None:
    (queue,) = queues(accumulator)
    add(accumulator, queue, 10, now_ms=0)
    found = accumulator.ready(1_000, lambda topic, partition: -1)
    assert found.leaderless
    assert found.by_node == {}


def test_what_failed_waits_and_comes_back_in_order(accumulator: RecordAccumulator) -> None:
    (queue,) = queues(accumulator)
    first, second = add(accumulator, queue, 900, 0), add(accumulator, queue, 900, 0)
    third = add(accumulator, queue, 900, 0)
    assert accumulator.take(queue, 10_000) is first
    assert accumulator.take(queue, 10_000) is second
    accumulator.put_back(queue, first, 50)
    accumulator.put_back(queue, second, 40)
    assert list(queue.batches) == [first, second, third]
    assert accumulator.ready(49, leader).next_ms == 50
    assert accumulator.ready(50, leader).by_node == {0: [queue]}


def test_one_in_flight_keeps_the_order_without_sequence_numbers() -> None:
    accumulator = RecordAccumulator(replace(SETTINGS, max_in_flight=1), lambda: 0.0)
    (queue,) = queues(accumulator)
    add(accumulator, queue, 900, 0)
    add(accumulator, queue, 900, 0)
    queue.on_wire = 1
    assert accumulator.ready(1_000, leader).by_node == {}
    queue.on_wire = 0
    assert accumulator.ready(1_000, leader).by_node == {0: [queue]}


def test_a_numbered_batch_waits_for_the_one_before_it() -> None:
    accumulator = RecordAccumulator(replace(SETTINGS, idempotent=True), lambda: 0.0)
    (queue,) = queues(accumulator)
    identity = ProducerIdentity(1, 0)
    queue.sequences.known_to_broker = True
    for _ in range(2):
        add(accumulator, queue, 900, 0)
    batches = [accumulator.take(queue, 10_000), accumulator.take(queue, 10_000)]
    queue.sequences.known_to_broker = True
    for batch in batches:
        assert batch is not None
        queue.sequences.number(batch, identity)
        batch.on_wire = True
    first, second = batches
    assert first is not None
    assert second is not None
    second.on_wire = False
    accumulator.put_back(queue, second, 0)
    assert accumulator.ready(1_000, leader).by_node == {}, "the first is still on the wire"
    first.on_wire = False
    queue.sequences.stored(first)
    assert accumulator.ready(1_000, leader).by_node == {0: [queue]}


def test_taking_seals_the_batch_and_keeps_to_the_room(accumulator: RecordAccumulator) -> None:
    (queue,) = queues(accumulator)
    batch = add(accumulator, queue, 500, 0)
    assert accumulator.take(queue, 400) is None
    assert not batch.sealed
    assert accumulator.take(queue, 1_000) is batch
    assert batch.sealed
    assert queue.open is None
    assert queue not in accumulator.active


def test_memory_is_given_back_once(accumulator: RecordAccumulator) -> None:
    (queue,) = queues(accumulator)
    batch = add(accumulator, queue, 500, 0)
    assert not accumulator.has_memory_for(SETTINGS.buffer_memory_bytes - 499)
    assert accumulator.finished(batch)
    assert not accumulator.finished(batch)
    assert accumulator.used_bytes == 0


def test_what_took_too_long_is_taken_out(accumulator: RecordAccumulator) -> None:
    first_queue, second_queue = queues(accumulator, 2)
    old = add(accumulator, first_queue, 10, now_ms=0)
    flying = add(accumulator, second_queue, 10, now_ms=0)
    assert accumulator.take(second_queue, 10_000) is flying
    flying.on_wire = True
    add(accumulator, second_queue, 10, now_ms=1)
    limit = SETTINGS.delivery_timeout_ms
    assert accumulator.next_expiry_ms() == limit
    assert accumulator.expired(limit - 1) == []
    assert accumulator.expired(limit) == [(first_queue, old), (second_queue, flying)]
    assert first_queue not in accumulator.active
    assert len(second_queue.batches) == 1


def test_halves_stand_where_the_whole_stood(accumulator: RecordAccumulator) -> None:
    (queue,) = queues(accumulator)
    whole, later = add(accumulator, queue, 900, 0), add(accumulator, queue, 900, 0)
    accumulator.take(queue, 10_000)
    halves = [ProducerBatch("t", 0, whole.builder, 0), ProducerBatch("t", 0, whole.builder, 0)]
    for half in halves:
        half.reserved_bytes = 450
    accumulator.replace(queue, whole, halves)
    assert list(queue.batches) == [*halves, later]
    assert accumulator.used_bytes == 1_800
    assert accumulator.take(queue, 10_000) is halves[0]
    accumulator.put_back(queue, halves[0], 0)
    assert list(queue.batches) == [*halves, later]


def test_an_empty_batch_does_not_stay(accumulator: RecordAccumulator) -> None:
    (queue,) = queues(accumulator)
    accumulator.open_batch(queue, 0)
    accumulator.drop_if_empty(queue)
    assert not accumulator.active
    assert not accumulator.incomplete
    full = add(accumulator, queue, 10, 0)
    accumulator.drop_if_empty(queue)
    assert queue.open is full


def test_outcome_is_not_the_accumulators_matter(accumulator: RecordAccumulator) -> None:
    (queue,) = queues(accumulator)
    batch = add(accumulator, queue, 10, 0)
    accumulator.finished(batch)
    assert batch.outcome is None
    batch.complete(Stored(0))
    assert accumulator.next_expiry_ms() is None

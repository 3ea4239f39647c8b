"""A batch's outcome, as the futures of its records tell it."""

from __future__ import annotations

import asyncio
import logging
import threading

import pytest

from penstock._native import BatchBuilder
from penstock.errors import KafkaTimeoutError, ProduceError
from penstock.producer.batch import DeliveryFuture, ProducerBatch, Stored
from penstock.types import RecordMetadata


def batch_of(count: int) -> ProducerBatch:
    batch = ProducerBatch("t", 3, BatchBuilder(), 0)
    batch.count = count
    return batch


def test_result_is_the_records_own_place() -> None:
    batch = batch_of(3)
    future = DeliveryFuture(batch, 2, 1_700_000_000_000)
    assert not future.done()
    batch.complete(Stored(100))
    assert future.done()
    assert future.result() == RecordMetadata("t", 3, 102, 1_700_000_000_000)
    assert future.exception() is None


def test_log_append_time_replaces_the_records_own() -> None:
    batch = batch_of(1)
    batch.complete(Stored(5, 42))
    assert DeliveryFuture(batch, 0, 7).result().timestamp == 42


def test_an_unknown_offset_stays_unknown() -> None:
    batch = batch_of(2)
    batch.complete(Stored(-1))
    assert DeliveryFuture(batch, 1, 7).result().offset == -1


def test_an_error_is_every_records() -> None:
    batch = batch_of(2)
    futures = [DeliveryFuture(batch, i, 0) for i in range(2)]
    error = ProduceError("refused")
    batch.complete(error)
    for future in futures:
        assert future.exception() is error
        with pytest.raises(ProduceError, match="refused"):
            future.result()


def test_the_first_outcome_stands() -> None:
    batch = batch_of(1)
    batch.complete(Stored(1))
    batch.complete(ProduceError("late"))
    assert DeliveryFuture(batch, 0, 0).result().offset == 1


def test_waiting_ends_with_the_time_or_the_outcome() -> None:
    batch = batch_of(1)
    future = DeliveryFuture(batch, 0, 0)
    with pytest.raises(KafkaTimeoutError, match="t-3"):
        future.result(timeout=0)
    waiters = [threading.Thread(target=future.result) for _ in range(3)]
    for waiter in waiters:
        waiter.start()
    batch.complete(Stored(9))
    for waiter in waiters:
        waiter.join(10)
        assert not waiter.is_alive()


def test_callbacks_run_once_whenever_they_are_added() -> None:
    batch = batch_of(1)
    future = DeliveryFuture(batch, 0, 0)
    called: list[DeliveryFuture] = []
    future.add_done_callback(called.append)
    assert called == []
    batch.complete(Stored(1))
    assert called == [future]
    future.add_done_callback(called.append)
    assert called == [future, future]


def test_a_callback_that_raises_does_not_silence_the_next(caplog: pytest.LogCaptureFixture) -> None:
    batch = batch_of(1)
    future = DeliveryFuture(batch, 0, 0)
    called: list[object] = []

    def fail(_: DeliveryFuture) -> None:
        raise ValueError("mine")

    future.add_done_callback(fail)
    future.add_done_callback(called.append)
    with caplog.at_level(logging.ERROR):
        batch.complete(Stored(1))
    assert called == [future]
    assert "mine" in caplog.text


def test_records_of_a_split_batch_follow_their_half() -> None:
    whole, left, right = batch_of(5), batch_of(3), batch_of(2)
    futures = [DeliveryFuture(whole, i, 0) for i in range(5)]
    told: list[int] = []
    for number, future in enumerate(futures):
        future.add_done_callback(lambda _, number=number: told.append(number))
    whole.split_into([(0, left), (3, right)])
    assert not any(future.done() for future in futures)
    right.complete(Stored(10))
    assert told == [3, 4]
    assert [f.result().offset for f in futures[3:]] == [10, 11]
    left.complete(ProduceError("too large"))
    assert [type(f.exception()) for f in futures[:3]] == [ProduceError] * 3
    assert told == [3, 4, 0, 1, 2]


def test_a_future_can_be_awaited() -> None:
    async def main() -> RecordMetadata:
        batch = batch_of(1)
        future = DeliveryFuture(batch, 0, 5)
        threading.Timer(0, batch.complete, [Stored(8)]).start()
        return await future

    assert asyncio.run(main()) == RecordMetadata("t", 3, 8, 5)


def test_what_was_sent_cannot_be_cancelled() -> None:
    future = DeliveryFuture(batch_of(1), 0, 0)
    assert not future.cancel()
    assert not future.cancelled()
    assert future.running()

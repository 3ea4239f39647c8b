"""The fetch loop and its buffer, against a peer on a real socket that says exactly what each test wants."""

from __future__ import annotations

import queue
import threading
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from penstock import _native
from penstock._native import EVENT_CLOSED, EVENT_FETCH_ERROR, EVENT_FETCH_NODE_ERROR
from penstock.errors import (
    ClosedError,
    CorruptRecordError,
    DeserializationError,
    NoOffsetForPartitionError,
    RecordTooLargeError,
)
from penstock.types import TimestampType, TopicPartition

from .scripted import PATIENCE_S, TOPIC_ID, Bench, Part, at, batch, damaged, encode_answer

MakeBench = Callable[..., Bench]
LONG_MS = int(PATIENCE_S * 1000)


@pytest.fixture
def bench() -> Iterator[MakeBench]:
    made: list[Bench] = []

    def make(*args: Any, **settings: Any) -> Bench:
        made.append(Bench(*args, **settings))
        return made[-1]

    yield make
    for each in made:
        each.close()


def offsets(records: Any) -> list[int]:
    return [record.offset for record in records]


# ---------------------------------------------------------------- the wire


@pytest.mark.parametrize("version", range(4, 18))
def test_every_version_is_asked_and_answered(bench: MakeBench, version: int) -> None:
    b = bench(
        version=version,
        client_rack="rack-1",
        isolation_level=1,
        max_wait_ms=123,
        min_bytes=2,
        max_bytes=3_000_000,
        max_partition_bytes=99_999,
    )
    call = b.broker.fetch()
    request = call.request
    assert call.version == version
    assert call.client_id == "bench"
    assert request.max_wait.total_seconds() == 0.123
    assert (request.min_bytes, request.max_bytes, request.isolation_level) == (2, 3_000_000, 1)
    assert call.partitions == [("t" if version < 13 else TOPIC_ID, 0, 0)]
    (partition,) = request.topics[0].partitions
    assert partition.partition_max_bytes == 99_999
    assert getattr(partition, "current_leader_epoch", 7) == 7
    assert getattr(request, "rack_id", "rack-1") == "rack-1"
    assert getattr(request, "session_id", 0) == 0
    assert getattr(request, "session_epoch", 0) == 0
    assert getattr(partition, "last_fetched_epoch", -1) == -1
    call.answer(Part(records=batch(0, 3, compression="zstd" if version >= 10 else "gzip")))
    records = b.fetcher.poll(500, LONG_MS)
    assert offsets(records) == [0, 1, 2]
    first = records[0]
    assert (first.topic, first.partition, first.key, first.value) == ("t", 0, b"0", b"v" * 10)
    assert (first.timestamp, first.timestamp_type) == (1_700_000_000_000, TimestampType.CREATE_TIME)
    assert first.leader_epoch == 7
    assert b.fetcher.position(b.handles[0]) == (3, 7)
    assert b.fetcher.high_watermark(b.handles[0]) == 1000
    assert b.fetcher.last_stable_offset(b.handles[0]) == 900
    assert b.fetcher.log_start_offset(b.handles[0]) == (5 if version >= 5 else -1)
    assert b.broker.fetch().offset() == 3


def test_a_topic_without_id_is_asked_for_by_name(bench: MakeBench) -> None:
    b = bench(version=17)
    b.broker.fetch().answer()
    b.fetcher.assign("u", bytes(16), 0)
    handle = b.fetcher.assign("u", bytes(16), 1)
    b.fetcher.set_leader(handle, 1, 0)
    b.fetcher.seek(handle, 8)
    call = b.broker.fetch()
    while call.version != 12:  # one may have been sent before the second topic came
        call.answer()
        call = b.broker.fetch()
    assert call.partitions == [("t", 0, 0), ("u", 1, 8)]


def test_a_slow_peer_that_sends_byte_by_byte(bench: MakeBench) -> None:
    b = bench()
    call = b.broker.fetch()
    frame = encode_answer(call.version, call.correlation_id, (Part(records=batch(0, 2)),))
    for byte in len(frame).to_bytes(4, "big") + frame:
        call.send_raw(bytes([byte]))
    assert offsets(b.poll_all(2)) == [0, 1]


@pytest.mark.parametrize(
    ("frame", "reason"),
    [
        (b"", "too short to be a response"),
        (b"\0\0\0\7", "although request"),
        (None, "cannot be read"),
    ],
)
def test_a_response_that_makes_no_sense_closes_the_connection(
    bench: MakeBench, frame: bytes | None, reason: str
) -> None:
    b = bench()
    call = b.broker.fetch()
    call.send(call.correlation_id.to_bytes(4, "big") + b"\0" * 9 + b"\xff" * 5 if frame is None else frame)
    assert reason in b.event(EVENT_CLOSED)[3]
    assert b.fetcher.position(b.handles[0]) == (0, -1)


# ---------------------------------------------------------------- order, epochs, budget


def test_the_next_fetch_is_sent_before_poll_takes_the_last(bench: MakeBench) -> None:
    b = bench()
    for base in (0, 10, 20):
        call = b.broker.fetch()
        assert call.offset() == base
        call.answer(Part(records=batch(base, 10)))
    assert b.broker.fetch().offset() == 30
    assert offsets(b.poll_all(30)) == list(range(30))


def test_poll_takes_up_to_max_records_across_chunks_and_partitions(bench: MakeBench) -> None:
    b = bench(partitions=2)
    b.broker.fetch().answer(Part(0, batch(0, 5)), Part(1, batch(100, 5)))
    b.broker.fetch()
    first = b.fetcher.poll(3, LONG_MS)
    assert offsets(first) == [0, 1, 2]
    assert b.fetcher.position(b.handles[0]) == (3, 7)
    second = b.poll_all(4, max_records=4)
    assert offsets(second) == [3, 4, 100, 101]
    third = b.fetcher.poll(500, LONG_MS)
    assert offsets(third) == [102, 103, 104]
    assert third.next_offsets() == {TopicPartition("t", 1): 105}
    assert not b.fetcher.poll(500, 0)


def test_a_seek_drops_what_was_fetched_before_it(bench: MakeBench) -> None:
    b = bench()
    (handle,) = b.handles
    b.broker.fetch().answer(Part(records=batch(0, 10)))
    under_way = b.broker.fetch()
    assert offsets(b.fetcher.poll(2, LONG_MS)) == [0, 1]
    epoch = b.fetcher.seek(handle, 500, 3)
    assert b.fetcher.epoch(handle) == epoch
    assert b.fetcher.position(handle) == (500, 3)
    assert (b.fetcher.buffered_records(), b.fetcher.buffered_bytes()) == (0, 0)
    under_way.answer(Part(records=batch(10, 10)))
    call = b.broker.fetch()
    assert call.offset() == 500
    call.answer(Part(records=batch(500, 1)))
    assert offsets(b.poll_all(1)) == [500]
    assert b.fetcher.stats()["stale"] == 1


def test_records_below_the_position_inside_a_batch_are_skipped(bench: MakeBench) -> None:
    b = bench()
    b.fetcher.seek(b.handles[0], 4)
    call = b.broker.fetch()
    if call.offset() == 0:
        call.answer(Part(records=batch(0, 2)))
        call = b.broker.fetch()
    call.answer(Part(records=batch(0, 10)))
    assert offsets(b.poll_all(6)) == [4, 5, 6, 7, 8, 9]


def test_after_unassign_nothing_is_returned(bench: MakeBench) -> None:
    b = bench(partitions=2)
    b.broker.fetch().answer(Part(0, batch(0, 5)), Part(1, batch(0, 5)))
    under_way = b.broker.fetch()
    b.poll_all(1, max_records=1)
    b.fetcher.unassign([b.handles[0]])
    under_way.answer(Part(0, batch(5, 5)), Part(1, batch(5, 5)))
    call = b.broker.fetch()
    assert [number for _, number, _ in call.partitions] == [1]
    records = b.poll_all(10)
    assert {record.partition for record in records} == {1}
    assert offsets(records) == list(range(10))
    assert b.fetcher.position(b.handles[0]) is None
    assert b.fetcher.buffered_bytes() == 0


def test_pause_keeps_what_is_buffered_and_resume_returns_it_first(bench: MakeBench) -> None:
    b = bench(partitions=2)
    b.broker.fetch().answer(Part(0, batch(0, 5)), Part(1, batch(100, 5)))
    under_way = b.broker.fetch()
    assert offsets(b.fetcher.poll(2, LONG_MS)) == [0, 1]
    b.fetcher.pause([b.handles[0]])
    assert offsets(b.poll_all(5)) == [100, 101, 102, 103, 104]
    assert (b.fetcher.buffered_bytes(), b.fetcher.buffered_records()) == (0, 0)
    under_way.answer(Part(0, batch(5, 5)), Part(1, batch(105, 5)))
    call = b.broker.fetch()
    assert [number for _, number, _ in call.partitions] == [1], "a paused partition is not fetched"
    assert offsets(b.fetcher.poll(2, LONG_MS)) == [105, 106]
    b.fetcher.resume([b.handles[0]])
    assert offsets(b.poll_all(11)) == [2, 3, 4, 5, 6, 7, 8, 9, 107, 108, 109]
    call.answer()
    assert b.broker.fetch().offset(0) == 10


@pytest.mark.parametrize("compression", ["none", "lz4"])
def test_the_budget_holds_while_nobody_polls(bench: MakeBench, compression: str) -> None:
    budget = 400_000
    b = bench(buffer_bytes=budget, max_partition_bytes=100_000)
    total = 0
    while b.fetcher.stats()["full_waits"] == 0 or not b.broker.calls.empty():
        try:
            call = b.broker.calls.get(timeout=0.01)
        except queue.Empty:
            continue
        assert call.offset() == total
        assert call.request.max_bytes == budget // 2
        call.answer(
            Part(
                records=b"".join(batch(total + n, 1, size=9_000, compression=compression) for n in range(10))
            )
        )
        total += 10
        assert b.fetcher.buffered_bytes() <= budget
        assert total < 200, "the loop goes on without room"
    assert 0 < b.fetcher.buffered_bytes() <= budget
    assert offsets(b.poll_all(total, max_records=7)) == list(range(total))
    assert b.fetcher.buffered_bytes() == 0


def test_a_batch_above_the_budget_still_comes(bench: MakeBench) -> None:
    b = bench(buffer_bytes=10_000, max_partition_bytes=1000)
    b.broker.fetch().answer(Part(records=batch(0, 3, size=30_000) + batch(3, 1, size=30_000)))
    assert offsets(b.poll_all(4)) == [0, 1, 2, 3]


def test_a_blocked_loop_ends_when_its_connection_is_closed(bench: MakeBench) -> None:
    b = bench(buffer_bytes=20_000)
    b.broker.fetch().answer(Part(records=b"".join(batch(n, 1, size=9_000) for n in range(10))))
    b.broker.fetch()
    while b.fetcher.stats()["full_waits"] == 0:
        assert b.fetcher.buffered_bytes() <= 20_000
    b.connections[0].close()
    assert b.event(EVENT_CLOSED)[3] == "closed by this side"
    got = offsets(b.poll_all(1))
    assert got == list(range(len(got)))
    b.attach()
    call = b.broker.fetch()
    assert call.offset() == len(got) + b.fetcher.buffered_records(), "what was not buffered is fetched again"
    call.answer(Part(records=b"".join(batch(n, 1, size=9_000) for n in range(call.offset(), 10))))
    assert got + offsets(b.poll_all(10 - len(got))) == list(range(10))


def test_detach_gives_back_what_was_not_buffered(bench: MakeBench) -> None:
    b = bench(buffer_bytes=20_000)
    b.broker.fetch().answer(Part(records=b"".join(batch(n, 1, size=9_000) for n in range(10))))
    b.broker.fetch()
    while b.fetcher.stats()["full_waits"] == 0:
        assert b.fetcher.buffered_bytes() <= 20_000
    b.fetcher.detach(1)
    b.fetcher.set_leader(b.handles[0], 2, 8)
    b.node_id = 2
    b.attach()
    got = offsets(b.poll_all(1))
    call = b.broker.fetch()
    call.answer(Part(records=b"".join(batch(n, 1, size=9_000) for n in range(call.offset(), 10))))
    assert got + offsets(b.poll_all(10 - len(got))) == list(range(10))


def test_a_new_leader_does_not_overtake_the_old_one(bench: MakeBench) -> None:
    """The old leader's answer waits for room when leadership moves: the new one is asked only after it was buffered."""
    b = bench(buffer_bytes=20_000)
    b.broker.fetch().answer(Part(records=b"".join(batch(n, 1, size=9_000) for n in range(6))))
    b.broker.fetch()
    while b.fetcher.stats()["full_waits"] == 0:
        assert b.fetcher.buffered_bytes() <= 20_000
    b.fetcher.set_leader(b.handles[0], 2, 8)
    b.node_id = 2
    b.attach()
    got = offsets(b.poll_all(6))
    assert got == list(range(6))
    call = b.broker.fetch()
    assert call.offset() == 6
    call.answer(Part(records=batch(6, 2)))
    assert offsets(b.poll_all(2)) == [6, 7]


def test_busy_partitions_go_last(bench: MakeBench) -> None:
    b = bench(partitions=3)
    b.broker.fetch().answer(Part(0, batch(0)), Part(1), Part(2))
    assert [number for _, number, _ in b.broker.fetch().partitions] == [1, 2, 0]


def test_a_thousand_partitions(bench: MakeBench) -> None:
    b = bench(partitions=1000, version=16)
    call = b.broker.fetch()
    while len(call.partitions) < 1000:
        call.answer(*[Part(number) for _, number, _ in call.partitions])
        call = b.broker.fetch()
    shuffled = sorted(range(1000), key=lambda number: number * 7919 % 1000)
    call.answer(*[Part(number, batch(0)) for number in shuffled])
    records = b.poll_all(1000)
    assert [record.partition for record in records] == shuffled
    assert len(b.broker.fetch().partitions) == 1000
    b.fetcher.unassign(b.handles)


# ---------------------------------------------------------------- errors


def test_an_error_suspends_the_partition_until_a_leader_is_named(bench: MakeBench) -> None:
    b = bench(partitions=2)
    b.broker.fetch().answer(Part(0, error=6, leader=(9, 33)), Part(1))
    kind, handle, epoch, payload = b.event(EVENT_FETCH_ERROR)
    assert (kind, handle, epoch) == (EVENT_FETCH_ERROR, b.handles[0], b.fetcher.epoch(b.handles[0]))
    assert payload == (6, 0, 9, 33, 1)
    call = b.broker.fetch()
    assert [number for _, number, _ in call.partitions] == [1]
    b.fetcher.set_leader(b.handles[0], 1, 34)
    call.answer(Part(1))
    call = b.broker.fetch()
    assert {number for _, number, _ in call.partitions} == {0, 1}


def test_a_seek_lifts_the_suspension(bench: MakeBench) -> None:
    b = bench()
    b.broker.fetch().answer(Part(error=1))
    assert b.event(EVENT_FETCH_ERROR)[3] == (1, 0, -1, -1, 1)
    b.fetcher.seek(b.handles[0], 77)
    assert b.broker.fetch().offset() == 77


def test_a_failed_response_rests_the_loop(bench: MakeBench) -> None:
    b = bench(version=13)
    b.broker.fetch().answer(error=29)
    assert b.event(EVENT_FETCH_NODE_ERROR) == (EVENT_FETCH_NODE_ERROR, 1, 29, None)
    assert b.broker.calls.empty()
    b.fetcher.set_leader(b.handles[0], 1, 8)
    assert b.broker.fetch().offset() == 0


def test_a_corrupt_batch_is_raised_in_its_place_and_can_be_passed(bench: MakeBench) -> None:
    b = bench(partitions=2)
    broken = batch(0, 2) + damaged(batch(2, 3)) + batch(5, 1)
    b.broker.fetch().answer(Part(0, broken), Part(1, batch(100, 1)))
    call = b.broker.fetch()
    assert offsets(b.poll_all(2)) == [0, 1]
    raised = []
    others = []
    while len(raised) < 3 or not others:
        try:
            others.extend(b.fetcher.poll(500, 0))
        except CorruptRecordError as error:
            raised.append(error)
    assert offsets(others) == [100]
    assert (raised[0].topic, raised[0].partition, raised[0].offset) == ("t", 0, 4)
    assert "offset 2" in str(raised[0]) and "seek to offset 5" in str(raised[0])
    assert b.fetcher.position(b.handles[0]) == (2, 7)
    assert b.fetcher.stats()["crc_failures"] == 1
    b.fetcher.seek(b.handles[0], raised[0].offset + 1)
    call.answer(Part(1))
    call = b.broker.fetch()
    assert call.offset(0) == 5
    call.answer(Part(0, batch(5, 1)))
    assert offsets(b.poll_all(1)) == [5]


def test_check_crcs_off_reads_past_a_wrong_checksum(bench: MakeBench) -> None:
    b = bench(check_crcs=False)
    b.broker.fetch().answer(Part(records=damaged(batch(0, 1))))
    assert offsets(b.poll_all(1)) == [0]


@pytest.mark.parametrize(
    ("records", "error"),
    [
        (b"\xff" * 70, CorruptRecordError),
        (batch(0, 5)[:-3], RecordTooLargeError),
        (b"\0" * 5, CorruptRecordError),
    ],
)
def test_bytes_that_are_no_batch_are_raised_and_not_fetched_again(
    bench: MakeBench, records: bytes, error: type[Exception]
) -> None:
    b = bench(partitions=2)
    b.broker.fetch().answer(Part(0, records), Part(1))
    assert [number for _, number, _ in b.broker.fetch().partitions] == [1]
    for _ in range(2):
        with pytest.raises(error):
            b.fetcher.poll(500, LONG_MS)
    assert b.fetcher.position(b.handles[0]) == (0, -1)


def test_a_bomb_is_refused_in_bounded_memory(bench: MakeBench) -> None:
    b = bench(max_batch_bytes=1_000_000)
    bomb = batch(0, 1, size=50_000_000, compression="zstd")
    assert len(bomb) < 100_000
    b.broker.fetch().answer(Part(records=bomb))
    with pytest.raises(RecordTooLargeError):
        b.fetcher.poll(500, LONG_MS)


def test_fail_stands_behind_what_is_buffered_until_a_seek(bench: MakeBench) -> None:
    b = bench()
    b.broker.fetch().answer(Part(records=batch(0, 2)))
    call = b.broker.fetch()
    b.poll_all(1, max_records=1)
    b.fetcher.fail(b.handles[0], NoOffsetForPartitionError("first"))
    b.fetcher.fail(b.handles[0], NoOffsetForPartitionError("second"))
    assert offsets(b.poll_all(1)) == [1]
    for _ in range(3):
        with pytest.raises(NoOffsetForPartitionError, match="second") as caught:
            b.fetcher.poll(500, LONG_MS)
        assert len(caught.traceback) == 1, "the traceback does not grow"
    b.fetcher.seek(b.handles[0], 9)
    call.answer()
    b.broker.fetch().answer(Part(records=batch(9, 1)))
    assert offsets(b.poll_all(1)) == [9]


def test_an_answer_that_does_not_come_closes_the_connection(bench: MakeBench) -> None:
    b = bench(request_timeout_ms=50, max_wait_ms=1)
    b.broker.fetch()
    assert b.event(EVENT_CLOSED)[3] == "no answer to a Fetch request within 51 ms"
    b.attach()
    assert b.broker.fetch().offset() == 0


def test_a_throttled_loop_waits(bench: MakeBench) -> None:
    b = bench()
    b.broker.fetch().answer(Part(records=batch(0, 1)), throttle_ms=3_600_000)
    assert offsets(b.poll_all(1)) == [0]
    b.connections[0].close()
    assert b.event(EVENT_CLOSED)[3] == "closed by this side"
    assert b.broker.calls.empty()
    b.attach()
    assert b.broker.fetch().offset() == 1


def test_an_answer_after_leadership_moved_is_taken_once(bench: MakeBench) -> None:
    """Both leaders were asked for the same offset: who answers first wins, and the other's answer or error is dropped."""
    b = bench()
    old = b.broker.fetch()
    b.fetcher.set_leader(b.handles[0], 2, 8)
    b.node_id = 2
    b.attach()
    new = b.broker.fetch()
    assert (old.offset(), new.offset()) == (0, 0)
    new.answer(Part(records=batch(0, 3)))
    assert b.broker.fetch().offset() == 3
    old.answer(Part(records=batch(0, 5)))
    assert offsets(b.poll_all(3)) == [0, 1, 2]
    while not b.fetcher.stats()["stale"]:
        assert not b.fetcher.poll(1, 0)


# ---------------------------------------------------------------- transactions


def control(base: int, producer_id: int, *, commit: bool) -> bytes:
    """An end-of-transaction marker as the broker writes it (KIP-98)."""
    builder = _native.BatchBuilder()
    builder.append(0, b"\0\0" + (b"\0\1" if commit else b"\0\0"), b"\0" * 6)
    raw = bytearray(builder.build(producer_id=producer_id, producer_epoch=0, transactional=True))
    raw[22] |= 0x20
    raw[17:21] = _native.crc32c(bytes(raw[21:])).to_bytes(4, "big")
    return at(base, bytes(raw))


def test_aborted_records_are_withheld_and_the_position_passes_them(bench: MakeBench) -> None:
    b = bench(isolation_level=1)
    produced = {"producer_id": 5, "producer_epoch": 0, "base_sequence": 0, "transactional": True}
    log = batch(0, 2, **produced) + control(2, 5, commit=False) + batch(3, 2) + control(5, 9, commit=True)
    b.broker.fetch().answer(Part(records=log, aborted=((5, 0),)))
    call = b.broker.fetch()
    assert call.offset() == 6
    records = b.fetcher.poll(500, LONG_MS)
    assert offsets(records) == [3, 4]
    assert records.next_offsets() == {TopicPartition("t", 0): 6}
    assert b.fetcher.position(b.handles[0]) == (6, 7)
    all_aborted = batch(6, 2, **produced) + control(8, 5, commit=False)
    call.answer(Part(records=all_aborted, aborted=((5, 6),)))
    assert b.broker.fetch().offset() == 9
    assert not b.fetcher.poll(500, 0)
    assert b.fetcher.position(b.handles[0]) == (9, 7)


# ---------------------------------------------------------------- poll


def test_wake_ends_a_waiting_poll_and_the_next_one(bench: MakeBench) -> None:
    b = bench()
    b.broker.fetch()
    b.fetcher.wake()
    assert not b.fetcher.poll(500, LONG_MS)
    waker = threading.Timer(0.05, b.fetcher.wake)
    waker.start()
    assert not b.fetcher.poll(500, LONG_MS)
    waker.join()


def test_last_poll_is_the_time_since(bench: MakeBench) -> None:
    b = bench()
    b.fetcher.poll(1, 0)
    assert 0 <= b.fetcher.last_poll_ms() < LONG_MS
    assert b.fetcher.stats()["polls"] == 1


def test_a_closed_fetcher_says_so(bench: MakeBench) -> None:
    b = bench()
    b.fetcher.close()
    b.fetcher.close()
    with pytest.raises(ClosedError):
        b.fetcher.poll(1, LONG_MS)


def test_unknown_handles_are_inert(bench: MakeBench) -> None:
    b = bench()
    b.fetcher.unassign([12345])
    b.fetcher.pause([12345])
    b.fetcher.resume([12345])
    b.fetcher.set_leader(12345, 1, 1)
    assert b.fetcher.position(12345) is None
    with pytest.raises(KeyError, match="12345"):
        b.fetcher.seek(12345, 0)
    with pytest.raises(ValueError, match="16 bytes"):
        b.fetcher.assign("t", b"short", 0)
    with pytest.raises(ValueError, match="version 3"):
        b.fetcher.attach(1, b.connections[0], 3)


def test_deserializers_are_called_once_and_their_errors_concern_one_record(bench: MakeBench) -> None:
    calls: list[bytes] = []

    def value(data: bytes) -> int:
        calls.append(data)
        return int(data)

    b = bench(key_deserializer=bytes.decode, value_deserializer=value)
    builder = _native.BatchBuilder()
    for key, data in [(b"a", b"1"), (None, None), (b"c", b"x")]:
        builder.append(0, key, data)
    b.broker.fetch().answer(Part(records=builder.build()))
    good, empty, bad = b.poll_all(3)
    assert (good.key, good.value, good.value, good.raw_value) == ("a", 1, 1, b"1")
    assert (empty.key, empty.value, empty.raw_value_view()) == (None, None, None)
    for _ in range(2):
        with pytest.raises(DeserializationError) as caught:
            _ = bad.value
    error = caught.value
    assert (error.topic, error.partition, error.offset, error.field) == ("t", 0, 2, "value")
    assert (error.raw_key, error.raw_value) == (b"c", b"x")
    assert isinstance(error.__cause__, ValueError)
    assert calls == [b"1", b"x"]
    assert bad.key == "c"


def test_topic_ids_can_change(bench: MakeBench) -> None:
    b = bench(version=13)
    other = uuid.UUID(int=99)
    call = b.broker.fetch()
    b.fetcher.set_topic_id(b.handles[0], other.bytes)
    call.answer()
    assert b.broker.fetch().partitions == [(other, 0, 0)]


def test_a_response_that_repeats_a_partition_closes_the_connection(bench: MakeBench) -> None:
    """Taken up one by one they would need many times the memory of the response."""
    b = bench()
    b.broker.fetch().answer(Part(0, error=3), Part(0, error=3))
    *_, reason = b.event(EVENT_CLOSED)
    assert reason == "its Fetch response (version 12) names partitions more than once"


def test_a_loop_that_another_connection_replaces_gives_back_what_it_holds(bench: MakeBench) -> None:
    """It waits for room, and nobody polls: the partition would wait with it."""
    b = bench(buffer_bytes=20_000)
    b.broker.fetch().answer(Part(records=b"".join(batch(n, 1, size=9_000) for n in range(10))))
    b.broker.fetch()
    while b.fetcher.stats()["full_waits"] == 0:
        assert b.fetcher.buffered_bytes() <= 20_000
    b.attach()
    assert b.broker.fetch().offset() == b.fetcher.buffered_records()

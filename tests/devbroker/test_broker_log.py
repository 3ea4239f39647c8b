"""One partition's log and its storage, without sockets: offsets, limits, sequences, transactions, recovery."""

from __future__ import annotations

import itertools
import struct
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.devbroker import batches
from penstock.devbroker.cluster import Cluster
from penstock.devbroker.codes import Code, RequestRefused
from penstock.devbroker.log import PartitionLog
from penstock.devbroker.options import BrokerOptions
from penstock.devbroker.storage import FileSegment, FileStorage, Journal, MemorySegment, MemoryStorage
from penstock.devbroker.stores import OffsetStore, StoredGroup
from penstock.types import OffsetAndMetadata, TopicPartition

NOW_MS = 1_000_000


def varint(value: int) -> bytes:
    raw = (value << 1) ^ (value >> 63)
    out = bytearray()
    while raw > 0x7F:
        out.append(raw & 0x7F | 0x80)
        raw >>= 7
    out.append(raw)
    return bytes(out)


def batch(
    values: list[bytes],
    *,
    times: list[int] | None = None,
    producer: tuple[int, int, int] = (-1, -1, -1),
    attributes: int = 0,
) -> bytes:
    """A record batch of the test's own making: values under null keys."""
    times = times or [NOW_MS] * len(values)
    records = b""
    for delta, value in enumerate(values):
        body = (
            b"\0"
            + varint(times[delta] - times[0])
            + varint(delta)
            + varint(-1)
            + varint(len(value))
            + value
            + varint(0)
        )
        records += varint(len(body)) + body
    covered = (
        struct.pack(">hiqqqhii", attributes, len(values) - 1, times[0], max(times), *producer, len(values))
        + records
    )
    return struct.pack(">qiibI", 0, 9 + len(covered), -1, 2, batches.crc32c(covered)) + covered


def new_log() -> PartitionLog:
    return PartitionLog(MemorySegment(), "t-0")


def headers_of(data: bytes) -> list[batches.BatchHeader]:
    found: list[batches.BatchHeader] = []
    position = 0
    while position < len(data):
        found.append(batches.read_header(data, position))
        position += found[-1].size_bytes
    return found


def refused(code: Code) -> Any:
    return pytest.raises(RequestRefused, check=lambda error: error.code is code)


# ---------------------------------------------------------------- appending and reading
@given(sizes=st.lists(st.integers(1, 5), min_size=1, max_size=12), data=st.data())
def test_reading_anywhere_gives_whole_batches_in_order(sizes: list[int], data: st.DataObject) -> None:
    log = new_log()
    for size in sizes:
        log.append(batch([b"x" * size] * size), NOW_MS)
    assert log.end_offset == sum(sizes)
    offset = data.draw(st.integers(0, log.end_offset))
    most = data.draw(st.integers(0, 1000))
    before = data.draw(st.integers(offset, log.end_offset))
    found = headers_of(log.read(offset, most, before, True))
    if offset in (log.end_offset, before):
        assert [each for each in found if each.base_offset >= before] == []
        return
    assert found[0].base_offset <= offset <= found[0].last_offset
    assert all(left.last_offset + 1 == right.base_offset for left, right in itertools.pairwise(found))
    assert len(found) == 1 or sum(each.size_bytes for each in found) <= most
    assert found[-1].base_offset < before
    assert all(
        batches.crc_matches(log.read(each.base_offset, 0, log.end_offset, True), each) for each in found
    )


def test_limits_and_the_range_of_offsets() -> None:
    log = new_log()
    log.append(batch([b"a", b"b"]), NOW_MS)
    assert log.read(0, 5, 2, at_least_one=False) == b""
    assert len(log.read(1, 5, 2, at_least_one=True)) > 5
    assert log.read(2, 100, 2, at_least_one=True) == b""
    assert log.available_bytes(1, 2) == log.size_bytes
    assert log.available_bytes(2, 2) == 0
    for offset in (-1, 3):
        with refused(Code.OFFSET_OUT_OF_RANGE):
            log.read(offset, 100, 2, True)


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b"", Code.CORRUPT_MESSAGE),
        (b"\0" * 61, Code.INVALID_RECORD),
        (batch([b"a"])[:-1], Code.CORRUPT_MESSAGE),
        (batch([b"a"])[:-1] + b"!", Code.CORRUPT_MESSAGE),
        (batch([b"a"]) * 2, Code.INVALID_RECORD),
        (batch([b"a"], attributes=0x20), Code.INVALID_RECORD),
        (batch([b"a"], attributes=0x07), Code.INVALID_RECORD),
        (batch([b"a"], producer=(5, -1, 0)), Code.INVALID_RECORD),
        (batch([b"a"], producer=(5, 0, -1)), Code.INVALID_RECORD),
        (batch([b"a" * 2000]), Code.MESSAGE_TOO_LARGE),
    ],
)
def test_batches_that_are_refused_leave_no_trace(data: bytes, code: Code) -> None:
    log = new_log()
    log.max_batch_bytes = 1000
    with refused(code):
        log.append(data, NOW_MS)
    assert (log.end_offset, log.size_bytes) == (0, 0)


@given(st.binary(max_size=200), st.integers(0, 80))
def test_any_bytes_are_refused_or_stored_never_worse(noise: bytes, position: int) -> None:
    good = bytearray(batch([b"value", b"other"]))
    good[position : position + len(noise)] = noise
    log = new_log()
    try:
        log.append(bytes(good), NOW_MS)
    except RequestRefused:
        assert log.end_offset == 0
    else:
        assert log.end_offset == 2


# ---------------------------------------------------------------- idempotent producers (KIP-98)
def test_the_last_five_batches_of_a_producer_are_known_again() -> None:
    log = new_log()
    sent = [batch([b"x", b"y"], producer=(7, 0, sequence)) for sequence in range(0, 12, 2)]
    offsets = [log.append(each, NOW_MS).base_offset for each in sent]
    assert offsets == [0, 2, 4, 6, 8, 10]
    for data, offset in list(zip(sent, offsets, strict=True))[1:]:
        again = log.append(data, NOW_MS)
        assert (again.duplicate, again.base_offset) == (True, offset)
    with refused(Code.OUT_OF_ORDER_SEQUENCE_NUMBER):
        log.append(sent[0], NOW_MS)
    with refused(Code.OUT_OF_ORDER_SEQUENCE_NUMBER):
        log.append(batch([b"x"], producer=(7, 0, 14)), NOW_MS)
    assert log.end_offset == 12


def test_epochs_of_a_producer_only_grow_and_start_at_sequence_zero() -> None:
    log = new_log()
    log.append(batch([b"x"], producer=(7, 1, 40)), NOW_MS)
    with refused(Code.INVALID_PRODUCER_EPOCH):
        log.append(batch([b"x"], producer=(7, 0, 0)), NOW_MS)
    with refused(Code.OUT_OF_ORDER_SEQUENCE_NUMBER):
        log.append(batch([b"x"], producer=(7, 2, 41)), NOW_MS)
    assert log.append(batch([b"x"], producer=(7, 2, 0)), NOW_MS).base_offset == 1


def test_sequences_wrap_at_two_to_the_31() -> None:
    log = new_log()
    log.append(batch([b"x", b"y"], producer=(7, 0, 2**31 - 2)), NOW_MS)
    assert log.append(batch([b"z"], producer=(7, 0, 0)), NOW_MS).base_offset == 2


# ---------------------------------------------------------------- transactions
def test_open_and_aborted_transactions() -> None:
    log = new_log()
    log.append(batch([b"plain"]), NOW_MS)
    log.append(batch([b"a"], producer=(1, 0, 0), attributes=0x10), NOW_MS)
    log.append(batch([b"b"], producer=(2, 0, 0), attributes=0x10), NOW_MS)
    assert (log.last_stable_offset, log.high_watermark) == (1, 3)
    log.append_marker(1, 0, False, NOW_MS)
    assert log.last_stable_offset == 2
    log.append_marker(2, 0, True, NOW_MS)
    assert log.last_stable_offset == log.high_watermark == 5
    assert log.aborted_in(0, 5) == [(1, 1, 3)]
    assert log.aborted_in(4, 5) == []
    marker = headers_of(log.read(3, 10_000, 5, True))
    assert [(each.is_control, each.is_transactional) for each in marker] == [(True, True)] * 2


# ---------------------------------------------------------------- times
def test_times_are_found_inside_batches_even_unsorted() -> None:
    log = new_log()
    log.append(batch([b"x"] * 3, times=[10, 30, 20]), NOW_MS)
    log.append(batch([b"x"] * 3, times=[5, 40, 35]), NOW_MS)
    expected = {0: (0, 10), 11: (1, 30), 30: (1, 30), 31: (4, 40), 41: None}
    assert {asked: log.offset_for_time(asked, log.end_offset) for asked in expected} == expected
    assert log.offset_for_time(31, 4) is None
    assert log.offset_of_max_time() == (4, 40)
    log.delete_before(5)
    assert log.offset_of_max_time() == (5, 35)
    assert log.offset_for_time(0, log.end_offset) == (5, 35)


def test_a_log_with_its_own_time_says_so_in_each_batch() -> None:
    log = new_log()
    log.log_append_time = True
    assert log.append(batch([b"x"], times=[5]), NOW_MS).timestamp == NOW_MS
    stored = log.read(0, 1000, 1, True)
    header = batches.read_header(stored)
    assert (header.max_timestamp, header.attributes & batches.LOG_APPEND_TIME) == (
        NOW_MS,
        batches.LOG_APPEND_TIME,
    )
    assert batches.crc_matches(stored, header)
    assert list(batches.record_times(stored)) == [(0, NOW_MS)]


# ---------------------------------------------------------------- dropping
def test_retention_by_bytes_keeps_at_least_the_newest_batch() -> None:
    log = new_log()
    one = batch([b"x" * 100])
    log.retention_bytes = 3 * len(one)
    for _ in range(10):
        log.append(one, NOW_MS)
    assert (log.start_offset, log.end_offset) == (7, 10)
    log.retention_bytes = 1
    log.append(one, NOW_MS)
    assert (log.start_offset, log.end_offset) == (10, 11)
    with refused(Code.OFFSET_OUT_OF_RANGE):
        log.read(9, 100, 11, True)
    assert headers_of(log.read(10, 1000, 11, True))[0].base_offset == 10


# ---------------------------------------------------------------- recovery
def filled(path: Path) -> PartitionLog:
    log = PartitionLog(FileSegment(path), "t-0")
    log.append(batch([b"a", b"b"], producer=(7, 0, 0)), NOW_MS)
    log.append(batch([b"c"], producer=(8, 0, 0), attributes=0x10), NOW_MS)
    log.append_marker(8, 0, False, NOW_MS)
    log.append(batch([b"d"], producer=(9, 0, 0), attributes=0x10), NOW_MS)
    return log


def recovered(path: Path) -> tuple[PartitionLog, int]:
    log = PartitionLog(FileSegment(path), "t-0")
    return log, log.recover()


def test_everything_is_known_again_after_recovery(tmp_path: Path) -> None:
    before = filled(tmp_path / "0.log")
    after, cut = recovered(tmp_path / "0.log")
    assert cut == 0
    assert (after.end_offset, after.last_stable_offset) == (5, 4)
    assert after.aborted_in(0, 5) == before.aborted_in(0, 5) == [(8, 2, 3)]
    assert after.append(batch([b"a", b"b"], producer=(7, 0, 0)), NOW_MS).duplicate
    assert after.read(0, 10_000, 5, True) == before.read(0, 10_000, 5, True)


def test_a_torn_tail_is_cut_at_every_possible_place(tmp_path: Path) -> None:
    path = tmp_path / "0.log"
    whole = filled(path)
    data = path.read_bytes()
    ends = [header.size_bytes for header in headers_of(data)]
    last_start = sum(ends[:-1])
    for size in range(last_start, len(data)):
        path.write_bytes(data[:size])
        log, cut = recovered(path)
        assert (log.end_offset, cut, path.stat().st_size) == (4, size - last_start, last_start)
        log.close()
    path.write_bytes(data[:-1] + b"\xff")
    log, cut = recovered(path)
    assert (log.end_offset, cut) == (4, len(data) - last_start)
    assert log.append(batch([b"new"]), NOW_MS).base_offset == 4
    assert whole.end_offset == 5


def test_recovery_of_batches_larger_than_its_window(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("penstock.devbroker.log.RECOVERY_CHUNK_BYTES", 100)
    log = PartitionLog(FileSegment(tmp_path / "0.log"), "t-0")
    for size in (10, 500, 1, 90, 300):
        log.append(batch([b"x" * size]), NOW_MS)
    after, cut = recovered(tmp_path / "0.log")
    assert (after.end_offset, cut) == (5, 0)


def test_a_failed_write_stores_nothing_and_the_log_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = PartitionLog(FileSegment(tmp_path / "0.log"), "t-0")
    log.append(batch([b"a"]), NOW_MS)
    real = __import__("os").pwrite
    calls: list[int] = []

    def half_then_full(fd: int, data: memoryview, position: int) -> int:
        calls.append(position)
        if len(calls) == 1:
            return int(real(fd, data[:10], position))
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.pwrite", half_then_full)
    with pytest.raises(OSError, match="No space"):
        log.append(batch([b"b"]), NOW_MS)
    monkeypatch.undo()
    assert log.end_offset == 1
    assert log.append(batch([b"c"]), NOW_MS).base_offset == 1
    assert recovered(tmp_path / "0.log")[0].end_offset == 2


# ---------------------------------------------------------------- journals, cluster, offsets
@given(sizes=st.lists(st.integers(0, 30), max_size=10), data=st.data())
def test_memory_segments_read_like_one_run_of_bytes(sizes: list[int], data: st.DataObject) -> None:
    segment, whole = MemorySegment(), b""
    for number, size in enumerate(sizes):
        chunk = bytes([number]) * size
        segment.append(chunk)
        whole += chunk
    cut = data.draw(st.integers(0, len(whole)))
    if data.draw(st.booleans()):
        segment.truncate(cut)
        whole = whole[:cut]
    position, length = data.draw(st.integers(0, len(whole))), data.draw(st.integers(0, len(whole) + 3))
    assert segment.size == len(whole)
    assert segment.read(position, length) == whole[position : position + length]


def test_a_torn_journal_loses_only_its_last_line(tmp_path: Path) -> None:
    path = tmp_path / "x.journal"
    journal = Journal(FileSegment(path))
    for number in range(3):
        journal.append({"n": number})
    data = path.read_bytes()
    line = len(data) // 3
    for cut in range(1, line + 1):
        path.write_bytes(data[:-cut])
        entries, torn = Journal(FileSegment(path)).load()
        assert entries == [{"n": 0}, {"n": 1}]
        assert torn == line - cut


def both_storages(tmp_path: Path) -> list[Any]:
    memory = MemoryStorage()
    return [lambda: memory, lambda: FileStorage(tmp_path / "data")]


def test_topics_ids_and_offsets_survive_on_either_storage(tmp_path: Path) -> None:
    for storage in both_storages(tmp_path):
        place = storage()
        cluster, offsets = Cluster(place, BrokerOptions()), OffsetStore(place)
        kept = cluster.create_topic("kept", 2, {"max.message.bytes": 500})
        gone = cluster.create_topic("gone", 1)
        for log in (*kept.partitions, *gone.partitions):
            log.append(batch([b"x", b"y"]), NOW_MS)
        cluster.add_partitions("kept", 3)
        cluster.delete_records(kept, 1, 1)
        cluster.delete_topic(gone)
        producer_ids = {cluster.new_producer_id() for _ in range(5)}
        offsets.store(
            "g", {TopicPartition("kept", 0): OffsetAndMetadata(2, "note", 0), TopicPartition("kept", 1): None}
        )
        offsets.store("h", {TopicPartition("kept", 0): OffsetAndMetadata(1)})
        offsets.forget("h")
        offsets.close()
        cluster.close()

        place = storage()
        again, offsets = Cluster(place, BrokerOptions()), OffsetStore(place)
        assert again.cluster_id == cluster.cluster_id
        assert list(again.topics) == ["kept"]
        topic = again.topic("kept")
        assert (topic.id, topic.config) == (kept.id, {"max.message.bytes": "500"})
        assert [(log.start_offset, log.end_offset) for log in topic.partitions] == [(0, 2), (1, 2), (0, 0)]
        assert topic.partitions[2].max_batch_bytes == 500
        assert again.new_producer_id() not in producer_ids
        assert offsets.live == {
            "g": StoredGroup({TopicPartition("kept", 0): OffsetAndMetadata(2, "note", 0)})
        }
        offsets.close()
        again.close()


def test_a_folder_belongs_to_one_broker(tmp_path: Path) -> None:
    first = FileStorage(tmp_path)
    with pytest.raises(RuntimeError, match="in use by another broker"):
        FileStorage(tmp_path)
    first.close()
    FileStorage(tmp_path).close()

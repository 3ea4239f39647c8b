"""ConsumerRecord and ConsumerRecords, and their Arrow form, on batches in memory."""

from __future__ import annotations

import gc
from typing import Any

import pytest

from penstock import _native
from penstock.errors import CorruptRecordError, RecordTooLargeError
from penstock.types import TimestampType, TopicPartition

from .scripted import at, batch, damaged


@pytest.fixture
def records() -> _native.ConsumerRecords:
    return _native.decode_batches(batch(0, 3) + batch(3, 2, compression="lz4"), topic="t", partition=4)


def test_a_sequence_of_records(records: _native.ConsumerRecords) -> None:
    assert len(records) == 5
    assert records and not records.is_empty()
    assert [record.offset for record in records] == [0, 1, 2, 3, 4]
    assert [record.offset for record in reversed(records)] == [4, 3, 2, 1, 0]
    assert [records[index].offset for index in (0, 2, 3, -1, -5)] == [0, 2, 3, 4, 0]
    for index in (5, -6):
        with pytest.raises(IndexError):
            records[index]
    with pytest.raises(TypeError):
        records["one"]  # type: ignore[call-overload]
    assert records.partitions == [TopicPartition("t", 4)]
    assert records.size_bytes() == 5 * 11
    assert repr(records) == "<ConsumerRecords: 5 records of [t-4]>"
    assert records[0] not in records, "records are made anew, and equal only to themselves"
    assert records.count(records[0]) == 0
    with pytest.raises(ValueError):
        records.index(records[0])


@pytest.mark.parametrize(
    "piece",
    [
        slice(None),
        slice(1, 4),
        slice(-2, None),
        slice(3, 1),
        slice(None, None, 2),
        slice(None, None, -1),
        slice(9, 99),
    ],
)
def test_slices(records: _native.ConsumerRecords, piece: slice) -> None:
    part = records[piece]
    assert isinstance(part, _native.ConsumerRecords)
    assert [record.offset for record in part] == list(range(5))[piece]
    assert part.to_arrow().column("offset").to_pylist() == list(range(5))[piece]


def test_next_offsets_follow_the_slice(records: _native.ConsumerRecords) -> None:
    tp = TopicPartition("t", 4)
    assert records.next_offsets() == {tp: 5}
    assert records[:2].next_offsets() == {tp: 2}
    assert records.records(tp).next_offsets() == {tp: 5}
    assert records.records(("t", 4))[0].offset == 0
    assert not records.records(TopicPartition("other", 4))
    assert records[:0].next_offsets() == {}


def test_a_record_shows_all_of_its_parts() -> None:
    builder = _native.BatchBuilder()
    headers = [("trace", b"\1\2"), ("trace", None), ("größe", b"")]
    builder.append(1_700_000_000_123, b"key", b"x" * 100, headers)
    builder.append(1_700_000_000_124, None, None)
    full, empty = _native.decode_batches(at(40, builder.build()), topic="t")
    assert (full.topic, full.partition, full.offset, full.leader_epoch) == ("t", 0, 40, 7)
    assert (full.timestamp, full.timestamp_type) == (1_700_000_000_123, TimestampType.CREATE_TIME)
    assert full.timestamp_type is TimestampType.CREATE_TIME
    assert (full.key, full.value, full.raw_key, full.raw_value) == (b"key", b"x" * 100, b"key", b"x" * 100)
    assert full.headers == headers
    assert full.topic_partition == TopicPartition("t", 0)
    assert isinstance(full.topic_partition, TopicPartition)
    shown = "x" * 40
    assert repr(full) == f'<ConsumerRecord t-0 offset=40 key=b"key" value=b"{shown}"... (100 bytes)>'
    assert (empty.key, empty.value, empty.raw_key, empty.raw_value_view(), empty.headers) == (
        None,
        None,
        None,
        None,
        [],
    )
    with pytest.raises(AttributeError):
        full.offset = 3  # type: ignore[misc]


def test_views_share_and_outlive_what_they_came_from(records: _native.ConsumerRecords) -> None:
    (view,) = [record.raw_value_view() for record in records[:1]]
    assert view is not None
    del records
    gc.collect()
    assert view.readonly
    assert bytes(view) == b"v" * 10
    key = _native.decode_batches(batch(5))[0].raw_key_view()
    assert key == b"5"


def test_an_iterator_outlives_its_records() -> None:
    iterator = iter(_native.decode_batches(batch(0, 2)))
    gc.collect()
    assert [record.key for record in iterator] == [b"0", b"1"]
    assert list(iterator) == []


def test_columns(records: _native.ConsumerRecords) -> None:
    import pyarrow as pa

    table = pa.table(records)
    assert table.to_pylist() == [
        {
            "topic": "t",
            "partition": 4,
            "offset": record.offset,
            "timestamp": table.column("timestamp")[row].as_py(),
            "key": record.key,
            "value": record.value,
            "headers": [],
        }
        for row, record in enumerate(records)
    ]
    assert table.column("timestamp").cast(pa.int64()).to_pylist() == [record.timestamp for record in records]
    nothing = records[:0].to_arrow()
    assert nothing.schema == table.schema
    assert pa.schema(records) == table.schema
    assert nothing.num_rows == 0


def test_columns_as_views(records: _native.ConsumerRecords) -> None:
    import pyarrow as pa

    schema = pa.schema(records)
    wanted = schema.set(schema.get_field_index("value"), pa.field("value", pa.binary_view()))
    reader = pa.RecordBatchReader.from_stream(records, schema=wanted)
    assert reader.schema.field("value").type == pa.binary_view()
    assert reader.read_all().column("value").to_pylist() == [record.value for record in records]


def test_polars_and_duckdb_and_pandas_read_it_as_it_is(records: _native.ConsumerRecords) -> None:
    import duckdb
    import pandas
    import polars

    assert polars.DataFrame(records)["offset"].to_list() == [0, 1, 2, 3, 4]
    total = duckdb.sql('select count(*), max("offset"), sum(octet_length(value)) from records').fetchall()
    assert total == [(5, 4, 50)]
    assert list(pandas.DataFrame.from_arrow(records)["key"]) == [b"0", b"1", b"2", b"3", b"4"]


@pytest.mark.parametrize(
    ("data", "error", "offset"),
    [
        (batch(0) + damaged(batch(1, 5)), CorruptRecordError, 5),
        (b"\xff" * 80, CorruptRecordError, 0),
        (batch(3, 9)[:-1], RecordTooLargeError, 3),
    ],
)
def test_what_cannot_be_decoded(data: bytes, error: type[Exception], offset: int) -> None:
    with pytest.raises(error) as caught:
        _native.decode_batches(data, topic="t", partition=1)
    found: Any = caught.value
    assert (found.topic, found.partition, found.offset) == ("t", 1, offset)


@pytest.mark.parametrize("compression", ["none", "gzip", "snappy", "lz4", "zstd"])
def test_built_batches_come_back(compression: str) -> None:
    builder = _native.BatchBuilder(compression)
    assert len(builder) == 0
    for number in range(50):
        size = builder.append(
            number, bytearray(b"k"), memoryview(b"v" * number), [("h", None)] if number % 2 else []
        )
    assert (len(builder), builder.size_bytes) == (50, size)
    raw = builder.build(producer_id=3, producer_epoch=1, base_sequence=9)
    assert raw == builder.build(producer_id=3, producer_epoch=1, base_sequence=9), "usable for a retry"
    back = _native.decode_batches(raw)
    assert [(r.timestamp, r.key, r.value, len(r.headers)) for r in back] == [
        (number, b"k", b"v" * number, number % 2) for number in range(50)
    ]


def test_wrong_arguments() -> None:
    with pytest.raises(ValueError, match="gzip"):
        _native.BatchBuilder("brotli")
    with pytest.raises(ValueError, match="0 partitions"):
        _native.murmur2_partition(b"k", 0)
    with pytest.raises(TypeError):
        _native.crc32c("text")  # type: ignore[arg-type]


def test_known_hashes() -> None:
    """murmur2 of "21" and "foobar", as Kafka's own UtilsTest has them, made positive, modulo a large prime."""
    assert _native.murmur2_partition(b"21", 2**31 - 1) == (-973932308 & 0x7FFFFFFF) % (2**31 - 1)
    assert _native.murmur2_partition(b"foobar", 2**31 - 1) == (-790332482 & 0x7FFFFFFF) % (2**31 - 1)
    assert _native.crc32c(b"123456789") == 0xE3069283

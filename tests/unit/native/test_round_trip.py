"""What BatchBuilder writes, decode_batches reads: any record, any codec, alone and in a row of batches."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock import _native
from penstock.errors import CorruptRecordError, RecordError, RecordTooLargeError, UnsupportedFormatError

CODECS = ["none", "gzip", "snappy", "lz4", "zstd"]
data = st.none() | st.binary(max_size=300)
headers = st.lists(st.tuples(st.text(max_size=10), st.none() | st.binary(max_size=20)), max_size=4)
records = st.tuples(st.integers(0, 2**41), data, data, headers)
batches = st.lists(st.lists(records, min_size=1, max_size=20), min_size=1, max_size=4)


def build(
    contents: list[list[tuple[int, bytes | None, bytes | None, list[tuple[str, bytes | None]]]]], codec: str
) -> bytes:
    """Batches one after another, with the offsets that a broker would give them."""
    joined = b""
    offset = 0
    for batch in contents:
        builder = _native.BatchBuilder(codec)
        for timestamp, key, value, its_headers in batch:
            builder.append(timestamp, key, value, its_headers)
        assert len(builder) == len(batch)
        joined += struct.pack(">q", offset) + builder.build()[8:]
        offset += len(batch)
    return joined


@given(batches, st.sampled_from(CODECS))
@settings(max_examples=150, deadline=None)
def test_every_field_comes_back(
    contents: list[list[tuple[int, bytes | None, bytes | None, list[tuple[str, bytes | None]]]]], codec: str
) -> None:
    found = _native.decode_batches(build(contents, codec), topic="t", partition=3)
    expected = [record for batch in contents for record in batch]
    assert len(found) == len(expected)
    for offset, (record, (timestamp, key, value, its_headers)) in enumerate(
        zip(found, expected, strict=True)
    ):
        assert (record.topic, record.partition, record.offset) == ("t", 3, offset)
        assert (record.timestamp, record.key, record.value) == (timestamp, key, value)
        assert record.headers == its_headers


@given(batches, st.sampled_from(CODECS), st.integers(0, 100))
@settings(max_examples=60, deadline=None)
def test_reading_from_the_middle_gives_the_rest(
    contents: list[list[tuple[int, bytes | None, bytes | None, list[tuple[str, bytes | None]]]]],
    codec: str,
    offset: int,
) -> None:
    count = sum(map(len, contents))
    found = _native.decode_batches(build(contents, codec), offset=offset)
    assert [record.offset for record in found] == list(range(min(offset, count), count))


@given(st.data(), st.sampled_from(CODECS))
@settings(max_examples=150, deadline=None)
def test_a_flipped_bit_is_found(chooser: st.DataObject, codec: str) -> None:
    """Anywhere from the attributes on, which is what the checksum covers (KIP-98)."""
    whole = bytearray(build([[(1, b"key", b"value" * 20, [("h", b"1")])] * 5], codec))
    place = chooser.draw(st.integers(21, len(whole) - 1))
    whole[place] ^= 1 << chooser.draw(st.integers(0, 7))
    with pytest.raises(CorruptRecordError):
        _native.decode_batches(bytes(whole))


@given(st.binary(max_size=400), st.booleans())
@settings(max_examples=300, deadline=None)
def test_any_bytes_give_records_or_a_typed_error(garbage: bytes, check_crcs: bool) -> None:
    try:
        found = _native.decode_batches(garbage, check_crcs=check_crcs, max_batch_bytes=1_000_000)
    except RecordError:
        return
    assert len(list(found)) == len(found)


@pytest.mark.parametrize(
    ("place", "value", "told"),
    [(16, 3, "3"), (16, 9, "9"), (22, 5, "codec number 5"), (22, 7, "codec number 7")],
)
def test_a_format_or_codec_of_the_future_is_named(place: int, value: int, told: str) -> None:
    whole = bytearray(build([[(1, b"k", b"v", [])]], "none"))
    whole[place] = value
    with pytest.raises(UnsupportedFormatError, match=told) as caught:
        _native.decode_batches(bytes(whole), topic="t", partition=2, check_crcs=False)
    assert (caught.value.topic, caught.value.partition, caught.value.offset) == ("t", 2, 0)


@pytest.mark.parametrize("codec", CODECS[1:])
def test_a_bomb_is_an_error(codec: str) -> None:
    builder = _native.BatchBuilder(codec)
    builder.append(1, None, bytes(20_000_000))
    bomb = builder.build()
    assert len(bomb) < 1_200_000
    with pytest.raises(RecordTooLargeError, match="1000000"):
        _native.decode_batches(bomb, max_batch_bytes=1_000_000)

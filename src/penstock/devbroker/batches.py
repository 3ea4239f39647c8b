"""Record batches (magic 2) as bytes: their header, their checksum, and the few records the broker must look into.

Source: https://kafka.apache.org/documentation/#recordbatch. The broker stores batches as they came; it decompresses one
only to find a timestamp inside it.
"""

from __future__ import annotations

import gzip
import importlib
import struct
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from crc32c import crc32c

from .codes import Code, RequestRefused

HEADER = struct.Struct(">qiibIhiqqqhii")
HEADER_BYTES = HEADER.size  # 61
LENGTH_OVERHEAD_BYTES = 12  # base offset and batch length stand before what the length counts
CRC_START = 21  # the checksum covers everything after itself
MAX_INFLATED_BYTES = 256 * 1024 * 1024

CODEC_MASK = 0x07
LOG_APPEND_TIME = 0x08
TRANSACTIONAL = 0x10
CONTROL = 0x20

NO_PRODUCER_ID = -1
NO_TIMESTAMP = -1
CODECS = ("none", "gzip", "snappy", "lz4", "zstd")


class BatchHeader(NamedTuple):
    """The 61 bytes before the records, by the names of the protocol page."""

    base_offset: int
    batch_length: int
    partition_leader_epoch: int
    magic: int
    crc: int
    attributes: int
    last_offset_delta: int
    base_timestamp: int
    max_timestamp: int
    producer_id: int
    producer_epoch: int
    base_sequence: int
    record_count: int

    @property
    def last_offset(self) -> int:
        return self.base_offset + self.last_offset_delta

    @property
    def size_bytes(self) -> int:
        return self.batch_length + LENGTH_OVERHEAD_BYTES

    @property
    def codec(self) -> int:
        return self.attributes & CODEC_MASK

    @property
    def is_transactional(self) -> bool:
        return bool(self.attributes & TRANSACTIONAL)

    @property
    def is_control(self) -> bool:
        return bool(self.attributes & CONTROL)


def read_header(data: bytes, position: int = 0) -> BatchHeader:
    """The header at `position`; struct.error when there are fewer than 61 bytes."""
    return BatchHeader._make(HEADER.unpack_from(data, position))


def crc_matches(data: bytes, header: BatchHeader) -> bool:
    return int(crc32c(memoryview(data)[CRC_START:])) == header.crc


def check_produced(data: bytes) -> BatchHeader:
    """The header of the one batch that a Produce request (v3 and later) may carry per partition.

    Raises RequestRefused with the code that Kafka's LogValidator gives.
    """
    if len(data) < HEADER_BYTES:
        raise RequestRefused(
            Code.CORRUPT_MESSAGE, f"{len(data)} bytes are no record batch (a header has {HEADER_BYTES})"
        )
    header = read_header(data)
    if header.magic != 2:
        raise RequestRefused(
            Code.INVALID_RECORD, f"magic {header.magic}: Produce from version 3 on takes magic 2 only"
        )
    if HEADER_BYTES <= header.size_bytes < len(data):
        raise RequestRefused(Code.INVALID_RECORD, "more than one record batch for a partition")
    if header.size_bytes != len(data):
        raise RequestRefused(Code.CORRUPT_MESSAGE, f"batch length {header.batch_length} in {len(data)} bytes")
    if not crc_matches(data, header):
        raise RequestRefused(Code.CORRUPT_MESSAGE, "the batch fails its CRC-32C")
    if header.record_count <= 0 or header.last_offset_delta != header.record_count - 1:
        raise RequestRefused(
            Code.INVALID_RECORD,
            f"{header.record_count} records, last offset delta {header.last_offset_delta}",
        )
    if header.codec >= len(CODECS):
        raise RequestRefused(Code.INVALID_RECORD, f"unknown codec {header.codec}")
    if header.is_control:
        raise RequestRefused(Code.INVALID_RECORD, "clients may not write control records")
    if header.producer_id >= 0 and (header.producer_epoch < 0 or header.base_sequence < 0):
        raise RequestRefused(Code.INVALID_RECORD, "a producer id without a valid epoch and sequence")
    return header


def place(
    data: bytes, header: BatchHeader, base_offset: int, leader_epoch: int, append_time_ms: int | None
) -> bytes:
    """The batch with its offset and leader epoch, and with the log's time if the topic wants that.

    Offset and epoch stand before the checksummed part on purpose; the time does not, so then the CRC is made again.
    """
    placed = bytearray(data)
    struct.pack_into(">q", placed, 0, base_offset)
    struct.pack_into(">i", placed, 12, leader_epoch)
    if append_time_ms is not None:
        struct.pack_into(">h", placed, 21, header.attributes | LOG_APPEND_TIME)
        struct.pack_into(">q", placed, 35, append_time_ms)
        struct.pack_into(">I", placed, 17, crc32c(memoryview(placed)[CRC_START:]))
    return bytes(placed)


def control_batch(producer_id: int, producer_epoch: int, commit: bool, timestamp_ms: int) -> bytes:
    """A transaction marker. Source: ControlRecordType.json, EndTxnMarker.json (version 0)."""
    key = struct.pack(">hh", 0, 1 if commit else 0)
    value = struct.pack(">hi", 0, 0)
    body = b"\x00\x00\x00" + bytes([len(key) << 1]) + key + bytes([len(value) << 1]) + value + b"\x00"
    record = bytes([len(body) << 1]) + body
    attributes = TRANSACTIONAL | CONTROL
    tail = struct.pack(
        ">hiqqqhii", attributes, 0, timestamp_ms, timestamp_ms, producer_id, producer_epoch, -1, 1
    )
    covered = tail + record
    head = struct.pack(">qiibI", 0, 9 + len(covered), 0, 2, crc32c(covered))
    return head + covered


def is_commit_marker(data: bytes) -> bool:
    """Whether a control batch is a commit (else an abort): the type stands in the record's key."""
    position = HEADER_BYTES
    _, position = read_varint(data, position)
    position += 1
    _, position = read_varint(data, position)
    _, position = read_varint(data, position)
    _, position = read_varint(data, position)
    _, kind = struct.unpack_from(">hh", data, position)
    return bool(kind == 1)


def read_varint(data: bytes, position: int) -> tuple[int, int]:
    """A zigzag varint (up to 64 bits) and the position after it. IndexError past the end, ValueError when overlong."""
    shift = raw = 0
    while True:
        byte = data[position]
        position += 1
        raw |= (byte & 0x7F) << shift
        if not byte & 0x80:
            return (raw >> 1) ^ -(raw & 1), position
        shift += 7
        if shift > 63:
            raise ValueError("a varint of more than 10 bytes")


def record_times(data: bytes) -> Iterator[tuple[int, int]]:
    """(offset, timestamp in ms) of each record of one stored batch. ValueError if the records make no sense."""
    header = read_header(data)
    if header.attributes & LOG_APPEND_TIME:
        for delta in range(header.record_count):
            yield header.base_offset + delta, header.max_timestamp
        return
    payload = inflate(header.codec, data[HEADER_BYTES:])
    position = 0
    try:
        for _ in range(header.record_count):
            length, position = read_varint(payload, position)
            time_delta, after = read_varint(payload, position + 1)
            offset_delta, _ = read_varint(payload, after)
            yield header.base_offset + offset_delta, header.base_timestamp + time_delta
            if length < 0:
                raise ValueError("a record of negative length")
            position += length
    except IndexError as error:
        raise ValueError("the records end too early") from error


class CodecMissing(Exception):
    """No installed package reads this codec."""


def inflate(codec: int, payload: bytes) -> bytes:
    """Records as they were before compression. Raises CodecMissing; ValueError when the bytes are not of that codec."""
    if codec == 0:
        return payload
    try:
        if codec == 1:
            with gzip.GzipFile(fileobj=_reader(payload)) as stream:
                return stream.read(MAX_INFLATED_BYTES)
        return _optional_codec(CODECS[codec])(payload)
    except (CodecMissing, MemoryError):
        raise
    except Exception as error:  # each codec package has exceptions of its own
        raise ValueError(f"not {CODECS[codec]}: {error}") from error


def _reader(payload: bytes) -> Any:
    import io

    return io.BytesIO(payload)


def _optional_codec(name: str) -> Callable[[bytes], bytes]:
    """Other packages' decompressors, whichever is there: the broker itself needs none of them."""
    try:
        if name == "snappy":
            decompress = importlib.import_module("cramjam").snappy.decompress_raw
            return lambda payload: unframe_snappy(payload, lambda block: bytes(decompress(block)))
        if name == "lz4":
            decompress_lz4 = importlib.import_module("lz4.frame").decompress
            return lambda payload: bytes(decompress_lz4(payload))
        zstandard = importlib.import_module("zstandard")
        return lambda payload: bytes(
            zstandard.ZstdDecompressor().decompressobj().decompress(payload)  # a frame may not state its size
        )
    except ImportError as error:
        raise CodecMissing(f"no package that reads {name} is installed") from error


XERIAL_MAGIC = b"\x82SNAPPY\x00"


def unframe_snappy(payload: bytes, decompress: Callable[[bytes], bytes]) -> bytes:
    """Snappy as Java writes it (blocks behind a 16-byte header, each with its length) or bare, as C clients write it."""
    if not payload.startswith(XERIAL_MAGIC):
        return decompress(payload)
    blocks: list[bytes] = []
    position = 16
    while position + 4 <= len(payload):
        (length,) = struct.unpack_from(">i", payload, position)
        position += 4
        if length < 0 or position + length > len(payload):
            raise ValueError(f"a snappy block of {length} bytes")
        blocks.append(decompress(payload[position : position + length]))
        position += length
    return b"".join(blocks)

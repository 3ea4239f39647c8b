"""Captures record sets as other clients write them, with the records as another client reads them.

Run by hand: `python tests/golden/capture_batches.py`. Writes native/dataplane/tests/fixtures/*.txt: the record set in
hexadecimal on the first line, then one line per record: offset, timestamp, timestamp type, leader epoch, key, value,
headers (each `key=value`); bytes in hexadecimal, null as `-`.

Writers: kafka-python (v0, v1, v2), aiokafka (v2), librdkafka (v2, through its mock cluster). Reader: kafka-python. A
broker sets offsets, and under LogAppendTime timestamps; `_as_broker` does the same where no broker stood between.
"""

from __future__ import annotations

import socket
import struct
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from aiokafka.record.default_records import DefaultRecordBatchBuilder
from confluent_kafka import Producer
from kafka.record.legacy_records import LegacyRecordBatchBuilder
from kafka.record.memory_records import MemoryRecords, MemoryRecordsBuilder
from kafka.record.util import calc_crc32c

FIXTURES = Path(__file__).parents[2] / "native" / "dataplane" / "tests" / "fixtures"
CODECS = ("none", "gzip", "snappy", "lz4", "zstd")
BASE_OFFSET = 1000
BASE_TIMESTAMP = 1_600_000_000_000
APPEND_TIMESTAMP = 1_700_000_000_000
LOG_APPEND_TIME = 0x08

Sample = tuple[int, bytes | None, bytes | None, list[tuple[str, bytes | None]]]


def samples(*, headers: bool) -> list[Sample]:
    """Null and empty keys and values, a value of several kilobytes, timestamps that go back, headers with null values."""
    some: list[tuple[str, bytes | None]] = [("trace", b"\x00\x01"), ("empty", b""), ("nothing", None)]
    return [
        (BASE_TIMESTAMP + 70, b"key-0", b"value-0", []),
        (BASE_TIMESTAMP, None, b"value-1 " * 400, some if headers else []),
        (BASE_TIMESTAMP + 5, b"key-2", None, []),
        (BASE_TIMESTAMP + 90_000, b"", b"", [("trace", b"again"), ("trace", b"twice")] if headers else []),
        (BASE_TIMESTAMP + 6, None, None, []),
        (BASE_TIMESTAMP + 7, "ключ".encode(), bytes(range(256)), [("заголовок", b"1")] if headers else []),
    ]


def _with_crc_v2(batch: bytearray) -> bytes:
    batch[17:21] = struct.pack(">I", calc_crc32c(bytes(batch[21:])))
    return bytes(batch)


def _as_broker(batch: bytes, magic: int, *, compressed: bool, count: int, append_time: bool) -> bytes:
    """The offsets of an append at BASE_OFFSET; with append_time the timestamps of one under LogAppendTime."""
    out = bytearray(batch)
    if magic == 2:
        out[0:8] = struct.pack(">q", BASE_OFFSET)
        out[12:16] = struct.pack(">i", 7)
        if append_time:
            out[22] |= LOG_APPEND_TIME
            out[35:43] = struct.pack(">q", APPEND_TIMESTAMP)
        return _with_crc_v2(out)
    if compressed:
        out[0:8] = struct.pack(">q", BASE_OFFSET + count - 1)
    if append_time:
        out[17] |= LOG_APPEND_TIME
        out[18:26] = struct.pack(">q", APPEND_TIMESTAMP)
        out[12:16] = struct.pack(">I", zlib.crc32(out[16:]))
    return bytes(out)


def kafka_python(magic: int, codec: int, *, append_time: bool = False) -> bytes:
    records = samples(headers=magic == 2)
    if magic == 2:
        builder = MemoryRecordsBuilder(magic=2, compression_type=codec, batch_size=1 << 20)
        for timestamp, key, value, headers in records:
            assert builder.append(timestamp, key, value, headers) is not None
        builder.close()
        raw = bytes(builder.buffer())
    else:
        legacy = LegacyRecordBatchBuilder(magic=magic, compression_type=codec, batch_size=1 << 20)
        relative = magic == 1 and codec
        for index, (timestamp, key, value, _) in enumerate(records):
            offset = index if relative else BASE_OFFSET + index
            assert legacy.append(offset, timestamp if magic else None, key, value) is not None
        raw = bytes(legacy.build())
    return _as_broker(raw, magic, compressed=codec > 0, count=len(records), append_time=append_time)


def aiokafka(codec: int) -> bytes:
    builder = DefaultRecordBatchBuilder(
        magic=2,
        compression_type=codec,
        is_transactional=0,
        producer_id=-1,
        producer_epoch=-1,
        base_sequence=-1,
        batch_size=1 << 20,
    )
    records = samples(headers=True)
    for index, (timestamp, key, value, headers) in enumerate(records):
        assert builder.append(index, timestamp, key, value, headers) is not None
    raw = bytes(builder.build())
    return _as_broker(raw, 2, compressed=codec > 0, count=len(records), append_time=False)


def _receive(connection: socket.socket, count: int) -> bytes:
    data = b""
    while len(data) < count:
        part = connection.recv(count - len(data))
        if not part:
            raise ConnectionError("the mock cluster hung up")
        data += part
    return data


def _fetch_record_set(host: str, port: int, topic: str) -> bytes:
    """Fetch v4 from offset 0 of partition 0, by hand."""
    name = topic.encode()
    body = struct.pack(">iiiibi", -1, 500, 1, 1 << 20, 0, 1)
    body += struct.pack(f">h{len(name)}siiqi", len(name), name, 1, 0, 0, 1 << 20)
    header = struct.pack(">hhih", 1, 4, 1, -1)
    with socket.create_connection((host, port), timeout=10) as connection:
        connection.sendall(struct.pack(">i", len(header + body)) + header + body)
        (size,) = struct.unpack(">i", _receive(connection, 4))
        response = _receive(connection, size)
    # correlation id, throttle time, one topic with its name, one partition: index, error, two watermarks, aborted ones.
    at = 4 + 4 + 4 + 2 + len(name) + 4 + 4
    (error,) = struct.unpack_from(">h", response, at)
    assert error == 0, error
    at += 2 + 8 + 8
    (aborted,) = struct.unpack_from(">i", response, at)
    at += 4 + max(aborted, 0) * 16
    (size,) = struct.unpack_from(">i", response, at)
    return response[at + 4 : at + 4 + size]


def librdkafka(codec: str) -> bytes:
    topic = f"captured-{codec}"
    producer = Producer(
        {"test.mock.num.brokers": 1, "bootstrap.servers": "", "compression.type": codec, "linger.ms": 300}
    )
    for timestamp, key, value, headers in samples(headers=True):
        producer.produce(topic, key=key, value=value, headers=headers, timestamp=timestamp, partition=0)
    assert producer.flush(20) == 0
    broker = next(iter(producer.list_topics(topic, timeout=10).brokers.values()))
    return _fetch_record_set(broker.host, broker.port, topic)


def read(record_set: bytes) -> Iterable[str]:
    def text(field: bytes | None) -> str:
        return "-" if field is None else f"x{field.hex()}"

    records = MemoryRecords(record_set)
    while (batch := records.next_batch()) is not None:
        epoch = getattr(batch, "leader_epoch", None)
        for record in batch:
            timestamp = -1 if record.timestamp is None else record.timestamp
            kind = -1 if record.timestamp_type is None else record.timestamp_type
            fields: list[Any] = [record.offset, timestamp, kind, -1 if epoch is None else epoch]
            fields += [text(record.key), text(record.value)]
            fields += [f"{text(key.encode())}={text(value)}" for key, value in record.headers]
            yield " ".join(str(field) for field in fields)


def write(name: str, record_set: bytes) -> None:
    FIXTURES.mkdir(parents=True, exist_ok=True)
    lines = [record_set.hex(), *read(record_set)]
    (FIXTURES / f"{name}.txt").write_text("\n".join(lines) + "\n")
    print(f"{name}: {len(record_set)} bytes, {len(lines) - 1} records")


def main() -> None:
    for codec, codec_name in enumerate(CODECS):
        for magic in (0, 1, 2) if codec_name != "zstd" else (2,):
            write(f"kafka_python_v{magic}_{codec_name}", kafka_python(magic, codec))
            if magic > 0:
                record_set = kafka_python(magic, codec, append_time=True)
                if magic == 1 and not codec:
                    continue  # Each message has its own timestamp then; the wrapped case is the one with a rule.
                write(f"kafka_python_v{magic}_{codec_name}_append_time", record_set)
        write(f"aiokafka_v2_{codec_name}", aiokafka(codec))
        write(f"librdkafka_v2_{codec_name}", librdkafka(codec_name))


if __name__ == "__main__":
    main()

"""Records that could not be handled, put where people find them, with where they came from and why in their headers.

Names and encodings of the headers are those of Spring for Apache Kafka (KafkaHeaders.DLT_*, DeadLetterPublishingRecoverer), so that
tools that know them know these: texts in UTF-8, the partition in 4 bytes and offset and timestamp in 8, big-endian.
"""

from __future__ import annotations

import asyncio
import logging
import struct
import traceback
from collections.abc import Collection, Sequence

from .._native import ConsumerRecord
from ..errors import KafkaError, RecordTooLargeError
from ..producer import KafkaProducer, record_size_bytes
from ..types import Header, TimestampType
from .work import Output

_log = logging.getLogger("penstock.processing")

TOPIC = "kafka_dlt-original-topic"
PARTITION = "kafka_dlt-original-partition"
OFFSET = "kafka_dlt-original-offset"
TIMESTAMP = "kafka_dlt-original-timestamp"
TIMESTAMP_TYPE = "kafka_dlt-original-timestamp-type"
GROUP = "kafka_dlt-original-consumer-group"
EXCEPTION = "kafka_dlt-exception-fqcn"
MESSAGE = "kafka_dlt-exception-message"
STACKTRACE = "kafka_dlt-exception-stacktrace"
ATTEMPTS = "penstock_dlt-attempts"  # text: calls of the handler that failed
ROUNDS = "penstock_dlt-rounds"  # text: how often the record came to a dead-letter topic
ORIGIN = (TOPIC, PARTITION, OFFSET, TIMESTAMP, TIMESTAMP_TYPE, GROUP)
REPLACED = frozenset((EXCEPTION, MESSAGE, STACKTRACE, ATTEMPTS))
"""What a redrive takes away; origin and rounds stay, for the case that the record fails again."""
OURS = frozenset((*ORIGIN, EXCEPTION, MESSAGE, STACKTRACE, ATTEMPTS, ROUNDS))

_INT32, _INT64 = struct.Struct(">i"), struct.Struct(">q")
_STACKTRACE_CHARACTERS = 8_000
_MESSAGE_CHARACTERS = 2_000
_BACKOFF_S = (0.2, 10.0)


def headers_of(record: ConsumerRecord, error: BaseException, attempts: int, group_id: str) -> list[Header]:
    """The record's own headers, then ours. A record that came from a dead-letter topic before keeps its first origin."""
    before = dict(record.headers)
    headers: list[Header] = [header for header in record.headers if header[0] not in OURS]
    if all(before.get(name) for name in (TOPIC, PARTITION, OFFSET)):
        headers += [(name, before[name]) for name in ORIGIN if name in before]
    else:
        headers += [
            (TOPIC, record.topic.encode()),
            (PARTITION, struct.pack(">i", record.partition)),
            (OFFSET, struct.pack(">q", record.offset)),
            (TIMESTAMP, struct.pack(">q", record.timestamp)),
            (TIMESTAMP_TYPE, _timestamp_type(record).encode()),
            (GROUP, group_id.encode()),
        ]
    kind = type(error)
    trace = "".join(traceback.format_exception(error))
    return [
        *headers,
        (EXCEPTION, f"{kind.__module__}.{kind.__qualname__}".encode()),
        (MESSAGE, str(error)[:_MESSAGE_CHARACTERS].encode(errors="replace")),
        (STACKTRACE, trace[-_STACKTRACE_CHARACTERS:].encode(errors="replace")),
        (ATTEMPTS, str(attempts).encode()),
        (ROUNDS, str(rounds_of(record) + 1).encode()),
    ]


def origin_of(record: ConsumerRecord, topics: Collection[str]) -> tuple[str, int, int, int] | None:
    """(topic, partition, offset, timestamp) of its first place, where its headers name one in these topics."""
    found = dict(record.headers)
    topic, partition, offset = found.get(TOPIC), found.get(PARTITION), found.get(OFFSET)
    if topic is None or partition is None or offset is None or len(partition) != 4 or len(offset) != 8:
        return None
    name = topic.decode(errors="replace")
    if name not in topics:
        return None
    timestamp = found.get(TIMESTAMP)
    timestamp_ms = _INT64.unpack(timestamp)[0] if timestamp and len(timestamp) == 8 else record.timestamp
    return name, _INT32.unpack(partition)[0], _INT64.unpack(offset)[0], timestamp_ms


def rounds_of(record: ConsumerRecord) -> int:
    """How often it came to a dead-letter topic before."""
    value = dict(record.headers).get(ROUNDS) or b""
    return int(value) if value.isdigit() else 0


def _timestamp_type(record: ConsumerRecord) -> str:
    """As Java's TimestampType.name has it. Source: org.apache.kafka.common.record.TimestampType."""
    names = {TimestampType.CREATE_TIME: "CreateTime", TimestampType.LOG_APPEND_TIME: "LogAppendTime"}
    return names.get(record.timestamp_type, "NoTimestampType")


def letter_of(record: ConsumerRecord, headers: Sequence[Header]) -> Output:
    """The record with these headers instead of its own: key, value and timestamp are as they were."""
    timestamp_ms = record.timestamp if record.timestamp >= 0 else None
    return Output(record.raw_value, record.raw_key, headers=tuple(headers), timestamp_ms=timestamp_ms)


def fitting(record: ConsumerRecord, headers: Sequence[Header], limit_bytes: int) -> Sequence[Header]:
    """These headers, without the stack trace where the record would be too large with it."""
    size = record_size_bytes(record.raw_key, record.raw_value, headers)
    return headers if size <= limit_bytes else [header for header in headers if header[0] != STACKTRACE]


class DeadLetters:
    """Sends records away, and does not give up: nothing is committed past them until they are stored."""

    def __init__(self, producer: KafkaProducer) -> None:
        self._producer = producer

    async def send(self, record: ConsumerRecord, topic: str, headers: Sequence[Header]) -> None:
        """Once this returns, the record is stored in `topic` with these headers, key, value and timestamp as they were.

        While the topic or its brokers are away it tries again, for ever. A record that is too large with these headers is stored without
        the stack trace. RecordTooLargeError if it is too large still: it can only stay where it is.
        """
        try:
            await self._send(record, topic, headers)
        except RecordTooLargeError:
            if all(name != STACKTRACE for name, _ in headers):
                raise
            _log.warning(
                "%s-%d offset %d is too large for %s with a stack trace",
                record.topic,
                record.partition,
                record.offset,
                topic,
            )
            await self._send(record, topic, [header for header in headers if header[0] != STACKTRACE])

    async def _send(self, record: ConsumerRecord, topic: str, headers: Sequence[Header]) -> None:
        letter = letter_of(record, headers)
        backoff_s, most_s = _BACKOFF_S
        where = f"{record.topic}-{record.partition} offset {record.offset}"
        while True:
            try:
                future = await asyncio.to_thread(
                    self._producer.send,
                    topic,
                    letter.value,
                    letter.key,
                    letter.headers,
                    None,
                    letter.timestamp_ms,
                )
                await future
            except RecordTooLargeError:
                raise
            except KafkaError as failure:
                _log.error(
                    "%s cannot be put into %s, and will be tried again in %.1f s: %s",
                    where,
                    topic,
                    backoff_s,
                    failure,
                )
                await asyncio.sleep(backoff_s)
                backoff_s = min(backoff_s * 2, most_s)
            else:
                return

"""What an error code of a Produce response means for its batch. A table, and the errors that users get to see."""

from __future__ import annotations

from enum import Enum
from typing import Any, Final

from .._native import BatchBuilder, decode_batches
from ..errors import KafkaError, KafkaTimeoutError, ProduceError, RecordTooLargeError
from ..protocol import error_for, error_name, is_retriable
from .batch import ProducerBatch
from .settings import ProducerSettings


class Verdict(Enum):
    """What to do with a batch."""

    STORED = "it is in the log"
    AGAIN = "it is not in the log; try again"
    UNCERTAIN = "it may be in the log; try again, under the same sequence number"
    OUT_OF_ORDER = "it is not in the log; the broker expects another sequence number or epoch"
    SPLIT = "it is too large as a whole; try its halves"
    REFUSED = "it is not in the log, and trying again would not help"


_MESSAGE_TOO_LARGE: Final = 10
_DUPLICATE_SEQUENCE: Final = 46

_SPECIAL: Final[dict[int, Verdict]] = {
    0: Verdict.STORED,
    _DUPLICATE_SEQUENCE: Verdict.STORED,  # DUPLICATE_SEQUENCE_NUMBER: an earlier attempt got through
    7: Verdict.UNCERTAIN,  # REQUEST_TIMED_OUT: the leader has it, its followers did not in time
    20: Verdict.UNCERTAIN,  # NOT_ENOUGH_REPLICAS_AFTER_APPEND: as it says
    45: Verdict.OUT_OF_ORDER,  # OUT_OF_ORDER_SEQUENCE_NUMBER
    47: Verdict.OUT_OF_ORDER,  # INVALID_PRODUCER_EPOCH (KIP-360: the next epoch mends it)
    59: Verdict.OUT_OF_ORDER,  # UNKNOWN_PRODUCER_ID: the broker's memory of this producer expired
}
"""Codes that mean something particular here; others are AGAIN where Kafka marks them retriable, else REFUSED."""

_NEEDS_SEQUENCES: Final = {Verdict.OUT_OF_ORDER}


def judge(code: int, *, idempotent: bool, count: int) -> Verdict:
    """The verdict over a batch of `count` records. Source: https://kafka.apache.org/protocol#protocol_error_codes"""
    if code == _MESSAGE_TOO_LARGE and count > 1:
        return Verdict.SPLIT
    verdict = _SPECIAL.get(code)
    if verdict is None:
        verdict = Verdict.AGAIN if is_retriable(code) else Verdict.REFUSED
    if verdict in _NEEDS_SEQUENCES and not idempotent:
        return Verdict.REFUSED
    return verdict


def refused(code: int, batch: ProducerBatch, answer: Any) -> KafkaError:
    """The error for a batch that the broker refused, with what the broker said about it and its records (KIP-467)."""
    what = f"storing {batch.count} record{'s' if batch.count > 1 else ''} in {batch.topic}-{batch.partition}"
    details = [answer.error_message] if getattr(answer, "error_message", None) else []
    details += [
        f"record {entry.batch_index} of the batch: {entry.batch_index_error_message or 'refused'}"
        for entry in getattr(answer, "record_errors", ())
    ]
    detail = "; ".join(details) or None
    if code == _MESSAGE_TOO_LARGE:
        return RecordTooLargeError(
            f"{what}: {error_name(code)}{f' ({detail})' if detail else ''}; {batch.size_bytes} bytes before compression: "
            "raise the topic's max.message.bytes, or make the record smaller",
            batch.topic,
            batch.partition,
            -1,
        )
    error = error_for(code, what, detail)
    if type(error).__name__ == "BrokerError":
        return ProduceError(str(error), code, error_name(code), is_retriable(code))
    return error


def expired_error(batch: ProducerBatch, delivery_timeout_ms: int, unreachable: str) -> KafkaTimeoutError:
    """The error of a batch that was not stored within delivery.timeout.ms."""
    reason = f"; the last attempt: {batch.last_error}" if batch.last_error else ""
    if unreachable:
        reason += f"; not reachable: {unreachable}"
    certainty = (
        ""
        if batch.fate_known and not batch.on_wire
        else "; it may have been stored without our hearing of it"
    )
    error = KafkaTimeoutError(
        f"{batch.count} record{'s' if batch.count > 1 else ''} for {batch.topic}-{batch.partition} could not be stored within "
        f"delivery.timeout.ms ({delivery_timeout_ms} ms, {batch.attempts} attempts){reason}{certainty}"
    )
    error.__cause__ = batch.last_error
    return error


def too_large(topic: str, partition: int, size_bytes: int, option: str, limit: int) -> RecordTooLargeError:
    """The error of a record that is larger than an option of the producer allows."""
    return RecordTooLargeError(
        f"a record of {size_bytes} bytes for topic {topic!r} is larger than {option} ({limit}): raise it, or make the record "
        "smaller",
        topic,
        partition,
        -1,
    )


def split(batch: ProducerBatch, settings: ProducerSettings) -> list[tuple[int, ProducerBatch]]:
    """Two batches with the records of one, and the index that the first record of each had."""
    records = decode_batches(batch.build(), topic=batch.topic, partition=batch.partition)
    middle = (batch.count + 1) // 2
    parts = []
    for first, end in ((0, middle), (middle, batch.count)):
        builder = BatchBuilder(settings.compression, settings.compression_level)
        part = ProducerBatch(batch.topic, batch.partition, builder, batch.created_ms)
        for record in records[first:end]:
            part.size_bytes = builder.append(
                record.timestamp, record.raw_key, record.raw_value, record.headers
            )
        part.count = end - first
        part.reserved_bytes = batch.reserved_bytes * part.count // batch.count
        parts.append((first, part))
    return parts

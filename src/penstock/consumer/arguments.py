"""What the two shells have in common: what users may pass, made uniform, and the time that calls take."""

from __future__ import annotations

import datetime
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeAlias

from .._native import ConsumerRecord, ConsumerRecords
from ..types import OffsetAndMetadata, TopicPartition

CommitArgument: TypeAlias = (
    Mapping[TopicPartition, int | OffsetAndMetadata] | ConsumerRecord | ConsumerRecords | None
)

CommitCallback: TypeAlias = Callable[[dict[TopicPartition, OffsetAndMetadata], BaseException | None], object]


def to_ms(timeout: float | datetime.timedelta) -> float:
    """Milliseconds from a number of them or a timedelta. ValueError below zero."""
    ms = timeout.total_seconds() * 1000 if isinstance(timeout, datetime.timedelta) else float(timeout)
    if not ms >= 0:
        raise ValueError(f"a timeout is milliseconds from 0 on, or a timedelta; got {timeout!r}")
    return min(ms, 2**31)


def limit_of(max_records: int | None, configured: int) -> int:
    """How many records a poll may return: `max_records`, or what `max.poll.records` says. ValueError below one."""
    if max_records is None:
        return configured
    if isinstance(max_records, bool) or not isinstance(max_records, int) or max_records < 1:
        raise ValueError(
            f"max_records is a number of records from 1 on, or None for max.poll.records; got {max_records!r}"
        )
    return max_records


def normal_offsets(offsets: CommitArgument) -> dict[TopicPartition, OffsetAndMetadata] | None:
    """What to commit, as next offsets to read. None stays None: the consumer's own positions."""
    if offsets is None:
        return None
    if isinstance(offsets, ConsumerRecord):
        return {offsets.topic_partition: OffsetAndMetadata(offsets.offset + 1, "", offsets.leader_epoch)}
    if isinstance(offsets, ConsumerRecords):
        return {
            tp: OffsetAndMetadata(offset, "", offsets.records(tp)[-1].leader_epoch)
            for tp, offset in offsets.next_offsets().items()
        }
    if not isinstance(offsets, Mapping):
        raise TypeError(
            "commit() takes a mapping of TopicPartition to an int or OffsetAndMetadata, a ConsumerRecord or ConsumerRecords; "
            f"got {type(offsets).__name__}"
        )
    normal: dict[TopicPartition, OffsetAndMetadata] = {}
    for partition, offset in offsets.items():
        entry = offset if isinstance(offset, OffsetAndMetadata) else OffsetAndMetadata(int(offset))
        if entry.offset < 0:
            raise ValueError(
                f"cannot commit offset {entry.offset} of {TopicPartition(*partition)}: offsets start at 0"
            )
        normal[TopicPartition(*partition)] = entry
    return normal


def normal_times(
    timestamps: Mapping[TopicPartition, int | datetime.datetime],
) -> dict[TopicPartition, int]:
    """Milliseconds since 1970, from a number of them or a datetime."""
    return {
        TopicPartition(*tp): int(t.timestamp() * 1000) if isinstance(t, datetime.datetime) else int(t)
        for tp, t in timestamps.items()
    }


def is_one_partition(partitions: Any) -> bool:
    """A TopicPartition, or a plain (topic, number), where several could have been given."""
    return isinstance(partitions, tuple) and len(partitions) == 2 and isinstance(partitions[0], str)


def topic_partitions(partitions: Iterable[Any]) -> list[TopicPartition]:
    """TopicPartitions from anything like them; a single list or tuple of them is taken as its members."""
    items = list(partitions)
    if len(items) == 1 and isinstance(items[0], (list, set, frozenset)):
        items = list(items[0])
    return [TopicPartition(*item) for item in items]


@contextmanager
def timed(measured: Callable[[float, float], None]) -> Iterator[None]:
    """Tell `measured` (now_ms, duration_ms) of what is done inside, in an error too."""
    began_s = time.monotonic()
    try:
        yield
    finally:
        now_s = time.monotonic()
        measured(now_s * 1000, (now_s - began_s) * 1000)

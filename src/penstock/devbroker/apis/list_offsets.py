"""ListOffsets (key 2): offsets for the ends of a log and for times (KIP-79, KIP-734, KIP-1005)."""

from __future__ import annotations

from typing import Any

from penstock.devbroker.codes import Code, RequestRefused
from penstock.devbroker.log import PartitionLog
from penstock.devbroker.wire import refused_topics, topic_key

from . import Call, Fields
from .fetch import check_epoch

LATEST, EARLIEST, MAX_TIMESTAMP, EARLIEST_LOCAL, LATEST_TIERED = -1, -2, -3, -4, -5


def handle(call: Call) -> Fields:
    topics: list[Fields] = []
    for topic in call.body.topics:
        partitions = [find(call, topic, partition) for partition in topic.partitions]
        topics.append({**topic_key(topic), "partitions": partitions})
    return {"topics": topics}


def find(call: Call, topic: Any, partition: Any) -> Fields:
    index = partition.partition_index
    try:
        log = call.cluster.log(call.cluster.named(topic), index)
        check_epoch(log, partition)
        stable_only = getattr(call.body, "isolation_level", 0) == 1
        offset, timestamp = answer(log, partition.timestamp, stable_only, call.version)
    except RequestRefused as error:
        return {"partition_index": index, "error_code": error.code, "offset": -1, "timestamp": -1}
    epoch = log.leader_epoch if offset >= 0 else -1
    return {"partition_index": index, "offset": offset, "timestamp": timestamp, "leader_epoch": epoch}


def answer(log: PartitionLog, asked: int, stable_only: bool, version: int) -> tuple[int, int]:
    """(offset, timestamp in ms or -1); (-1, -1) when no record qualifies."""
    end = log.last_stable_offset if stable_only else log.high_watermark
    if asked == LATEST:
        return end, -1
    if asked == EARLIEST or (asked == EARLIEST_LOCAL and version >= 8):
        return log.start_offset, -1
    if asked == MAX_TIMESTAMP and version >= 7:
        return log.offset_of_max_time() or (-1, -1)
    if asked == LATEST_TIERED and version >= 9:
        return -1, -1
    if asked < 0:
        raise RequestRefused(
            Code.UNSUPPORTED_VERSION, f"ListOffsets version {version} has no timestamp {asked}"
        )
    return log.offset_for_time(asked, end) or (-1, -1)


def refuse(body: Any, code: int) -> Fields:
    return {"topics": refused_topics(body.topics, "partitions", "partition_index", code)}

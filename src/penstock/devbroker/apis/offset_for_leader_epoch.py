"""OffsetForLeaderEpoch (key 23): where an epoch ends in this log (KIP-320)."""

from __future__ import annotations

from typing import Any

from penstock.devbroker.codes import RequestRefused
from penstock.devbroker.wire import refused_topics, topic_key

from . import Call, Fields
from .fetch import check_epoch


def handle(call: Call) -> Fields:
    return {
        "topics": [
            {
                **topic_key(topic),
                "partitions": [find(call, topic, partition) for partition in topic.partitions],
            }
            for topic in call.body.topics
        ]
    }


def find(call: Call, topic: Any, partition: Any) -> Fields:
    try:
        log = call.cluster.log(call.cluster.named(topic), partition.partition)
        check_epoch(log, partition)
    except RequestRefused as error:
        return {"partition": partition.partition, "error_code": error.code}
    epoch, end = log.end_of_epoch(partition.leader_epoch)
    return {"partition": partition.partition, "leader_epoch": epoch, "end_offset": end}


def refuse(body: Any, code: int) -> Fields:
    return {"topics": refused_topics(body.topics, "partitions", "partition", code)}

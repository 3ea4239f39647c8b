"""DeleteRecords (key 21): raise the log start offset (KIP-107)."""

from __future__ import annotations

from typing import Any

from penstock.devbroker.codes import Code, RequestRefused
from penstock.devbroker.wire import refused_topics, topic_key

from . import Call, Fields


def handle(call: Call) -> Fields:
    return {
        "topics": [
            {
                **topic_key(topic),
                "partitions": [delete(call, topic, partition) for partition in topic.partitions],
            }
            for topic in call.body.topics
        ]
    }


def delete(call: Call, topic: Any, partition: Any) -> Fields:
    index = partition.partition_index
    try:
        low = call.cluster.delete_records(call.cluster.named(topic), index, partition.offset)
    except RequestRefused as error:
        return {"partition_index": index, "low_watermark": -1, "error_code": error.code}
    return {"partition_index": index, "low_watermark": low, "error_code": Code.NONE}


def refuse(body: Any, code: int) -> Fields:
    return {"topics": refused_topics(body.topics, "partitions", "partition_index", code, low_watermark=-1)}

"""OffsetDelete (key 47): single committed offsets (KIP-496)."""

from __future__ import annotations

from typing import Any

from penstock.devbroker.group_events import Answered, DeleteOffsets
from penstock.types import TopicPartition

from . import Call, Fields


async def handle(call: Call) -> Fields:
    body = call.body
    named = tuple(
        TopicPartition(topic.name, partition.partition_index)
        for topic in body.topics
        for partition in topic.partitions
    )
    answered: Answered = await call.groups.submit(lambda token: DeleteOffsets(token, body.group_id, named))
    codes = answered.partitions or {}
    return {
        "error_code": answered.code,
        "topics": [
            {
                "name": topic.name,
                "partitions": [
                    {
                        "partition_index": each.partition_index,
                        "error_code": codes.get(
                            TopicPartition(topic.name, each.partition_index), answered.code
                        ),
                    }
                    for each in topic.partitions
                ],
            }
            for topic in body.topics
        ],
    }


def refuse(body: Any, code: int) -> Fields:
    return {"error_code": code}

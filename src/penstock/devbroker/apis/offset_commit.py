"""OffsetCommit (key 8): of a member of a group, or of anybody while the group has no members."""

from __future__ import annotations

from typing import Any

from penstock.devbroker.codes import Code, RequestRefused
from penstock.devbroker.group_events import Answered, CommitOffsets
from penstock.devbroker.wire import refused_topics, topic_key
from penstock.types import OffsetAndMetadata, TopicPartition

from . import Call, Fields


async def handle(call: Call) -> Fields:
    body = call.body
    offsets, unknown = gather(call)
    answered: Answered = await call.groups.submit(
        lambda token: CommitOffsets(
            token,
            body.group_id,
            body.generation_id_or_member_epoch,
            body.member_id,
            getattr(body, "group_instance_id", None),
            offsets,
            version=call.version,
        )
    )
    return answer(call, answered, unknown)


def gather(call: Call) -> tuple[dict[TopicPartition, OffsetAndMetadata], dict[tuple[int, int], Code]]:
    """The offsets by partition; and the code of those parts, by place in the request, that name nothing known."""
    offsets: dict[TopicPartition, OffsetAndMetadata] = {}
    unknown: dict[tuple[int, int], Code] = {}
    for row, topic in enumerate(call.body.topics):
        for column, partition in enumerate(topic.partitions):
            try:
                found = call.cluster.named(topic)
                call.cluster.log(found, partition.partition_index)
            except RequestRefused as error:
                unknown[row, column] = error.code
                continue
            offsets[TopicPartition(found.name, partition.partition_index)] = OffsetAndMetadata(
                partition.committed_offset,
                partition.committed_metadata or "",
                getattr(partition, "committed_leader_epoch", -1),
            )
    return offsets, unknown


def answer(call: Call, answered: Answered, unknown: dict[tuple[int, int], Code]) -> Fields:
    codes = answered.partitions or {}
    topics: list[Fields] = []
    for row, topic in enumerate(call.body.topics):
        partitions: list[Fields] = []
        for column, partition in enumerate(topic.partitions):
            code = unknown.get((row, column), answered.code)
            if code is Code.NONE:
                name = call.cluster.named(topic).name
                code = codes.get(TopicPartition(name, partition.partition_index), Code.UNKNOWN_SERVER_ERROR)
            partitions.append({"partition_index": partition.partition_index, "error_code": code})
        topics.append({**topic_key(topic), "partitions": partitions})
    return {"topics": topics}


def refuse(body: Any, code: int) -> Fields:
    return {"topics": refused_topics(body.topics, "partitions", "partition_index", code)}

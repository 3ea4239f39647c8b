"""OffsetFetch (key 9): committed offsets of one group, or from version 8 on of several (KIP-709)."""

from __future__ import annotations

from itertools import groupby
from typing import Any

from penstock.devbroker.codes import Code, RequestRefused
from penstock.devbroker.group_model import Group
from penstock.devbroker.wire import topic_key
from penstock.types import OffsetAndMetadata, TopicPartition

from . import Call, Fields

NOTHING = OffsetAndMetadata(-1)


def handle(call: Call) -> Fields:
    body = call.body
    if call.version < 8:
        return {"topics": topics_of(call, body.group_id, body.topics), "error_code": Code.NONE}
    return {"groups": [group_of(call, group) for group in body.groups]}


def group_of(call: Call, asked: Any) -> Fields:
    """From version 9 on a member says who it is; a consumer group answers members of the present epoch (KIP-848)."""
    group = call.groups.machine.groups.get(asked.group_id)
    code = Code.NONE
    if group is not None and group.consumer is not None:
        member_id, epoch = getattr(asked, "member_id", None), getattr(asked, "member_epoch", -1)
        code = call.groups.machine.consumers.fetch_code(group.consumer, member_id, epoch)
    topics = topics_of(call, asked.group_id, asked.topics) if code is Code.NONE else []
    return {"group_id": asked.group_id, "topics": topics, "error_code": code}


def topics_of(call: Call, group_id: str, asked: Any) -> list[Fields]:
    group = call.groups.machine.groups.get(group_id) or Group(group_id)
    waiting = set().union(*group.pending_offsets.values()) if group.pending_offsets else set()
    unstable = waiting if getattr(call.body, "require_stable", False) else set()
    if asked is None:
        return everything(call, group, unstable)
    topics: list[Fields] = []
    for topic in asked:
        try:
            # Asked by name, a topic need not exist any more; asked by id, it must (KIP-848).
            name = getattr(topic, "name", None) or call.cluster.named(topic).name
            partitions = [
                row(group, TopicPartition(name, index), unstable) for index in topic.partition_indexes
            ]
        except RequestRefused as error:
            partitions = [refused(index, error.code) for index in topic.partition_indexes]
        topics.append({**topic_key(topic), "partitions": partitions})
    return topics


def everything(call: Call, group: Group, unstable: set[TopicPartition]) -> list[Fields]:
    topics: list[Fields] = []
    for name, partitions in groupby(sorted(group.offsets), key=lambda partition: partition.topic):
        topic = call.cluster.topics.get(name)
        if topic is not None:
            rows = [row(group, partition, unstable) for partition in partitions]
            topics.append({"name": name, "topic_id": topic.id, "partitions": rows})
    return topics


def row(group: Group, partition: TopicPartition, unstable: set[TopicPartition]) -> Fields:
    if partition in unstable:
        return refused(partition.partition, Code.UNSTABLE_OFFSET_COMMIT)
    found = group.offsets.get(partition, NOTHING)
    return {
        "partition_index": partition.partition,
        "committed_offset": found.offset,
        "committed_leader_epoch": found.leader_epoch,
        "metadata": found.metadata,
        "error_code": Code.NONE,
    }


def refused(index: int, code: int) -> Fields:
    return {
        "partition_index": index,
        "committed_offset": -1,
        "committed_leader_epoch": -1,
        "metadata": "",
        "error_code": code,
    }


def refuse(body: Any, code: int) -> Fields:
    if body.__version__ >= 8:
        return {"groups": [{"group_id": group.group_id, "error_code": code} for group in body.groups]}
    topics = [
        {**topic_key(topic), "partitions": [refused(index, code) for index in topic.partition_indexes]}
        for topic in body.topics or ()
    ]
    return {"error_code": code, "topics": topics}

"""CreateTopics (key 19)."""

from __future__ import annotations

from typing import Any

from penstock.devbroker.cluster import NODE_ID, Topic
from penstock.devbroker.codes import Code, RequestRefused
from penstock.devbroker.options import TOPIC_SETTINGS

from . import Call, Fields
from .describe_configs import DEFAULT_CONFIG, DYNAMIC_TOPIC_CONFIG


def handle(call: Call) -> Fields:
    seen = [topic.name for topic in call.body.topics]
    return {"topics": [create(call, topic, seen.count(topic.name)) for topic in call.body.topics]}


def create(call: Call, asked: Any, times: int) -> Fields:
    try:
        if times > 1:
            raise RequestRefused(Code.INVALID_REQUEST, f"the topic {asked.name} is named {times} times")
        partitions = partition_count(asked)
        config = {each.name: each.value for each in asked.configs}
        topic = call.cluster.create_topic(asked.name, partitions, config, dry=call.body.validate_only)
    except RequestRefused as error:
        return {"name": asked.name, "error_code": error.code, "error_message": error.message}
    count = len(topic.partitions) or partitions or call.cluster.options.number("num.partitions")
    return {
        "name": topic.name,
        "topic_id": topic.id,
        "error_code": Code.NONE,
        "num_partitions": count,
        "replication_factor": 1,
        "configs": configs_of(topic),
    }


def partition_count(asked: Any) -> int | None:
    """None for the broker's default (KIP-464). Raises RequestRefused for more replicas than there are brokers."""
    if asked.assignments:
        indexes = sorted(each.partition_index for each in asked.assignments)
        if indexes != list(range(len(indexes))) or any(
            set(each.broker_ids) != {NODE_ID} for each in asked.assignments
        ):
            raise RequestRefused(
                Code.INVALID_REPLICA_ASSIGNMENT,
                f"{asked.name}: each partition from 0 on belongs on broker {NODE_ID}",
            )
        return len(indexes)
    if asked.replication_factor not in (-1, 1):
        raise RequestRefused(
            Code.INVALID_REPLICATION_FACTOR,
            f"{asked.name}: {asked.replication_factor} replicas, but there is one broker",
        )
    return None if asked.num_partitions == -1 else int(asked.num_partitions)


def configs_of(topic: Topic) -> list[Fields]:
    return [
        {
            "name": name,
            "value": topic.setting(name),
            "read_only": False,
            "config_source": DYNAMIC_TOPIC_CONFIG if name in topic.config else DEFAULT_CONFIG,
            "is_sensitive": False,
        }
        for name in TOPIC_SETTINGS
    ]


def refuse(body: Any, code: int) -> Fields:
    return {
        "topics": [{"name": topic.name, "error_code": code, "error_message": None} for topic in body.topics]
    }

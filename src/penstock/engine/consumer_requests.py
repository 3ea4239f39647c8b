"""The consumer protocol's requests (KIP-848): what the machine's effects mean on the wire, and what the answers mean to it."""

from __future__ import annotations

import uuid
from collections import defaultdict
from typing import Any

from ..group import consumer_messages as c
from ..protocol import Api
from .client import COORDINATOR
from .coordinator import GroupCoordinator


async def heartbeat(
    coordinator: GroupCoordinator, effect: c.SendConsumerHeartbeat
) -> c.ConsumerHeartbeatAnswered:
    response = await coordinator.request(
        Api.CONSUMER_GROUP_HEARTBEAT,
        purpose=COORDINATOR,
        group_id=coordinator.group_id,
        member_id=effect.member_id,
        member_epoch=effect.member_epoch,
        instance_id=effect.group_instance_id,
        rack_id=effect.rack_id,
        rebalance_timeout=effect.rebalance_timeout_ms,
        subscribed_topic_names=effect.subscribed_topic_names,
        subscribed_topic_regex=effect.subscribed_topic_regex,
        server_assignor=effect.server_assignor,
        topic_partitions=None if effect.topic_partitions is None else _by_id(effect.topic_partitions),
    )
    return read(response)


def read(response: Any, *, repeated: bool = False) -> c.ConsumerHeartbeatAnswered:
    assignment = None
    if response.assignment is not None:
        assignment = tuple(
            (t.topic_id.bytes if t.topic_id is not None else bytes(16), int(partition))
            for t in response.assignment.topic_partitions
            for partition in t.partitions
        )
    return c.ConsumerHeartbeatAnswered(
        int(response.error_code),
        response.error_message,
        response.member_id,
        int(response.member_epoch),
        int(response.heartbeat_interval.total_seconds() * 1000),
        assignment,
        repeated=repeated,
    )


def repeated_heartbeat(group_id: str, effect: c.RepeatHeartbeat) -> tuple[dict[str, Any], dict[str, Any]]:
    """The fields of the request that the connection repeats, and of a plain yes to it."""
    request = {
        "group_id": group_id,
        "member_id": effect.member_id,
        "member_epoch": effect.member_epoch,
        "instance_id": effect.group_instance_id,
        "topic_partitions": None,
    }
    answer = {
        "member_id": effect.member_id,
        "member_epoch": effect.member_epoch,
        "heartbeat_interval": effect.interval_ms,
    }
    return request, answer


def _by_id(partitions: c.TopicIdPartitions) -> list[dict[str, Any]]:
    numbers: dict[bytes, list[int]] = defaultdict(list)
    for topic_id, partition in partitions:
        numbers[topic_id].append(partition)
    return [
        {"topic_id": uuid.UUID(bytes=topic_id), "partitions": found} for topic_id, found in numbers.items()
    ]

"""ConsumerGroupDescribe (key 69): groups of the new protocol, with epochs and what members have and shall have (KIP-848)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from penstock.devbroker.codes import Code
from penstock.devbroker.consumer_assignors import Partition
from penstock.devbroker.consumer_model import NOTHING, ConsumerGroup, ConsumerMember

from . import CONSUMER_GROUP_APIS, Call, Fields
from .consumer_group_heartbeat import by_topic
from .metadata import NO_OPERATIONS


def handle(call: Call) -> Fields:
    if not any(api.key in CONSUMER_GROUP_APIS for api in call.served):
        return refuse(call.body, Code.UNSUPPORTED_VERSION)
    return {"groups": [describe(call, group_id) for group_id in call.body.group_ids]}


def describe(call: Call, group_id: str) -> Fields:
    group = call.groups.machine.groups.get(group_id)
    if group is None or group.consumer is None:
        known = "not found" if group is None else "not a consumer group"
        return {
            **refused(group_id, Code.GROUP_ID_NOT_FOUND),
            "error_message": f"Group {group_id} is {known}.",
        }
    consumers = group.consumer
    return {
        "error_code": Code.NONE,
        "group_id": group_id,
        "group_state": consumers.state.value,
        "group_epoch": consumers.epoch,
        "assignment_epoch": consumers.assignment_epoch,
        "assignor_name": consumers.assignor,
        "members": [describe_member(call, consumers, member) for member in consumers.members.values()],
        "authorized_operations": NO_OPERATIONS,
    }


def describe_member(call: Call, consumers: ConsumerGroup, member: ConsumerMember) -> Fields:
    return {
        "member_id": member.member_id,
        "instance_id": member.instance_id,
        "rack_id": member.rack_id,
        "member_epoch": member.epoch,
        "client_id": member.client_id,
        "client_host": member.client_host,
        "subscribed_topic_names": tuple(sorted(member.topics)),
        "subscribed_topic_regex": member.regex or None,
        "assignment": named(call, member.assigned | member.revoking),  # what it may have still
        "target_assignment": named(call, consumers.target.get(member.member_id, NOTHING)),
        "member_type": 1 if member.classic is None else 0,
    }


def named(call: Call, partitions: Iterable[Partition]) -> Fields:
    names = call.groups.machine.consumers.topic_names
    topics = [
        {**topic, "topic_name": names[topic["topic_id"]]}
        for topic in by_topic(partitions)
        if topic["topic_id"] in names
    ]
    return {"topic_partitions": topics}


def refused(group_id: str, code: int) -> Fields:
    return {"group_id": group_id, "error_code": code, "authorized_operations": NO_OPERATIONS}


def refuse(body: Any, code: int) -> Fields:
    return {"groups": [refused(group_id, code) for group_id in body.group_ids]}

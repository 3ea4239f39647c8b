"""DescribeGroups (key 15)."""

from __future__ import annotations

from typing import Any

from penstock.devbroker.codes import Code
from penstock.devbroker.group_events import GroupState
from penstock.devbroker.group_model import Group

from . import Call, Fields
from .metadata import NO_OPERATIONS


def handle(call: Call) -> Fields:
    return {"groups": [describe(call, group_id) for group_id in call.body.groups]}


def describe(call: Call, group_id: str) -> Fields:
    group = call.groups.machine.groups.get(group_id)
    if group is None or group.consumer is not None:
        # Until version 5 an unknown group is a dead one without an error (KIP-1043). A consumer group is one that is
        # not known here: ConsumerGroupDescribe tells of it.
        code = Code.GROUP_ID_NOT_FOUND if call.version >= 6 else Code.NONE
        known = (
            f"there is no group {group_id}" if group is None else f"Group {group_id} is not a classic group."
        )
        message = known if code else None
        return {
            "group_id": group_id,
            "group_state": GroupState.DEAD.value,
            "error_code": code,
            "error_message": message,
            "authorized_operations": NO_OPERATIONS,
        }
    return {
        "group_id": group_id,
        "error_code": Code.NONE,
        "group_state": group.state.value,
        "protocol_type": group.protocol_type or "",
        "protocol_data": group.protocol_name or "",
        "members": members_of(group),
        "authorized_operations": NO_OPERATIONS,
    }


def members_of(group: Group) -> list[Fields]:
    stable = group.state is GroupState.STABLE
    return [
        {
            "member_id": member.member_id,
            "group_instance_id": member.instance_id,
            "client_id": member.client_id,
            "client_host": member.client_host,
            "member_metadata": member.metadata_for(group.protocol_name) if stable else b"",
            "member_assignment": member.assignment if stable else b"",
        }
        for member in group.members.values()
    ]


def refuse(body: Any, code: int) -> Fields:
    return {
        "groups": [
            {"group_id": group_id, "error_code": code, "authorized_operations": NO_OPERATIONS}
            for group_id in body.groups
        ]
    }

"""LeaveGroup (key 13): one member, or from version 3 on several (KIP-345)."""

from __future__ import annotations

from typing import Any

from penstock.devbroker.codes import Code
from penstock.devbroker.group_events import LeaveGroup, Left

from . import Call, Fields


async def handle(call: Call) -> Fields:
    body = call.body
    many = call.version >= 3
    members = (
        tuple((each.member_id, each.group_instance_id) for each in body.members)
        if many
        else ((body.member_id, None),)
    )
    left: Left = await call.groups.submit(lambda token: LeaveGroup(token, body.group_id, members))
    if not many:
        alone = left.members[0][2] if left.members else Code.NONE
        return {"error_code": left.code or alone}
    return {
        "error_code": left.code,
        "members": [
            {"member_id": member_id, "group_instance_id": instance_id, "error_code": code}
            for member_id, instance_id, code in left.members
        ],
    }


def refuse(body: Any, code: int) -> Fields:
    return {"error_code": code}

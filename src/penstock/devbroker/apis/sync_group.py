"""SyncGroup (key 14): parked until the leader has sent the assignment."""

from __future__ import annotations

from typing import Any

from penstock.devbroker.group_events import Synced, SyncGroup

from . import Call, Fields


async def handle(call: Call) -> Fields:
    body = call.body
    synced: Synced = await call.groups.submit(
        lambda token: SyncGroup(
            token,
            body.group_id,
            body.generation_id,
            body.member_id,
            getattr(body, "group_instance_id", None),
            getattr(body, "protocol_type", None),
            getattr(body, "protocol_name", None),
            tuple((each.member_id, bytes(each.assignment)) for each in body.assignments),
        )
    )
    return {
        "error_code": synced.code,
        "protocol_type": synced.protocol_type,
        "protocol_name": synced.protocol_name,
        "assignment": synced.assignment,
    }


def refuse(body: Any, code: int) -> Fields:
    return {"error_code": code}

"""Heartbeat (key 12)."""

from __future__ import annotations

from typing import Any

from penstock.devbroker.group_events import Answered, Heartbeat

from . import Call, Fields


async def handle(call: Call) -> Fields:
    body = call.body
    answered: Answered = await call.groups.submit(
        lambda token: Heartbeat(
            token, body.group_id, body.generation_id, body.member_id, getattr(body, "group_instance_id", None)
        )
    )
    return {"error_code": answered.code}


def refuse(body: Any, code: int) -> Fields:
    return {"error_code": code}

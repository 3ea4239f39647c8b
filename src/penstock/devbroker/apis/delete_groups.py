"""DeleteGroups (key 42): groups without members, with their offsets (KIP-229)."""

from __future__ import annotations

from typing import Any

from penstock.devbroker.group_events import Answered, DeleteGroup

from . import Call, Fields


async def handle(call: Call) -> Fields:
    return {"results": [await delete(call, group_id) for group_id in call.body.groups_names]}


async def delete(call: Call, group_id: str) -> Fields:
    answered: Answered = await call.groups.submit(lambda token: DeleteGroup(token, group_id))
    return {"group_id": group_id, "error_code": answered.code}


def refuse(body: Any, code: int) -> Fields:
    return {"results": [{"group_id": group_id, "error_code": code} for group_id in body.groups_names]}

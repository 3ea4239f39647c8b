"""ListGroups (key 16), with filters by state (KIP-518) and type (KIP-848)."""

from __future__ import annotations

from typing import Any

from penstock.devbroker.codes import Code

from . import Call, Fields


def handle(call: Call) -> Fields:
    states = {state.lower() for state in getattr(call.body, "states_filter", ())}
    types = {kind.lower() for kind in getattr(call.body, "types_filter", ())}
    groups: list[Fields] = []
    if not types or "classic" in types:
        groups = [
            {
                "group_id": group.group_id,
                "protocol_type": group.protocol_type or "",
                "group_state": group.state.value,
                "group_type": "classic",
            }
            for group in call.groups.machine.groups.values()
            if not states or group.state.value.lower() in states
        ]
    return {"error_code": Code.NONE, "groups": groups}


def refuse(body: Any, code: int) -> Fields:
    return {"error_code": code}

"""ListGroups (key 16), with filters by state (KIP-518) and type (KIP-848)."""

from __future__ import annotations

from typing import Any

from penstock.devbroker.codes import Code

from . import Call, Fields


def handle(call: Call) -> Fields:
    states = {state.lower() for state in getattr(call.body, "states_filter", ())}
    types = {kind.lower() for kind in getattr(call.body, "types_filter", ())}
    groups: list[Fields] = []
    for group in call.groups.machine.groups.values():
        kind = "classic" if group.consumer is None else "consumer"
        state = group.state.value if group.consumer is None else group.consumer.state.value
        if (not types or kind in types) and (not states or state.lower() in states):
            groups.append(
                {
                    "group_id": group.group_id,
                    "protocol_type": (group.protocol_type or "") if group.consumer is None else "consumer",
                    "group_state": state,
                    "group_type": kind,
                }
            )
    return {"error_code": Code.NONE, "groups": groups}


def refuse(body: Any, code: int) -> Fields:
    return {"error_code": code}

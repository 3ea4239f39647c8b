"""JoinGroup (key 11): parked until the group has a new generation."""

from __future__ import annotations

from typing import Any

from penstock.devbroker.group_events import Joined, JoinGroup
from penstock.devbroker.wire import milliseconds

from . import Call, Fields


async def handle(call: Call) -> Fields:
    body, request = call.body, call.request
    session_timeout_ms = milliseconds(body.session_timeout)
    # Version 0 has no rebalance timeout: the session's serves for both (KIP-62).
    rebalance = getattr(body, "rebalance_timeout", None)
    joined: Joined = await call.groups.submit(
        lambda token: JoinGroup(
            token,
            body.group_id,
            body.member_id,
            getattr(body, "group_instance_id", None),
            request.client_id,
            f"/{call.connection.peer_host}",
            session_timeout_ms,
            session_timeout_ms if rebalance is None else milliseconds(rebalance),
            body.protocol_type,
            tuple((each.name, bytes(each.metadata)) for each in body.protocols),
            member_id_required=call.version >= 4,
            may_skip_assignment=call.version >= 9,
        )
    )
    return {
        "error_code": joined.code,
        "generation_id": joined.generation,
        "protocol_type": joined.protocol_type,
        # Null only from version 7 on.
        "protocol_name": joined.protocol_name or (None if call.version >= 7 else ""),
        "leader": joined.leader,
        "skip_assignment": joined.skip_assignment,
        "member_id": joined.member_id,
        "members": [
            {"member_id": member_id, "group_instance_id": instance_id, "metadata": metadata}
            for member_id, instance_id, metadata in joined.members
        ],
    }


def refuse(body: Any, code: int) -> Fields:
    name = None if body.__version__ >= 7 else ""
    return {"error_code": code, "member_id": body.member_id, "protocol_name": name}

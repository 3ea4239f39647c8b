"""The classic protocol's requests: what the machine's effects mean on the wire, and what the answers mean to it."""

from __future__ import annotations

from typing import Any

from ..group import messages as g
from ..protocol import Api
from .client import COORDINATOR, ClusterClient
from .coordinator import GroupCoordinator

_PROTOCOL_TYPE = "consumer"
_GRACE_MS = 5_000  # beyond the time for which a broker may hold a request


async def join(coordinator: GroupCoordinator, effect: g.SendJoin) -> g.Event:
    response = await coordinator.request(
        Api.JOIN_GROUP,
        purpose=COORDINATOR,
        timeout_ms=effect.rebalance_timeout_ms + _GRACE_MS,  # the broker holds it until all have joined
        group_id=coordinator.group_id,
        session_timeout=effect.session_timeout_ms,
        rebalance_timeout=effect.rebalance_timeout_ms,
        member_id=effect.member_id,
        group_instance_id=effect.group_instance_id,
        protocol_type=_PROTOCOL_TYPE,
        protocols=[{"name": name, "metadata": metadata} for name, metadata in effect.protocols],
        reason=effect.reason,
    )
    return g.JoinAnswered(
        int(response.error_code),
        int(response.generation_id),
        response.protocol_name or "",
        response.leader,
        response.member_id,
        tuple(
            g.JoinedMember(m.member_id, getattr(m, "group_instance_id", None), m.metadata)
            for m in response.members
        ),
        bool(getattr(response, "skip_assignment", False)),
    )


async def sync(coordinator: GroupCoordinator, effect: g.SendSync, held_for_ms: int) -> g.Event:
    response = await coordinator.request(
        Api.SYNC_GROUP,
        purpose=COORDINATOR,
        timeout_ms=held_for_ms + _GRACE_MS,  # the broker holds it until the leader's has come
        group_id=coordinator.group_id,
        generation_id=effect.generation_id,
        member_id=effect.member_id,
        group_instance_id=effect.group_instance_id,
        protocol_type=_PROTOCOL_TYPE,
        protocol_name=effect.protocol_name,
        assignments=[{"member_id": member, "assignment": data} for member, data in effect.assignments],
    )
    return g.SyncAnswered(
        int(response.error_code), getattr(response, "protocol_name", None), bytes(response.assignment)
    )


def heartbeat(group_id: str, effect: g.KeepHeartbeating) -> dict[str, Any]:
    """The fields of the request that the connection repeats."""
    return {
        "group_id": group_id,
        "generation_id": effect.generation_id,
        "member_id": effect.member_id,
        "group_instance_id": effect.group_instance_id,
    }


async def leave(client: ClusterClient, coordinator: GroupCoordinator, effect: g.SendLeave) -> g.Event:
    # not over the coordinator's own connection: a JoinGroup may be held there for minutes
    response = await client.request(
        Api.LEAVE_GROUP,
        node_id=await coordinator.find(),
        timeout_ms=_GRACE_MS,
        group_id=coordinator.group_id,
        member_id=effect.member_id,
        members=[
            {
                "member_id": effect.member_id,
                "group_instance_id": effect.group_instance_id,
                "reason": effect.reason,
            }
        ],
    )
    return g.LeaveAnswered(int(response.error_code))

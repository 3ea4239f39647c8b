"""ConsumerGroupHeartbeat (key 68): all of the membership of a consumer group in one request (KIP-848)."""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from itertools import groupby
from typing import Any

from penstock.devbroker.codes import Code
from penstock.devbroker.consumer_assignors import Partition
from penstock.devbroker.group_events import ConsumerHeartbeat, HeartbeatAnswered
from penstock.devbroker.wire import milliseconds

from . import CONSUMER_GROUP_APIS, Call, Fields


async def handle(call: Call) -> Fields:
    body, request = call.body, call.request
    if not any(api.key in CONSUMER_GROUP_APIS for api in call.served):
        return refuse(body, Code.UNSUPPORTED_VERSION)
    topics, owned = body.subscribed_topic_names, body.topic_partitions
    answered: HeartbeatAnswered = await call.groups.submit(
        lambda token: ConsumerHeartbeat(
            token,
            body.group_id,
            body.member_id,
            body.member_epoch,
            body.instance_id,
            body.rack_id,
            milliseconds(body.rebalance_timeout),
            None if topics is None else frozenset(topics),
            getattr(body, "subscribed_topic_regex", None),  # from version 1 on
            body.server_assignor,
            None
            if owned is None
            else frozenset((each.topic_id, number) for each in owned for number in each.partitions),
            request.client_id,
            f"/{call.connection.peer_host}",
            call.version,
        )
    )
    assigned = answered.assignment
    return {
        "error_code": answered.code,
        "error_message": answered.message,
        "member_id": answered.member_id or None,  # null with an error, as from Kafka
        "member_epoch": answered.member_epoch,
        "heartbeat_interval": answered.heartbeat_interval_ms,
        "assignment": None if assigned is None else {"topic_partitions": by_topic(assigned)},
    }


def by_topic(partitions: Iterable[Partition]) -> list[Fields]:
    def key(partition: Partition) -> str:
        return str(partition[0])

    groups: Iterable[tuple[str, Iterable[Partition]]] = groupby(sorted(partitions, key=key), key)
    found: list[Fields] = []
    for _, each in groups:
        same = sorted(each, key=lambda partition: partition[1])
        topic_id: Hashable = same[0][0]
        found.append({"topic_id": topic_id, "partitions": tuple(number for _, number in same)})
    return found


def refuse(body: Any, code: int) -> Fields:
    return {"error_code": code}

"""FindCoordinator (key 10): this broker is the coordinator of everything it knows (KIP-699)."""

from __future__ import annotations

from typing import Any

from penstock.devbroker.cluster import NODE_ID
from penstock.devbroker.codes import Code

from . import Call, Fields

GROUP, TRANSACTION = 0, 1


def handle(call: Call) -> Fields:
    body = call.body
    host, port = call.server.advertised
    known = getattr(body, "key_type", GROUP) in (GROUP, TRANSACTION)
    if not known:
        return refuse(body, Code.INVALID_REQUEST)
    node = {"node_id": NODE_ID, "host": host, "port": port, "error_code": Code.NONE, "error_message": None}
    return {**node, "coordinators": [{**node, "key": key} for key in keys_of(body)]}


def keys_of(body: Any) -> tuple[str, ...]:
    return body.coordinator_keys if hasattr(body, "coordinator_keys") else (body.key,)


def refuse(body: Any, code: int) -> Fields:
    node = {"node_id": -1, "host": "", "port": -1, "error_code": code, "error_message": None}
    return {**node, "coordinators": [{**node, "key": key} for key in keys_of(body)]}

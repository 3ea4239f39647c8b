"""DescribeCluster (key 60, KIP-700, KIP-919)."""

from __future__ import annotations

from typing import Any

from penstock.devbroker.cluster import NODE_ID
from penstock.devbroker.codes import Code

from . import Call, Fields
from .metadata import NO_OPERATIONS

BROKERS = 1


def handle(call: Call) -> Fields:
    if getattr(call.body, "endpoint_type", BROKERS) != BROKERS:
        return refuse(call.body, Code.UNSUPPORTED_ENDPOINT_TYPE)
    host, port = call.server.advertised
    return {
        "error_code": Code.NONE,
        "endpoint_type": BROKERS,
        "cluster_id": call.cluster.cluster_id,
        "controller_id": NODE_ID,
        "brokers": [{"broker_id": NODE_ID, "host": host, "port": port, "rack": None, "is_fenced": False}],
        "cluster_authorized_operations": NO_OPERATIONS,
    }


def refuse(body: Any, code: int) -> Fields:
    return {"error_code": code, "cluster_authorized_operations": NO_OPERATIONS}

"""InitProducerId (key 22): an id for an idempotent producer (KIP-98)."""

from __future__ import annotations

from typing import Any

from penstock.devbroker.codes import Code

from . import Call, Fields


def handle(call: Call) -> Fields:
    if call.body.transactional_id is not None:
        return refuse(call.body, Code.COORDINATOR_NOT_AVAILABLE)
    return {"error_code": Code.NONE, "producer_id": call.cluster.new_producer_id(), "producer_epoch": 0}


def refuse(body: Any, code: int) -> Fields:
    return {"error_code": code, "producer_id": -1, "producer_epoch": -1}

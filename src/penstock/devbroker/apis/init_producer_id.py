"""InitProducerId (key 22): an id for an idempotent or transactional producer (KIP-98, KIP-360)."""

from __future__ import annotations

from typing import Any

from penstock.devbroker.codes import Code
from penstock.devbroker.wire import milliseconds

from . import Call, Fields


def handle(call: Call) -> Fields:
    body = call.body
    if body.transactional_id is not None:
        code, producer_id, epoch = call.transactions.init(
            body.transactional_id,
            milliseconds(body.transaction_timeout),
            getattr(body, "producer_id", -1),
            getattr(body, "producer_epoch", -1),
        )
        if code is Code.PRODUCER_FENCED and call.version < 4:
            code = Code.INVALID_PRODUCER_EPOCH  # the newer code came with version 4 (KIP-588)
        return {"error_code": code, "producer_id": producer_id, "producer_epoch": epoch}
    return {"error_code": Code.NONE, "producer_id": call.cluster.new_producer_id(), "producer_epoch": 0}


def refuse(body: Any, code: int) -> Fields:
    return {"error_code": code, "producer_id": -1, "producer_epoch": -1}

"""EndTxn (key 26): commit or abort (KIP-98); from version 5 on with the next transaction's epoch in the answer (KIP-890)."""

from __future__ import annotations

from typing import Any

from penstock.devbroker.codes import Code

from . import Call, Fields


def handle(call: Call) -> Fields:
    body = call.body
    arguments = (body.transactional_id, body.producer_id, body.producer_epoch, body.committed)
    if call.version >= 5:
        code, producer_id, epoch = call.transactions.end_and_go_on(*arguments)
        return {"error_code": code, "producer_id": producer_id, "producer_epoch": epoch}
    code = call.transactions.end(*arguments)
    if code is Code.PRODUCER_FENCED and call.version < 2:
        code = Code.INVALID_PRODUCER_EPOCH  # the newer code came with version 2 (KIP-588)
    return {"error_code": code}


def refuse(body: Any, code: int) -> Fields:
    return {"error_code": code}

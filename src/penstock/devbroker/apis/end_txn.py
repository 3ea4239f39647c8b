"""EndTxn (key 26): commit or abort (KIP-98)."""

from __future__ import annotations

from typing import Any

from penstock.devbroker.codes import Code

from . import Call, Fields


def handle(call: Call) -> Fields:
    body = call.body
    code = call.transactions.end(body.transactional_id, body.producer_id, body.producer_epoch, body.committed)
    if code is Code.PRODUCER_FENCED and call.version < 2:
        code = Code.INVALID_PRODUCER_EPOCH  # the newer code came with version 2 (KIP-588)
    return {"error_code": code}


def refuse(body: Any, code: int) -> Fields:
    return {"error_code": code}

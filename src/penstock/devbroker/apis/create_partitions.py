"""CreatePartitions (key 37, KIP-195)."""

from __future__ import annotations

from typing import Any

from penstock.devbroker.codes import Code, RequestRefused

from . import Call, Fields


def handle(call: Call) -> Fields:
    return {"results": [grow(call, topic) for topic in call.body.topics]}


def grow(call: Call, asked: Any) -> Fields:
    try:
        call.cluster.add_partitions(asked.name, asked.count, dry=call.body.validate_only)
    except RequestRefused as error:
        return {"name": asked.name, "error_code": error.code, "error_message": error.message}
    return {"name": asked.name, "error_code": Code.NONE}


def refuse(body: Any, code: int) -> Fields:
    return {"results": [{"name": topic.name, "error_code": code} for topic in body.topics]}

"""TxnOffsetCommit (key 28): offsets that count when the transaction commits (KIP-98, KIP-447)."""

from __future__ import annotations

from typing import Any

from penstock.devbroker.codes import Code
from penstock.devbroker.group_events import Answered, CommitOffsets
from penstock.devbroker.wire import refused_topics

from . import Call, Fields
from .offset_commit import answer, gather


async def handle(call: Call) -> Fields:
    body = call.body
    if call.version >= 5:  # the offsets themselves take their group into the transaction (KIP-890)
        call.transactions.take_in(
            body.transactional_id, body.producer_id, body.producer_epoch, group_id=body.group_id
        )
    code = call.transactions.machine.may_commit_offsets(
        body.transactional_id, body.producer_id, body.producer_epoch, body.group_id
    )
    if code is not Code.NONE:
        return refuse(body, code)
    offsets, unknown = gather(call)
    answered: Answered = await call.groups.submit(
        lambda token: CommitOffsets(
            token,
            body.group_id,
            getattr(body, "generation_id", -1),
            getattr(body, "member_id", ""),
            getattr(body, "group_instance_id", None),
            offsets,
            producer_id=body.producer_id,
        )
    )
    return answer(call, answered, unknown)


def refuse(body: Any, code: int) -> Fields:
    return {"topics": refused_topics(body.topics, "partitions", "partition_index", code)}

"""DeleteTopics (key 20): by name, or from version 6 on by id (KIP-516)."""

from __future__ import annotations

from typing import Any, NamedTuple
from uuid import UUID

from penstock.devbroker.codes import Code, RequestRefused

from . import Call, Fields


class Named(NamedTuple):
    name: str | None
    topic_id: UUID | None


def asked_of(body: Any) -> list[Named]:
    if hasattr(body, "topic_names"):
        return [Named(name, None) for name in body.topic_names]
    return [Named(each.name, each.topic_id) for each in body.topics]


def handle(call: Call) -> Fields:
    return {"responses": [delete(call, each) for each in asked_of(call.body)]}


def delete(call: Call, asked: Named) -> Fields:
    try:
        topic = call.cluster.topic(asked.name, asked.topic_id)
    except RequestRefused as error:
        return {**asked._asdict(), "error_code": error.code, "error_message": error.message}
    call.cluster.delete_topic(topic)
    return {"name": topic.name, "topic_id": topic.id, "error_code": Code.NONE}


def refuse(body: Any, code: int) -> Fields:
    return {"responses": [{**each._asdict(), "error_code": code} for each in asked_of(body)]}

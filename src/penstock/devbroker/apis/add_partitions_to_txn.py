"""AddPartitionsToTxn (key 24): what a transaction writes to (KIP-98)."""

from __future__ import annotations

from typing import Any

from penstock.devbroker.codes import Code, RequestRefused
from penstock.types import TopicPartition

from . import Call, Fields


def handle(call: Call) -> Fields:
    body = call.body
    named = [
        TopicPartition(topic.name, index) for topic in body.v3_and_below_topics for index in topic.partitions
    ]
    unknown = {each for each in named if not known(call, each)}
    if unknown:
        # All or nothing: what would have worked is answered as not tried.
        return answer(
            body,
            lambda each: Code.UNKNOWN_TOPIC_OR_PARTITION if each in unknown else Code.OPERATION_NOT_ATTEMPTED,
        )
    code = call.transactions.add(
        body.v3_and_below_transactional_id,
        body.v3_and_below_producer_id,
        body.v3_and_below_producer_epoch,
        named,
    )
    if code is Code.PRODUCER_FENCED and call.version < 2:
        code = Code.INVALID_PRODUCER_EPOCH  # the newer code came with version 2 (KIP-588)
    return answer(body, lambda each: code)


def known(call: Call, partition: TopicPartition) -> bool:
    try:
        call.cluster.log(call.cluster.topic(partition.topic), partition.partition)
    except RequestRefused:
        return False
    return True


def answer(body: Any, code_of: Any) -> Fields:
    return {
        "results_by_topic_v3_and_below": [
            {
                "name": topic.name,
                "results_by_partition": [
                    {
                        "partition_index": index,
                        "partition_error_code": code_of(TopicPartition(topic.name, index)),
                    }
                    for index in topic.partitions
                ],
            }
            for topic in body.v3_and_below_topics
        ]
    }


def refuse(body: Any, code: int) -> Fields:
    return answer(body, lambda each: code)

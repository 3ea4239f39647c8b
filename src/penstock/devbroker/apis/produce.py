"""Produce (key 0): store batches (KIP-98 for idempotent producers, KIP-516 for topic ids)."""

from __future__ import annotations

import logging
import time
from typing import Any

from penstock.devbroker import batches
from penstock.devbroker.codes import Code, RequestRefused
from penstock.devbroker.wire import refused_topics, topic_key
from penstock.types import TopicPartition

from . import Call, Fields

log = logging.getLogger("penstock.devbroker")
NO_OFFSET: Fields = {"base_offset": -1, "log_append_time": -1, "log_start_offset": -1}
ZSTD = batches.CODECS.index("zstd")


def handle(call: Call) -> Fields | None:
    body = call.body
    if body.acks not in (-1, 0, 1):
        return refuse(body, Code.INVALID_REQUIRED_ACKS)
    now_ms = time.time_ns() // 1_000_000
    responses: list[Fields] = []
    failed = False
    for topic in body.topic_data:
        results: list[Fields] = []
        for partition in topic.partition_data:
            result = store(call, topic, partition, now_ms)
            failed = failed or result["error_code"] != Code.NONE
            results.append(result)
        responses.append({**topic_key(topic), "partition_responses": results})
    if body.acks == 0:
        # Nobody waits for an answer: closing the connection is how Kafka tells such a producer that something failed.
        if failed:
            call.connection.close("a produce request with acks=0 failed")
        return None
    return {"responses": responses}


def store(call: Call, topic: Any, partition: Any, now_ms: int) -> Fields:
    index, data = partition.index, partition.records
    try:
        found = call.cluster.named(topic)
        target = call.cluster.log(found, index)
        if not data:
            raise RequestRefused(Code.INVALID_RECORD, "no record batch")
        check_request(call, TopicPartition(found.name, index), data)
        appended = target.append(data, now_ms)
    except RequestRefused as error:
        log.info("produce to partition %d of %s refused: %s", index, topic_key(topic), error.message)
        return {**NO_OFFSET, "index": index, "error_code": error.code, "error_message": error.message}
    except OSError as error:
        log.error("produce to partition %d of %s failed: %s", index, topic_key(topic), error)
        message = f"the broker's storage: {error.strerror}"
        return {**NO_OFFSET, "index": index, "error_code": Code.KAFKA_STORAGE_ERROR, "error_message": message}
    return {
        "index": index,
        "error_code": Code.NONE,
        "base_offset": appended.base_offset,
        "log_append_time": appended.timestamp,
        "log_start_offset": target.start_offset,
    }


def check_request(call: Call, partition: TopicPartition, data: bytes) -> None:
    """What depends on more than the log: the request's version, and the transaction. Raises RequestRefused."""
    if len(data) < batches.HEADER_BYTES:
        return  # the log says what is wrong with it
    header = batches.read_header(data)
    if call.version < 7 and header.codec == ZSTD:
        raise RequestRefused(Code.UNSUPPORTED_COMPRESSION_TYPE, "zstd needs Produce version 7 (KIP-110)")
    if header.is_transactional:
        if call.version >= 12:  # the batch itself takes its partition into the transaction (KIP-890)
            call.transactions.take_in(
                call.body.transactional_id, header.producer_id, header.producer_epoch, [partition]
            )
        code = call.transactions.machine.may_write(header.producer_id, header.producer_epoch, partition)
        if code is not Code.NONE:
            raise RequestRefused(
                code,
                f"producer {header.producer_id} epoch {header.producer_epoch} has no open transaction with {partition}",
            )


def refuse(body: Any, code: int) -> Fields:
    responses = refused_topics(
        body.topic_data, "partition_data", "index", code, "partition_responses", **NO_OFFSET
    )
    return {"responses": responses}

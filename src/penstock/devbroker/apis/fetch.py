"""Fetch (key 1): stored batches as they are, waiting for more if there are too few (KIP-74, KIP-98, KIP-227, KIP-320).

No fetch session is ever made: the answer's session id 0 says so, and each request then names all its partitions.
"""

from __future__ import annotations

import asyncio
from typing import Any

from penstock.devbroker.codes import Code, RequestRefused
from penstock.devbroker.log import PartitionLog
from penstock.devbroker.wire import milliseconds, refused_topics, topic_key

from . import Call, Fields

NO_RECORDS: Fields = {
    "high_watermark": -1,
    "last_stable_offset": -1,
    "log_start_offset": -1,
    "aborted_transactions": None,
    "records": b"",
}


async def handle(call: Call) -> Fields:
    body = call.body
    if getattr(body, "session_id", 0) != 0:
        return {"error_code": Code.FETCH_SESSION_ID_NOT_FOUND}
    logs = find_logs(call)
    if not enough(body, logs):
        await wait_for_more(body, logs)
    budget = body.max_bytes
    first = True
    responses: list[Fields] = []
    for topic in body.topics:
        results: list[Fields] = []
        for partition in topic.partitions:
            result = read(call, topic, partition, budget, first)
            size = len(result["records"])
            budget -= size
            first = first and size == 0
            results.append(result)
        responses.append({**topic_key(topic), "partitions": results})
    return {"responses": responses}


def find_logs(call: Call) -> list[tuple[PartitionLog, int]] | None:
    """The logs and the offsets asked for; None when anything is wrong, which must be said at once."""
    found: list[tuple[PartitionLog, int]] = []
    try:
        for topic in call.body.topics:
            named = call.cluster.named(topic)
            for partition in topic.partitions:
                log = call.cluster.log(named, partition.partition)
                check_epoch(log, partition)
                if diverging(log, partition) is not None:
                    return None
                if not log.start_offset <= partition.fetch_offset <= log.end_offset:
                    return None
                found.append((log, partition.fetch_offset))
    except RequestRefused:
        return None
    return found


def limit_of(body: Any, log: PartitionLog) -> int:
    return log.last_stable_offset if body.isolation_level == 1 else log.high_watermark


def enough(body: Any, logs: list[tuple[PartitionLog, int]] | None) -> bool:
    if logs is None or body.min_bytes <= 0:
        return True
    if any(log.deleted for log, _ in logs):
        return True
    total = 0
    for log, offset in logs:
        total += log.available_bytes(offset, limit_of(body, log))
        if total >= body.min_bytes:
            return True
    return False


async def wait_for_more(body: Any, logs: list[tuple[PartitionLog, int]] | None) -> None:
    """Until min_bytes are there or max_wait is over. Cancelled when the client hangs up."""
    assert logs is not None
    loop = asyncio.get_running_loop()
    deadline = loop.time() + max(milliseconds(body.max_wait), 0) / 1000
    grown = asyncio.Event()
    for log, _ in logs:
        log.watchers.add(grown.set)
    try:
        while not enough(body, logs):
            grown.clear()
            async with asyncio.timeout_at(deadline):
                await grown.wait()
    except TimeoutError:
        pass
    finally:
        for log, _ in logs:
            log.watchers.discard(grown.set)


def check_epoch(log: PartitionLog, partition: Any) -> None:
    """KIP-320: a reader with another idea of who leads is told so."""
    asked = getattr(partition, "current_leader_epoch", -1)
    if asked < 0 or asked == log.leader_epoch:
        return
    code = Code.FENCED_LEADER_EPOCH if asked < log.leader_epoch else Code.UNKNOWN_LEADER_EPOCH
    raise RequestRefused(code, f"{log.name} has leader epoch {log.leader_epoch}, the request {asked}")


def diverging(log: PartitionLog, partition: Any) -> Fields | None:
    """KIP-595: from version 12 on the last fetched epoch tells whether the reader's history is the log's. Raises RequestRefused."""
    last = getattr(partition, "last_fetched_epoch", -1)
    if last < 0:
        return None
    epoch, end = log.end_of_epoch(last)
    if epoch < 0:
        raise RequestRefused(Code.OFFSET_OUT_OF_RANGE, f"{log.name} never had leader epoch {last}")
    if epoch < last or end < partition.fetch_offset:
        return {"epoch": epoch, "end_offset": end}
    return None


def read(call: Call, topic: Any, partition: Any, budget: int, first: bool) -> Fields:
    index = partition.partition
    try:
        log = call.cluster.log(call.cluster.named(topic), index)
        check_epoch(log, partition)
        common = {
            "partition_index": index,
            "error_code": Code.NONE,
            "high_watermark": log.high_watermark,
            "last_stable_offset": log.last_stable_offset,
            "log_start_offset": log.start_offset,
            "aborted_transactions": None,
        }
        fork = diverging(log, partition)
        if fork is not None:
            return {**common, "records": b"", "diverging_epoch": fork}
        limit = limit_of(call.body, log)
        # KIP-74: the first partition with data gives at least one batch, whatever the limits say.
        most = min(partition.partition_max_bytes, budget)
        records = log.read(partition.fetch_offset, most, limit, first)
    except RequestRefused as error:
        return {**NO_RECORDS, "partition_index": index, "error_code": error.code}
    if call.body.isolation_level == 1:
        common["aborted_transactions"] = [
            {"producer_id": each.producer_id, "first_offset": each.first_offset}
            for each in log.aborted_in(partition.fetch_offset, limit)
        ]
    return {**common, "records": records}


def refuse(body: Any, code: int) -> Fields:
    answer: dict[str, Any] = {"error_code": code}
    if body.__version__ < 7:  # before that the response has no code of its own
        answer["responses"] = refused_topics(body.topics, "partitions", "partition", code, **NO_RECORDS)
    return answer

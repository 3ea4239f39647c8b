"""ListOffsets: the offsets at the ends of partitions, or at a time, asked of each partition's leader."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import defaultdict
from collections.abc import AsyncGenerator, Coroutine, Mapping
from contextlib import aclosing
from typing import Any, Final

from ..errors import KafkaError
from ..protocol import Api, error_for, is_retriable
from ..types import OffsetAndTimestamp, TopicPartition
from .backoff import Backoff
from .client import ClusterClient
from .connection import DisconnectedError

_log = logging.getLogger("penstock.engine.list_offsets")

LATEST: Final = -1
EARLIEST: Final = -2


Answer = OffsetAndTimestamp | None | KafkaError
"""None: no record is that young. An error: no retry mends it."""


async def list_offsets(
    client: ClusterClient, queries: Mapping[TopicPartition, int], *, isolation_level: int
) -> dict[TopicPartition, OffsetAndTimestamp | None]:
    """For each partition the offset at a timestamp (ms; -1 latest, -2 earliest); None where no record is that young.

    Retries with fresh metadata while leaders move, until the caller's time is over. BrokerError for what no retry mends.
    """
    found: dict[TopicPartition, OffsetAndTimestamp | None] = {}
    async with aclosing(each_offset(client, queries, isolation_level=isolation_level)) as answers:
        async for tp, answer in answers:
            if isinstance(answer, KafkaError):
                raise answer
            found[tp] = answer
    return found


async def each_offset(
    client: ClusterClient, queries: Mapping[TopicPartition, int], *, isolation_level: int
) -> AsyncGenerator[tuple[TopicPartition, Answer], None]:
    """The answers as they come, one for each query. One request is under way per leader; a partition without a leader, or whose leader
    does not answer, keeps no other waiting."""
    client.add_interest({tp.topic for tp in queries})
    backoff = client.retry_backoff()
    to_ask = dict(queries)
    under_way: dict[asyncio.Task[dict[TopicPartition, Answer] | None], dict[TopicPartition, int]] = {}

    def start(
        work: Coroutine[Any, Any, dict[TopicPartition, Answer] | None], about: dict[TopicPartition, int]
    ) -> None:
        under_way[client.engine.loop.create_task(work, name="ListOffsets")] = about

    try:
        while to_ask or under_way:
            for tp in [tp for tp in to_ask if not _may_exist(client, tp)]:
                del to_ask[tp]
                yield tp, no_such_partition(client, tp)
            for node_id, part in _by_leader(client, to_ask).items():
                start(
                    _ask(client, node_id, part, isolation_level)
                    if node_id >= 0
                    else _rest(client, backoff, part),
                    part,
                )
            to_ask = {}
            if not under_way:
                break
            done, _ = await asyncio.wait(under_way, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                part, found = under_way.pop(task), task.result()
                if found is None:  # rested
                    to_ask.update(part)
                    continue
                again = {tp: timestamp for tp, timestamp in part.items() if tp not in found}
                if again:
                    start(_rest(client, backoff, again), again)
                for answered in found.items():
                    yield answered
    finally:
        for task in under_way:
            task.cancel()


def _by_leader(
    client: ClusterClient, queries: Mapping[TopicPartition, int]
) -> dict[int, dict[TopicPartition, int]]:
    by_leader: dict[int, dict[TopicPartition, int]] = defaultdict(dict)
    for tp, timestamp in queries.items():
        by_leader[client.snapshot.leader(*tp)[0]][tp] = timestamp
    return by_leader


def _may_exist(client: ClusterClient, tp: TopicPartition) -> bool:
    """A partition that a known topic does not have will not come by waiting for it."""
    topic = client.snapshot.topics.get(tp.topic)
    return topic is None or not topic.partitions or tp.partition in topic.partitions


def no_such_partition(client: ClusterClient, tp: TopicPartition) -> KafkaError:
    """What poll() and ListOffsets say of a partition that its topic, which is known, does not have."""
    count = len(client.snapshot.topics[tp.topic].partitions)
    return error_for(3, f"{tp} does not exist: topic {tp.topic!r} has {count} partitions, 0 to {count - 1}")


async def _rest(client: ClusterClient, backoff: Backoff, queries: Mapping[TopicPartition, int]) -> None:
    """Before these are asked again: fresh metadata, at once where it names a leader for one that had none, else after a backoff."""
    had_none = [tp for tp in queries if client.snapshot.leader(*tp)[0] < 0]
    client.want_update()
    if len(had_none) < len(queries):
        await asyncio.sleep(backoff.next_ms() / 1000)
        return
    await client.updated()  # nothing can be asked: wait for news, not for a clock
    with contextlib.suppress(TimeoutError):
        # The first answer to a client that has just been made was asked for before it had topics; the next is close behind.
        async with asyncio.timeout(backoff.next_ms() / 1000):
            while all(client.snapshot.leader(*tp)[0] < 0 for tp in had_none):
                await client.updated()


async def _ask(
    client: ClusterClient, node_id: int, queries: Mapping[TopicPartition, int], isolation_level: int
) -> dict[TopicPartition, Answer]:
    """One request to a leader. What another try may answer is left out."""
    topics: dict[str, list[dict[str, int]]] = defaultdict(list)
    for tp, timestamp in queries.items():
        epoch = client.snapshot.leader(*tp)[1]
        topics[tp.topic].append(
            {"partition_index": tp.partition, "timestamp": timestamp, "current_leader_epoch": epoch}
        )
    try:
        response = await client.request(
            Api.LIST_OFFSETS,
            node_id=node_id,
            replica_id=-1,
            isolation_level=isolation_level,
            topics=[{"name": name, "partitions": partitions} for name, partitions in topics.items()],
        )
    except DisconnectedError as error:
        _log.debug("ListOffsets from node %d: %s", node_id, error)
        return {}
    except KafkaError as error:
        return dict.fromkeys(queries, error)
    found: dict[TopicPartition, Answer] = {}
    for topic in response.topics:
        for p in topic.partitions:
            tp = TopicPartition(str(topic.name), int(p.partition_index))
            code = int(p.error_code)
            if code == 0:
                offset = int(p.offset)
                found[tp] = (
                    None
                    if offset < 0
                    else OffsetAndTimestamp(offset, int(p.timestamp), int(getattr(p, "leader_epoch", -1)))
                )
            elif not is_retriable(code):
                found[tp] = error_for(code, f"asking for the offsets of {tp}")
    return found

"""ListOffsets: the offsets at the ends of partitions, or at a time, asked of each partition's leader."""

from __future__ import annotations

import asyncio
import logging
from collections import defaultdict
from collections.abc import Mapping
from typing import Final

from ..protocol import Api, error_for, is_retriable
from ..types import OffsetAndTimestamp, TopicPartition
from .client import ClusterClient
from .connection import DisconnectedError

_log = logging.getLogger("penstock.engine.list_offsets")

LATEST: Final = -1
EARLIEST: Final = -2


async def list_offsets(
    client: ClusterClient, queries: Mapping[TopicPartition, int], *, isolation_level: int
) -> dict[TopicPartition, OffsetAndTimestamp | None]:
    """For each partition the offset at a timestamp (ms; -1 latest, -2 earliest); None where no record is that young.

    Retries with fresh metadata while leaders move, until the caller's time is over. BrokerError for what no retry mends.
    """
    found: dict[TopicPartition, OffsetAndTimestamp | None] = {}
    missing = dict(queries)
    backoff = client.retry_backoff()
    client.add_interest({tp.topic for tp in queries})
    while missing:
        by_leader: dict[int, dict[TopicPartition, int]] = defaultdict(dict)
        for tp, timestamp in missing.items():
            _check_exists(client, tp)
            by_leader[client.snapshot.leader(*tp)[0]][tp] = timestamp
        leaderless = by_leader.pop(-1, {})
        answers = await asyncio.gather(
            *(_ask(client, node, part, isolation_level) for node, part in by_leader.items())
        )
        for answer in answers:
            found.update(answer)
        missing = {tp: timestamp for tp, timestamp in missing.items() if tp not in found}
        if missing:
            client.want_update()
            if leaderless and len(leaderless) == len(missing):
                await client.updated()  # nothing was asked: wait for news, not for a clock
                if any(client.snapshot.leader(*tp)[0] >= 0 for tp in missing):
                    continue
            await asyncio.sleep(backoff.next_ms() / 1000)
    return found


def _check_exists(client: ClusterClient, tp: TopicPartition) -> None:
    """A partition that a known topic does not have will not come by waiting for it."""
    topic = client.snapshot.topics.get(tp.topic)
    if topic is not None and topic.partitions and tp.partition not in topic.partitions:
        raise error_for(
            3, f"{tp}: the topic has {len(topic.partitions)} partitions, 0 to {len(topic.partitions) - 1}"
        )


async def _ask(
    client: ClusterClient, node_id: int, queries: Mapping[TopicPartition, int], isolation_level: int
) -> dict[TopicPartition, OffsetAndTimestamp | None]:
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
    found: dict[TopicPartition, OffsetAndTimestamp | None] = {}
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
                raise error_for(code, f"asking for the offsets of {tp}")
    return found

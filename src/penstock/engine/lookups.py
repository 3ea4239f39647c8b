"""Questions about the cluster that change nothing: ends of partitions, offsets for times, topics. In the engine's thread."""

from __future__ import annotations

from ..cluster import NO_TOPIC_ID, ClusterSnapshot
from ..protocol import Api, error_for
from ..types import OffsetAndTimestamp, PartitionInfo, TopicPartition
from .client import ClusterClient
from .list_offsets import EARLIEST, LATEST, list_offsets

_UNKNOWN_TOPIC_OR_PARTITION, _LEADER_NOT_AVAILABLE = 3, 5


async def end_points(
    client: ClusterClient,
    partitions: list[TopicPartition],
    which: str,
    isolation_level: int,
    timeout_ms: float,
) -> dict[TopicPartition, int]:
    """The earliest or latest offset of each partition."""
    timestamp = EARLIEST if which == "earliest" else LATEST
    async with client.within(timeout_ms, f"asking for the {which} offsets of {len(partitions)} partitions"):
        found = await _look_up(client, dict.fromkeys(partitions, timestamp), isolation_level)
    return {tp: answer.offset if answer is not None else 0 for tp, answer in found.items()}


async def offsets_for_times(
    client: ClusterClient, timestamps: dict[TopicPartition, int], isolation_level: int, timeout_ms: float
) -> dict[TopicPartition, OffsetAndTimestamp | None]:
    """The first offset of each partition whose timestamp is not below the one given; None where there is none."""
    for tp, timestamp in timestamps.items():
        if timestamp < 0:
            raise ValueError(f"a timestamp is ms since 1970, from 0 on; got {timestamp} for {tp}")
    async with client.within(timeout_ms, f"asking for offsets by time of {len(timestamps)} partitions"):
        found = await _look_up(client, timestamps, isolation_level)
    return {tp: found.get(tp) for tp in timestamps}


async def _look_up(
    client: ClusterClient, queries: dict[TopicPartition, int], isolation_level: int
) -> dict[TopicPartition, OffsetAndTimestamp | None]:
    """ListOffsets for any partitions, assigned or not; an unknown topic is an error here, not something to wait for."""
    unknown = {tp.topic for tp in queries if tp.topic not in client.snapshot.topics}
    if unknown:
        response = await client.fetch_metadata(unknown)
        for topic in response.topics:
            if int(topic.error_code) == _UNKNOWN_TOPIC_OR_PARTITION:
                raise error_for(_UNKNOWN_TOPIC_OR_PARTITION, f"topic {topic.name!r}")
    return await list_offsets(client, queries, isolation_level=isolation_level)


async def partitions_for(client: ClusterClient, topic: str, timeout_ms: float) -> list[PartitionInfo]:
    """The partitions of a topic; empty if there is no such topic."""
    async with client.within(timeout_ms, f"asking for the partitions of {topic!r}"):
        response = await client.fetch_metadata([topic])
    code = int(response.topics[0].error_code) if response.topics else 0
    if code not in (0, _UNKNOWN_TOPIC_OR_PARTITION, _LEADER_NOT_AVAILABLE):
        raise error_for(code, f"topic {topic!r}")
    return client.snapshot.partition_infos(topic)


async def topic_ids(client: ClusterClient, topics: list[str], timeout_ms: float) -> dict[str, bytes]:
    """The id of each topic; 16 zero bytes where the broker has none (before Kafka 2.8), or there is no such topic."""
    unknown = [topic for topic in topics if client.snapshot.topic_id(topic) == NO_TOPIC_ID]
    if unknown:
        async with client.within(timeout_ms, f"asking for the ids of {len(unknown)} topics"):
            await client.fetch_metadata(unknown)
    return {topic: client.snapshot.topic_id(topic) for topic in topics}


async def all_topics(
    client: ClusterClient, exclude_internal: bool, timeout_ms: float
) -> dict[str, list[PartitionInfo]]:
    """All topics that this user may see."""
    async with client.within(timeout_ms, "asking for all topics"):
        response = await client.request(Api.METADATA, topics=None, allow_auto_topic_creation=False)
    whole = ClusterSnapshot().merge(response, whole=True)
    topics = [t for t in whole.topics.values() if not (t.is_internal and exclude_internal)]
    return {t.name: whole.partition_infos(t.name) for t in topics}

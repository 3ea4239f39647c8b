"""Topics, their partitions, records and options; the cluster. Coroutines of the engine's thread."""

from __future__ import annotations

import asyncio
import logging
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from ..cluster import ClusterSnapshot
from ..engine.client import ClusterClient
from ..engine.connection import DisconnectedError
from ..engine.list_offsets import list_offsets
from ..errors import UnsupportedVersionError
from ..protocol import Api, error_for, error_name, is_retriable
from ..types import Node, OffsetAndTimestamp, TopicPartition
from .routing import raise_first, to_any, to_controller
from .types import ClusterDescription, ConfigEntry, NewTopic, TopicDescription

_log = logging.getLogger("penstock.admin")

_UNKNOWN_TOPIC: Final = 3
_TOPIC_RESOURCE, _BROKER_RESOURCE = 2, 4  # ConfigResource.Type
_DEFAULT_SOURCES: Final = frozenset(
    {4, 5}
)  # of the broker's static configuration, and Kafka's own: not the resource's


async def create(
    client: ClusterClient, topics: Sequence[NewTopic], validate_only: bool, timeout_ms: int
) -> None:
    """CreateTopics, and then until the metadata shows them, so that what comes next finds them."""
    response = await to_controller(
        client,
        Api.CREATE_TOPICS,
        lambda r: (int(t.error_code) for t in r.topics),
        topics=[_creatable(topic) for topic in topics],
        timeout=timeout_ms,
        validate_only=validate_only,
    )
    outcomes = {str(t.name): (int(t.error_code), t.error_message) for t in response.topics}
    raise_first("creating topic", outcomes)
    if not validate_only:
        await _until(client, [topic.name for topic in topics], _is_led)


def _creatable(topic: NewTopic) -> dict[str, Any]:
    assigned = topic.replica_assignments
    return {
        "name": topic.name,
        "num_partitions": -1 if assigned is not None else topic.num_partitions,
        "replication_factor": -1 if assigned is not None else topic.replication_factor,
        "assignments": [
            {"partition_index": partition, "broker_ids": nodes}
            for partition, nodes in sorted((assigned or {}).items())
        ],
        "configs": [{"name": name, "value": as_text(value)} for name, value in topic.configs.items()],
    }


def as_text(value: object) -> str | None:
    """An option's value as Kafka writes it."""
    if value is None or isinstance(value, str):
        return value
    return str(value).lower() if isinstance(value, bool) else str(value)


async def delete(client: ClusterClient, names: Sequence[str], timeout_ms: int) -> None:
    """DeleteTopics, and then until the metadata does not show them any more."""
    response = await to_controller(
        client,
        Api.DELETE_TOPICS,
        lambda r: (int(t.error_code) for t in r.responses),
        topics=[{"name": name, "topic_id": None} for name in names],
        topic_names=names,
        timeout=timeout_ms,
    )
    outcomes = {
        str(t.name): (int(t.error_code), getattr(t, "error_message", None)) for t in response.responses
    }
    raise_first("deleting topic", outcomes)
    await _until(client, names, lambda snapshot, name: snapshot.topics[name].error_code == _UNKNOWN_TOPIC)


async def create_partitions(
    client: ClusterClient, totals: Mapping[str, int], validate_only: bool, timeout_ms: int
) -> None:
    """CreatePartitions, and then until the metadata shows them."""
    response = await to_controller(
        client,
        Api.CREATE_PARTITIONS,
        lambda r: (int(t.error_code) for t in r.results),
        topics=[{"name": name, "count": total, "assignments": None} for name, total in totals.items()],
        timeout=timeout_ms,
        validate_only=validate_only,
    )
    raise_first(
        "adding partitions to topic",
        {str(t.name): (int(t.error_code), t.error_message) for t in response.results},
    )
    if not validate_only:
        await _until(
            client,
            list(totals),
            lambda snapshot, name: (
                _is_led(snapshot, name) and len(snapshot.topics[name].partitions) >= totals[name]
            ),
        )


def _is_led(snapshot: ClusterSnapshot, name: str) -> bool:
    state = snapshot.topics[name]
    return bool(state.partitions) and all(snapshot.leader(name, p)[0] >= 0 for p in state.partitions)


async def _until(client: ClusterClient, names: Sequence[str], holds: Any) -> None:
    pause = client.retry_backoff()
    while True:
        try:
            await client.fetch_metadata(names)
        except DisconnectedError as error:
            _log.debug("metadata: %s", error)
        else:
            if all(name in client.snapshot.topics and holds(client.snapshot, name) for name in names):
                return
        await asyncio.sleep(min(pause.next_ms(), 200) / 1000)


async def describe(client: ClusterClient, names: Sequence[str] | None) -> dict[str, TopicDescription]:
    """Metadata of these topics, or of all."""
    pause = client.retry_backoff()
    while True:
        try:
            response = await client.fetch_metadata(names)
        except DisconnectedError as error:
            _log.debug("metadata: %s", error)
        else:
            codes = {str(t.name): int(t.error_code) for t in response.topics}
            hopeless = {
                name: (code, None)
                for name, code in codes.items()
                if code == _UNKNOWN_TOPIC or not is_retriable(code)
            }
            raise_first("describing topic", {name: hopeless.get(name, (0, None)) for name in codes})
            if not any(codes.values()):
                return {name: _described(client.snapshot, name) for name in sorted(codes)}
        await asyncio.sleep(pause.next_ms() / 1000)


def _described(snapshot: ClusterSnapshot, name: str) -> TopicDescription:
    state = snapshot.topics[name]
    topic_id = state.topic_id.hex() if any(state.topic_id) else ""
    return TopicDescription(name, topic_id, state.is_internal, tuple(snapshot.partition_infos(name)))


async def find_offsets(
    client: ClusterClient, queries: Mapping[TopicPartition, int], isolation_level: int
) -> dict[TopicPartition, OffsetAndTimestamp | None]:
    """ListOffsets, after making sure that the partitions exist."""
    await _check_partitions(client, queries)
    try:
        return await list_offsets(client, queries, isolation_level=isolation_level)
    finally:
        if client.interest is not None:
            client.interest.clear()  # an admin watches no topic beyond the call


async def _check_partitions(client: ClusterClient, partitions: Iterable[TopicPartition]) -> None:
    wanted = list(partitions)
    found = await describe(client, sorted({tp.topic for tp in wanted}))
    for tp in wanted:
        count = len(found[tp.topic].partitions)
        if not 0 <= tp.partition < count:
            raise error_for(_UNKNOWN_TOPIC, f"{tp}: the topic has {count} partitions, 0 to {count - 1}")


async def delete_records(
    client: ClusterClient, before: Mapping[TopicPartition, int], timeout_ms: int
) -> dict[TopicPartition, int]:
    """DeleteRecords at each partition's leader; the new first offset of each."""
    await _check_partitions(client, before)
    pause = client.retry_backoff()
    done: dict[TopicPartition, int] = {}
    while True:
        by_leader: dict[int, list[TopicPartition]] = defaultdict(list)
        for tp in before:
            if tp not in done:
                by_leader[client.snapshot.leader(*tp)[0]].append(tp)
        by_leader.pop(-1, None)
        parts = (
            _delete_at(client, node, {tp: before[tp] for tp in tps}, timeout_ms)
            for node, tps in by_leader.items()
        )
        for part in await asyncio.gather(*parts):
            done.update(part)
        if len(done) == len(before):
            return done
        await asyncio.sleep(pause.next_ms() / 1000)
        await describe(client, sorted({tp.topic for tp in before}))  # who leads them now


async def _delete_at(
    client: ClusterClient, node: int, before: Mapping[TopicPartition, int], timeout_ms: int
) -> dict[TopicPartition, int]:
    topics: dict[str, list[dict[str, int]]] = defaultdict(list)
    for tp, offset in before.items():
        topics[tp.topic].append({"partition_index": tp.partition, "offset": offset})
    try:
        response = await client.request(
            Api.DELETE_RECORDS,
            node_id=node,
            topics=[{"name": name, "partitions": entries} for name, entries in topics.items()],
            timeout=timeout_ms,
        )
    except DisconnectedError as error:
        _log.debug("DeleteRecords: %s", error)
        return {}
    done: dict[TopicPartition, int] = {}
    for topic in response.topics:
        for p in topic.partitions:
            tp, code = TopicPartition(str(topic.name), int(p.partition_index)), int(p.error_code)
            if code == 0:
                done[tp] = int(p.low_watermark)
            elif is_retriable(code):
                _log.debug("deleting records of %s: %s", tp, error_name(code))
            else:
                raise error_for(code, f"deleting the records of {tp} before offset {before[tp]}")
    return done


async def cluster(client: ClusterClient) -> ClusterDescription:
    """DescribeCluster (KIP-700), or what Metadata tells where a broker is older."""
    try:
        response = await to_any(client, Api.DESCRIBE_CLUSTER)
    except UnsupportedVersionError:
        await client.fetch_metadata([])
        snapshot = client.snapshot
        nodes = tuple(sorted(snapshot.brokers.values(), key=lambda node: node.id))
        return ClusterDescription(snapshot.cluster_id, snapshot.brokers.get(snapshot.controller_id), nodes)
    if int(response.error_code):
        raise error_for(int(response.error_code), "describing the cluster", response.error_message)
    nodes = tuple(
        sorted(
            (Node(int(b.broker_id), b.host, int(b.port), b.rack) for b in response.brokers),
            key=lambda node: node.id,
        )
    )
    controller = next((node for node in nodes if node.id == int(response.controller_id)), None)
    return ClusterDescription(response.cluster_id, controller, nodes)


async def configs(client: ClusterClient, topic: str | None, broker: int | None) -> dict[str, ConfigEntry]:
    """DescribeConfigs of a topic, or of a broker, which only it can tell."""
    resource = (_TOPIC_RESOURCE, topic) if topic is not None else (_BROKER_RESOURCE, str(broker))
    entry = {"resource_type": resource[0], "resource_name": resource[1], "configuration_keys": None}
    if broker is None:
        response = await to_any(client, Api.DESCRIBE_CONFIGS, resources=[entry])
    else:
        await client.fetch_metadata([])
        response = await client.request(Api.DESCRIBE_CONFIGS, node_id=broker, resources=[entry])
    result = response.results[0]
    if int(result.error_code):
        what = f"topic {topic!r}" if topic is not None else f"node {broker}"
        raise error_for(int(result.error_code), f"describing the options of {what}", result.error_message)
    return {
        c.name: ConfigEntry(
            c.name, c.value, int(c.config_source) in _DEFAULT_SOURCES, bool(c.read_only), bool(c.is_sensitive)
        )
        for c in result.configs
    }

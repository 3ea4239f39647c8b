"""Groups and their offsets. Coroutines of the engine's thread."""

from __future__ import annotations

import asyncio
import logging
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from ..engine.client import ClusterClient
from ..engine.coordinator import GroupCoordinator
from ..errors import CommitFailedError, GroupError, KafkaError, UnsupportedVersionError
from ..group.protocol import decode_assignment
from ..protocol import Api, error_for, error_name
from ..types import Node, OffsetAndMetadata, TopicPartition
from .routing import COORDINATOR_CODES, raise_first, to_coordinator, to_every_broker
from .types import GroupDescription, GroupListing, MemberDescription

_log = logging.getLogger("penstock.admin")

_GROUP_ID_NOT_FOUND: Final = 69
_NON_EMPTY_GROUP: Final = 68


async def list_all(client: ClusterClient, states: Sequence[str], types: Sequence[str]) -> list[GroupListing]:
    """ListGroups of every broker: each coordinates some."""

    async def ask(node: int) -> Any:
        pause = client.retry_backoff()
        while True:
            answer = await client.request(
                Api.LIST_GROUPS, node_id=node, states_filter=states, types_filter=types
            )
            code = int(answer.error_code)
            if code == 0:
                return answer
            if code not in COORDINATOR_CODES:
                raise error_for(code, f"listing the groups that node {node} coordinates")
            await asyncio.sleep(pause.next_ms() / 1000)

    found: dict[str, GroupListing] = {}
    for answer in (await to_every_broker(client, ask)).values():
        for g in answer.groups:
            listing = GroupListing(
                str(g.group_id),
                g.protocol_type,
                getattr(g, "group_state", ""),
                getattr(g, "group_type", "").lower(),
            )
            found[listing.group_id] = listing
    wanted_states = {state.lower() for state in states}
    return [
        listing
        for _, listing in sorted(found.items())
        if not wanted_states or not listing.state or listing.state.lower() in wanted_states
    ]


async def describe(client: ClusterClient, group_id: str) -> GroupDescription:
    """ConsumerGroupDescribe (KIP-848) where it is offered and the group is of that kind, else DescribeGroups."""
    coordinator = GroupCoordinator(client, group_id)
    try:
        response = await to_coordinator(
            coordinator,
            client,
            Api.CONSUMER_GROUP_DESCRIBE,
            lambda r: (int(g.error_code) for g in r.groups),
            group_ids=[group_id],
        )
        answer = response.groups[0]
        if int(answer.error_code) == 0:
            return _consumer_group(client, coordinator, answer)
        if int(answer.error_code) != _GROUP_ID_NOT_FOUND:
            raise error_for(int(answer.error_code), f"describing group {group_id!r}", answer.error_message)
    except UnsupportedVersionError:
        pass  # a broker before Kafka 3.7, or the new protocol is switched off: all its groups are classic
    response = await to_coordinator(
        coordinator,
        client,
        Api.DESCRIBE_GROUPS,
        lambda r: (int(g.error_code) for g in r.groups),
        groups=[group_id],
    )
    return _classic_group(client, coordinator, response.groups[0])


def _consumer_group(client: ClusterClient, coordinator: GroupCoordinator, answer: Any) -> GroupDescription:
    members = tuple(
        MemberDescription(
            member.member_id,
            member.instance_id,
            member.client_id,
            member.client_host.lstrip("/"),
            tuple(
                TopicPartition(str(part.topic_name), int(partition))
                for part in member.assignment.topic_partitions
                for partition in part.partitions
            ),
            int(member.member_epoch),
        )
        for member in answer.members
    )
    return GroupDescription(
        coordinator.group_id,
        answer.group_state,
        "consumer",
        "consumer",
        answer.assignor_name,
        members,
        _node_of(client, coordinator),
    )


def _classic_group(client: ClusterClient, coordinator: GroupCoordinator, answer: Any) -> GroupDescription:
    code = int(answer.error_code)
    if code == 0 and answer.group_state == "Dead":
        code = _GROUP_ID_NOT_FOUND  # what brokers before Kafka 4.0 say of it
    if code:
        raise error_for(
            code, f"describing group {coordinator.group_id!r}", getattr(answer, "error_message", None)
        )
    is_consumer = answer.protocol_type == "consumer"
    members = tuple(
        MemberDescription(
            member.member_id,
            getattr(member, "group_instance_id", None),
            member.client_id,
            member.client_host.lstrip("/"),
            _assigned(member.member_assignment) if is_consumer else (),
        )
        for member in answer.members
    )
    return GroupDescription(
        coordinator.group_id,
        answer.group_state,
        "classic",
        answer.protocol_type,
        answer.protocol_data,
        members,
        _node_of(client, coordinator),
    )


def _assigned(assignment: bytes) -> tuple[TopicPartition, ...]:
    """A member's partitions; none while the group rebalances, or if another client wrote something else."""
    if not assignment:
        return ()
    try:
        return decode_assignment(assignment)
    except KafkaError as error:
        _log.warning("a member's assignment cannot be read: %s", error)
        return ()


def _node_of(client: ClusterClient, coordinator: GroupCoordinator) -> Node | None:
    return None if coordinator.node_id is None else client.node(coordinator.node_id)


async def offsets(client: ClusterClient, group_id: str) -> dict[TopicPartition, OffsetAndMetadata]:
    """OffsetFetch of all that the group has committed."""
    response = await to_coordinator(
        GroupCoordinator(client, group_id),
        client,
        Api.OFFSET_FETCH,
        lambda r: (int(getattr(g, "error_code", 0)) for g in getattr(r, "groups", (r,))),
        group_id=group_id,
        topics=None,
        groups=[{"group_id": group_id, "member_id": None, "member_epoch": -1, "topics": None}],
        require_stable=False,
    )
    answer = response.groups[0] if hasattr(response, "groups") else response
    code = int(getattr(answer, "error_code", 0))
    if code:
        raise error_for(code, f"reading the committed offsets of group {group_id!r}")
    found: dict[TopicPartition, OffsetAndMetadata] = {}
    for topic in answer.topics:
        for p in topic.partitions:
            tp = TopicPartition(str(topic.name), int(p.partition_index))
            if int(p.error_code):
                raise error_for(
                    int(p.error_code), f"reading the committed offset of {tp} of group {group_id!r}"
                )
            if int(p.committed_offset) >= 0:
                found[tp] = OffsetAndMetadata(
                    int(p.committed_offset), p.metadata or "", int(getattr(p, "committed_leader_epoch", -1))
                )
    return dict(sorted(found.items()))


async def alter_offsets(
    client: ClusterClient, group_id: str, wanted: Mapping[TopicPartition, OffsetAndMetadata]
) -> None:
    """OffsetCommit from outside of the group, which the coordinator takes while it has no members."""
    try:
        await GroupCoordinator(client, group_id).commit(wanted)
    except CommitFailedError as error:
        raise GroupError(
            f"setting offsets of group {group_id!r}: it has members, and only they may commit; stop them first ({error})",
            _NON_EMPTY_GROUP,
            error_name(_NON_EMPTY_GROUP),
        ) from error


async def delete_offsets(client: ClusterClient, group_id: str, partitions: Iterable[TopicPartition]) -> None:
    """OffsetDelete (KIP-496), refused for topics that a member is subscribed to."""
    topics: dict[str, list[dict[str, int]]] = defaultdict(list)
    for topic, partition in partitions:
        topics[topic].append({"partition_index": partition})
    response = await to_coordinator(
        GroupCoordinator(client, group_id),
        client,
        Api.OFFSET_DELETE,
        lambda r: (int(r.error_code),),
        group_id=group_id,
        topics=[{"name": name, "partitions": entries} for name, entries in topics.items()],
    )
    if int(response.error_code):
        raise error_for(int(response.error_code), f"deleting offsets of group {group_id!r}")
    outcomes = {
        f"{topic.name}-{p.partition_index}": (int(p.error_code), None)
        for topic in response.topics
        for p in topic.partitions
    }
    raise_first(f"deleting, for group {group_id!r}, the offset of", outcomes)


async def delete(client: ClusterClient, group_ids: Sequence[str]) -> None:
    """DeleteGroups (KIP-229) at each group's coordinator; all are tried before an error is raised."""
    outcomes: dict[str, tuple[int, str | None]] = {}
    for group_id in group_ids:
        response = await to_coordinator(
            GroupCoordinator(client, group_id),
            client,
            Api.DELETE_GROUPS,
            lambda r: (int(g.error_code) for g in r.results),
            groups_names=[group_id],
        )
        outcomes[group_id] = (int(response.results[0].error_code), None)
    raise_first("deleting group", outcomes)

"""Groups that change protocols while they live (KIP-848, "Online Migration"): pure functions of groups and members.

A classic group of consumers becomes a consumer group when the first member joins it with the new protocol; its other members
go on with JoinGroup, SyncGroup and Heartbeat (see mixed_groups.py). When the last one of the new protocol is gone it becomes a
classic group again. Committed offsets stay where they are.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping

from penstock.types import TopicPartition

from .codes import Code, RequestRefused
from .consumer_assignors import Partition, TopicImage
from .consumer_model import NOTHING, ClassicSide, ConsumerGroup, ConsumerMember, MemberState
from .consumer_protocol import Malformed, decode_assignment, decode_subscription, encode_assignment
from .group_events import Effect, GroupState, Joined, Synced
from .group_model import Group, GroupLimits, Member

CONSUMER = "consumer"  # the protocol type whose metadata are consumer_protocol's


# ---------------------------------------------------------------- names and ids
def by_id(partitions: Iterable[TopicPartition], topics: Mapping[str, TopicImage]) -> frozenset[Partition]:
    """Those of existing topics."""
    return frozenset((topics[name].id, number) for name, number in partitions if name in topics)


def by_name(partitions: Iterable[Partition], names: Mapping[Hashable, str]) -> tuple[TopicPartition, ...]:
    """Those of existing topics."""
    return tuple(TopicPartition(names[each], number) for each, number in partitions if each in names)


def encoded(
    partitions: Iterable[Partition], names: Mapping[Hashable, str], protocols: tuple[tuple[str, bytes], ...]
) -> bytes:
    """As SyncGroup answers them, in the version that the member speaks."""
    return encode_assignment(decode_subscription(protocols[0][1]).version, by_name(partitions, names))


# ---------------------------------------------------------------- from classic to consumer
def to_consumer(
    group: Group, topics: Mapping[str, TopicImage], limits: GroupLimits, now_ms: int
) -> tuple[list[Effect], ConsumerGroup]:
    """Raises RequestRefused (GROUP_ID_NOT_FOUND), with nothing changed, if this group cannot become a consumer group."""
    consumers = ConsumerGroup()
    if group.state is not GroupState.EMPTY:
        allowed = limits.consumer_migration_policy in ("upgrade", "bidirectional")
        if not allowed or group.protocol_type != CONSUMER or len(group.members) > limits.consumer_max_size:
            raise RequestRefused(
                Code.GROUP_ID_NOT_FOUND,
                f"Group {group.group_id} is not a consumer group, and cannot become one"
                f" (group.consumer.migration.policy is {limits.consumer_migration_policy}).",
            )
        consumers = _consumers_of(group, topics, now_ms)
    effects: list[Effect] = []
    for member in group.members.values():
        effects += group.release_join(member, Joined(Code.REBALANCE_IN_PROGRESS, member.member_id))
        effects += group.release_sync(member, Synced(Code.REBALANCE_IN_PROGRESS))
    group.clear()
    group.consumer = consumers
    return effects, consumers


def _consumers_of(group: Group, topics: Mapping[str, TopicImage], now_ms: int) -> ConsumerGroup:
    """All members as they are: with what the classic group's leader gave them; and with what they said that they own and the leader
    has just taken from them (KIP-429), until they join without it. Kafka forgets the latter, which then has two owners for a while."""
    consumers = ConsumerGroup(group.generation, group.generation)
    claims: list[tuple[ConsumerMember, frozenset[Partition]]] = []
    for each in group.members.values():
        metadata = each.metadata_for(group.protocol_name) or each.protocols[0][1]
        try:
            subscription = decode_subscription(metadata)
            assigned = by_id(decode_assignment(each.assignment), topics)
        except Malformed as error:
            raise RequestRefused(
                Code.GROUP_ID_NOT_FOUND,
                f"Group {group.group_id} cannot become a consumer group: what its member {each.member_id} says of itself"
                f" is malformed ({error}).",
            ) from None
        member = ConsumerMember(
            each.member_id,
            each.instance_id,
            subscription.rack_id,
            each.client_id,
            each.client_host,
            each.rebalance_timeout_ms,
            subscription.topics,
            epoch=group.generation,
            previous_epoch=group.generation,
            session_deadline_ms=now_ms + each.session_timeout_ms,
            classic=ClassicSide(each.session_timeout_ms, each.protocols),
        )
        consumers.add(member)
        # A leader may have given a partition twice; the coordinator gives it once.
        free = frozenset(partition for partition in assigned if partition not in consumers.holders)
        consumers.hold(member, free, NOTHING)
        consumers.target[member.member_id] = member.assigned
        claims.append((member, by_id(subscription.owned, topics)))
    for member, claimed in claims:
        revoking = frozenset(partition for partition in claimed if partition not in consumers.holders)
        if revoking:
            member.state = MemberState.UNREVOKED_PARTITIONS
            consumers.hold(member, member.assigned, revoking)
    consumers.look_at(topics)
    return consumers


# ---------------------------------------------------------------- from consumer to classic
def may_downgrade(consumers: ConsumerGroup, limits: GroupLimits) -> bool:
    """Whether there are members, and all are classic ones."""
    members = consumers.members.values()
    return (
        bool(members)
        and all(member.classic is not None for member in members)
        and limits.consumer_migration_policy in ("downgrade", "bidirectional")
        and len(members) <= limits.max_size
    )


def to_classic(group: Group, names: Mapping[Hashable, str], now_ms: int, *, will_rebalance: bool) -> None:
    """A stable classic group of the same members, who all are classic.

    Each has its target. But if the group rebalances at once nobody is told of it, and should a member of the new protocol
    come before all have joined, it matters what they really have: Kafka takes the target there, too, and could then give
    to one what another has not given back yet.
    """
    consumers = group.consumer
    assert consumers is not None
    group.consumer = None
    group.generation = consumers.epoch
    group.protocol_type = CONSUMER
    group.state = GroupState.STABLE
    for each in consumers.members.values():
        assert each.classic is not None
        held = (
            each.assigned | each.revoking if will_rebalance else consumers.target.get(each.member_id, NOTHING)
        )
        assigned = encoded(held, names, each.classic.protocols)
        group.members[each.member_id] = Member(
            each.member_id,
            each.instance_id,
            each.client_id,
            each.client_host,
            each.classic.session_timeout_ms,
            each.rebalance_timeout_ms,
            each.classic.protocols,
            now_ms + each.classic.session_timeout_ms,
            assigned,
            is_new=False,
        )
        if each.instance_id is not None:
            group.static_ids[each.instance_id] = each.member_id
    group.leader_id = next(iter(group.members))
    group.protocol_name = group.select_protocol()

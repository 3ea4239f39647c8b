"""A classic group and its members as data: what a coordinator knows, with the rules that concern one group alone."""

from __future__ import annotations

import struct
from collections import Counter
from dataclasses import dataclass, field

from penstock.types import OffsetAndMetadata, TopicPartition

from .codes import Code
from .consumer_model import ConsumerGroup
from .group_events import Effect, GroupState, Joined, JoinGroup, Reply, Synced, Token

NEW_MEMBER_JOIN_TIMEOUT_MS = (
    300_000  # a member that waits in its first join cannot heartbeat; Kafka gives it this
)


def subscribed_topics(metadata: bytes) -> set[str] | None:
    """The topics of a consumer's subscription, which every version starts with; None if the bytes are something else."""
    try:
        _, count = struct.unpack_from(">hi", metadata)
        position, topics = 6, set()
        for _ in range(count):
            (length,) = struct.unpack_from(">h", metadata, position)
            position += 2
            if length < 0 or position + length > len(metadata):
                return None
            topics.add(metadata[position : position + length].decode())
            position += length
    except (struct.error, UnicodeDecodeError):
        return None
    return topics


@dataclass(frozen=True, slots=True)
class GroupLimits:
    """The broker's settings that concern groups, in milliseconds, bytes and members."""

    min_session_timeout_ms: int = 10
    max_session_timeout_ms: int = 1_800_000
    initial_rebalance_delay_ms: int = 0
    max_size: int = 2**31 - 1
    max_metadata_bytes: int = 4096
    consumer_heartbeat_interval_ms: int = 5_000
    consumer_session_timeout_ms: int = 45_000
    consumer_max_size: int = 2**31 - 1
    consumer_migration_policy: str = "bidirectional"


@dataclass(slots=True)
class Member:
    """Written by the coordinator only."""

    member_id: str
    instance_id: str | None
    client_id: str
    client_host: str
    session_timeout_ms: int
    rebalance_timeout_ms: int
    protocols: tuple[tuple[str, bytes], ...]
    session_deadline_ms: int
    assignment: bytes = b""
    is_new: bool = True  # has not seen a generation yet
    join_token: Token = None  # a parked JoinGroup
    sync_token: Token = None  # a parked SyncGroup
    synced: bool = True  # has asked for its assignment in this generation

    def metadata_for(self, protocol: str | None) -> bytes:
        return next((data for name, data in self.protocols if name == protocol), b"")

    def update(self, event: JoinGroup) -> None:
        self.client_id = event.client_id
        self.client_host = event.client_host
        self.session_timeout_ms = event.session_timeout_ms
        self.rebalance_timeout_ms = event.rebalance_timeout_ms
        self.protocols = event.protocols

    @property
    def waits(self) -> bool:
        """A member whose request is parked shows no heartbeats, and need not."""
        return (self.join_token is not None and not self.is_new) or self.sync_token is not None


@dataclass(slots=True)
class Group:
    """Written by the coordinator only. Invariant: PREPARING_REBALANCE has a rebalance deadline, no other state has.

    A group of the new protocol (KIP-848) has `consumer`; all of the classic one is then EMPTY. The offsets are of both.
    """

    group_id: str
    state: GroupState = GroupState.EMPTY
    generation: int = 0
    protocol_type: str | None = None
    protocol_name: str | None = None
    leader_id: str | None = None
    members: dict[str, Member] = field(default_factory=dict)
    static_ids: dict[str, str] = field(default_factory=dict)  # instance id -> member id (KIP-345)
    pending: dict[str, int] = field(
        default_factory=dict
    )  # member id given out, not joined yet -> deadline (KIP-394)
    offsets: dict[TopicPartition, OffsetAndMetadata] = field(default_factory=dict)
    pending_offsets: dict[int, dict[TopicPartition, OffsetAndMetadata]] = field(default_factory=dict)
    rebalance_deadline_ms: int | None = None
    gathering_until_ms: int | None = None  # the initial delay's end: do not complete before it
    sync_deadline_ms: int | None = None
    consumer: ConsumerGroup | None = None

    def clear(self) -> None:
        """No classic members any more, and nothing of them but their offsets."""
        self.state, self.protocol_type, self.protocol_name, self.leader_id = (
            GroupState.EMPTY,
            None,
            None,
            None,
        )
        self.members.clear()
        self.static_ids.clear()
        self.pending.clear()
        self.rebalance_deadline_ms = self.gathering_until_ms = self.sync_deadline_ms = None

    @property
    def is_empty(self) -> bool:
        """Whether nobody is in it, or about to be."""
        if self.consumer is not None:
            return not self.consumer.members
        return self.state is GroupState.EMPTY and not self.pending

    # ------------------------------------------------------------------ what protocols are possible
    def supports(self, event: JoinGroup) -> bool:
        """Whether this member could join: the same kind of group, and a protocol that all know."""
        if not event.protocol_type or not event.protocols:
            return False
        others = [member for member in self.members.values() if member.member_id != event.member_id]
        if not others:
            return True
        if self.protocol_type != event.protocol_type:
            return False
        common = set.intersection(*({name for name, _ in member.protocols} for member in others))
        return any(name in common for name, _ in event.protocols)

    def select_protocol(self) -> str | None:
        """Each member votes for the first of its protocols that all support; the most votes win."""
        members = list(self.members.values())
        if not members:
            return None
        common = set.intersection(*({name for name, _ in member.protocols} for member in members))
        votes = Counter(next(name for name, _ in member.protocols if name in common) for member in members)
        return max((name for name, _ in members[0].protocols if name in common), key=lambda name: votes[name])

    def subscribes_to(self, topic: str) -> bool:
        """Whether a consumer group's members read this topic, by their subscriptions (ConsumerProtocolSubscription)."""
        if self.consumer is not None:
            return self.consumer.reads(topic)
        for member in self.members.values():
            for _, metadata in member.protocols[:1]:
                topics = subscribed_topics(metadata)
                if topics is None or topic in topics:
                    return True
        return False

    # ------------------------------------------------------------------ times
    @property
    def rebalance_timeout_ms(self) -> int:
        return max((member.rebalance_timeout_ms for member in self.members.values()), default=1) or 1

    @property
    def all_joined(self) -> bool:
        return not self.pending and all(member.join_token is not None for member in self.members.values())

    def next_deadline_ms(self) -> int | None:
        if self.consumer is not None:
            return self.consumer.next_deadline_ms()
        deadlines = [member.session_deadline_ms for member in self.members.values() if not member.waits]
        deadlines += self.pending.values()
        timers = (self.rebalance_deadline_ms, self.gathering_until_ms, self.sync_deadline_ms)
        deadlines += [deadline for deadline in timers if deadline is not None]
        return min(deadlines, default=None)

    # ------------------------------------------------------------------ answers
    def join_answer(self, member: Member, *, leader: str | None = None, skip: bool = False) -> Joined:
        """What a member learns of the present generation; the leader also learns who the members are."""
        leader = self.leader_id if leader is None else leader
        members: tuple[tuple[str, str | None, bytes], ...] = ()
        if leader == member.member_id:
            members = tuple(
                (each.member_id, each.instance_id, each.metadata_for(self.protocol_name))
                for each in self.members.values()
            )
        return Joined(
            Code.NONE,
            member.member_id,
            self.generation,
            self.protocol_type,
            self.protocol_name,
            leader or "",
            members,
            skip,
        )

    def sync_answer(self, member: Member) -> Synced:
        return Synced(Code.NONE, member.assignment, self.protocol_type, self.protocol_name)

    def release_join(self, member: Member, answer: Joined) -> list[Effect]:
        token, member.join_token = member.join_token, None
        return [] if token is None else [Reply(token, answer)]

    def release_sync(self, member: Member, answer: Synced) -> list[Effect]:
        token, member.sync_token = member.sync_token, None
        return [] if token is None else [Reply(token, answer)]

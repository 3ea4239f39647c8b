"""What goes into the machine of the consumer protocol (KIP-848) and what comes out, beside what both machines share (`messages.py`)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeAlias

from .messages import (
    AssignmentDone,
    AssignPartitions,
    CallAssigned,
    CallLost,
    CallRevoked,
    CommitBeforeRevoke,
    CoordinatorFound,
    CoordinatorLost,
    FindCoordinator,
    Leave,
    Left,
    LossDone,
    PollExpired,
    PollProgress,
    Raise,
    Rejoin,
    RequestFailed,
    RevocationDone,
    StopFetching,
    StopHeartbeats,
    Subscribe,
    Tick,
    TopicsChanged,
)

TopicIdPartitions: TypeAlias = tuple[tuple[bytes, int], ...]
"""Partitions as the coordinator names them: the topic's id, 16 bytes, and the partition's number."""


# ---------------------------------------------------------------- events


@dataclass(frozen=True, slots=True)
class SubscribeRegex:
    """The user wants the topics whose whole names match, found by the coordinator; RE2/J's syntax (KIP-848)."""

    pattern: str


@dataclass(frozen=True, slots=True)
class ConsumerHeartbeatAnswered:
    """An answer to SendConsumerHeartbeat; or to a repeated heartbeat, where it is not a plain yes.

    `assignment` is None where the answer tells none. `repeated`: a repeated heartbeat was answered, so what SendConsumerHeartbeat asked
    is open still; left at False, an answer is taken for that of the oldest open request.
    """

    error_code: int
    error_message: str | None
    member_id: str | None
    member_epoch: int
    heartbeat_interval_ms: int
    assignment: TopicIdPartitions | None
    repeated: bool = False


@dataclass(frozen=True, slots=True)
class TopicNames:
    """The metadata tells these names of topic ids (16 bytes each). Ids that it does not know are left out."""

    names: Mapping[bytes, str]


ConsumerEvent: TypeAlias = (
    Subscribe
    | SubscribeRegex
    | CoordinatorFound
    | CoordinatorLost
    | ConsumerHeartbeatAnswered
    | RequestFailed
    | TopicNames
    | RevocationDone
    | LossDone
    | AssignmentDone
    | TopicsChanged
    | PollProgress
    | PollExpired
    | Rejoin
    | Leave
    | Tick
)


# ---------------------------------------------------------------- effects


@dataclass(frozen=True, slots=True)
class SendConsumerHeartbeat:
    """One ConsumerGroupHeartbeat, then ConsumerHeartbeatAnswered or RequestFailed(HEARTBEAT).

    All that are open at a time go over one connection, in this order. None, and -1 for the timeout, say "as before". `member_epoch`: 0
    joins, -1 leaves, -2 leaves for a static member that will be back; these are never repeated.
    """

    member_id: str
    member_epoch: int
    group_instance_id: str | None
    rack_id: str | None = None
    rebalance_timeout_ms: int = -1
    subscribed_topic_names: tuple[str, ...] | None = None
    subscribed_topic_regex: str | None = None
    server_assignor: str | None = None
    topic_partitions: TopicIdPartitions | None = None


@dataclass(frozen=True, slots=True)
class RepeatHeartbeat:
    """From now on the connection repeats this heartbeat (all else null), without Python; the first an interval from now.

    It replaces the one before. An answer with another epoch, an assignment or an error comes as ConsumerHeartbeatAnswered, a broken
    connection as RequestFailed(HEARTBEAT). The connection itself puts a newer epoch that it is told into what it repeats.
    """

    member_id: str
    member_epoch: int
    group_instance_id: str | None
    interval_ms: int


@dataclass(frozen=True, slots=True)
class ResolveTopicIds:
    """Ask the metadata for the names of these topic ids, then TopicNames."""

    ids: tuple[bytes, ...]


ConsumerEffect: TypeAlias = (
    FindCoordinator
    | SendConsumerHeartbeat
    | RepeatHeartbeat
    | StopHeartbeats
    | ResolveTopicIds
    | StopFetching
    | CommitBeforeRevoke
    | CallRevoked
    | CallLost
    | AssignPartitions
    | CallAssigned
    | Raise
    | Left
)

"""What goes into the group's machine and what comes out: plain frozen data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import TypeAlias

from ..types import TopicPartition

Partitions: TypeAlias = tuple[TopicPartition, ...]


class RequestKind(Enum):
    JOIN = auto()
    SYNC = auto()
    HEARTBEAT = auto()
    LEAVE = auto()


# ---------------------------------------------------------------- events


@dataclass(frozen=True, slots=True)
class Subscribe:
    """The user wants these topics (again)."""

    topics: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class CoordinatorFound:
    """The coordinator is known and can be asked."""


@dataclass(frozen=True, slots=True)
class CoordinatorLost:
    """The search for it failed for good; it begins again after a backoff."""

    reason: str


@dataclass(frozen=True, slots=True)
class JoinedMember:
    """A member as JoinGroup tells it to the leader."""

    member_id: str
    group_instance_id: str | None
    metadata: bytes


@dataclass(frozen=True, slots=True)
class JoinAnswered:
    error_code: int
    generation_id: int
    protocol_name: str
    leader_id: str
    member_id: str
    members: tuple[JoinedMember, ...]
    skip_assignment: bool = False


@dataclass(frozen=True, slots=True)
class SyncAnswered:
    error_code: int
    protocol_name: str | None
    assignment: bytes


@dataclass(frozen=True, slots=True)
class HeartbeatAnswered:
    """Not a plain yes. `generation_id` is that of the heartbeat, so that an answer from before a rebalance can be told."""

    error_code: int
    generation_id: int


@dataclass(frozen=True, slots=True)
class LeaveAnswered:
    error_code: int


@dataclass(frozen=True, slots=True)
class RequestFailed:
    """No answer: the connection ended or the time ran out."""

    kind: RequestKind
    reason: str


@dataclass(frozen=True, slots=True)
class RevocationDone:
    """What CallRevoked asked for has returned; the partitions are no longer read."""


@dataclass(frozen=True, slots=True)
class LossDone:
    """What CallLost asked for has returned."""


@dataclass(frozen=True, slots=True)
class AssignmentDone:
    """What CallAssigned asked for has returned."""


@dataclass(frozen=True, slots=True)
class PartitionCounts:
    """The answer to NeedPartitionCounts; topics that do not exist are left out. `racks` has those of the replicas, where known."""

    counts: Mapping[str, int]
    racks: Mapping[TopicPartition, frozenset[str]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class TopicsChanged:
    """The partitions that the assignment was made of are no longer those that exist."""


@dataclass(frozen=True, slots=True)
class PollProgress:
    """The user's thread entered poll()."""


@dataclass(frozen=True, slots=True)
class PollExpired:
    """No poll() for max.poll.interval.ms: the user's code may hang, others are to take over."""


@dataclass(frozen=True, slots=True)
class Rejoin:
    """Somebody asks for a rebalance."""

    reason: str


@dataclass(frozen=True, slots=True)
class Leave:
    """The consumer closes or unsubscribes; its listener has been called already. `leave_group` None: a dynamic member tells the
    coordinator, a static one keeps its place for session.timeout.ms (KIP-345); True, False: whether to, whatever it is (KIP-1092)."""

    leave_group: bool | None = None


@dataclass(frozen=True, slots=True)
class Tick:
    """Time has passed: next_deadline_ms() is reached."""


Event: TypeAlias = (
    Subscribe
    | CoordinatorFound
    | CoordinatorLost
    | JoinAnswered
    | SyncAnswered
    | HeartbeatAnswered
    | LeaveAnswered
    | RequestFailed
    | RevocationDone
    | LossDone
    | AssignmentDone
    | PartitionCounts
    | TopicsChanged
    | PollProgress
    | PollExpired
    | Rejoin
    | Leave
    | Tick
)


# ---------------------------------------------------------------- effects


@dataclass(frozen=True, slots=True)
class FindCoordinator:
    """Find it (again), then CoordinatorFound or CoordinatorLost."""


@dataclass(frozen=True, slots=True)
class SendJoin:
    session_timeout_ms: int
    rebalance_timeout_ms: int
    member_id: str
    group_instance_id: str | None
    protocols: tuple[tuple[str, bytes], ...]
    reason: str


@dataclass(frozen=True, slots=True)
class SendSync:
    generation_id: int
    member_id: str
    group_instance_id: str | None
    protocol_name: str
    assignments: tuple[tuple[str, bytes], ...]


@dataclass(frozen=True, slots=True)
class KeepHeartbeating:
    """Have the connection repeat this heartbeat every interval without further ado, in place of the one before; the first an interval
    from now, or at once. An answer that is not a plain yes comes as HeartbeatAnswered, no answer as RequestFailed."""

    generation_id: int
    member_id: str
    group_instance_id: str | None
    interval_ms: int
    at_once: bool


@dataclass(frozen=True, slots=True)
class StopHeartbeats:
    """Repeat no heartbeat any more."""


@dataclass(frozen=True, slots=True)
class SendLeave:
    member_id: str
    group_instance_id: str | None
    reason: str


@dataclass(frozen=True, slots=True)
class StopFetching:
    """Return nothing more of these; they are about to go."""

    partitions: Partitions


@dataclass(frozen=True, slots=True)
class CommitBeforeRevoke:
    """If the consumer commits by itself, commit what was handled of these before CallRevoked."""

    partitions: Partitions


@dataclass(frozen=True, slots=True)
class CallRevoked:
    """Run on_partitions_revoked in the user's thread, then RevocationDone: from there on these are no longer read."""

    partitions: Partitions


@dataclass(frozen=True, slots=True)
class CallLost:
    """Run on_partitions_lost in the user's thread, then LossDone: others may own these already, nothing can be committed."""

    partitions: Partitions


@dataclass(frozen=True, slots=True)
class AssignPartitions:
    """These, and no others, are read from now on; what was read before goes on where it is."""

    partitions: Partitions


@dataclass(frozen=True, slots=True)
class CallAssigned:
    """Run on_partitions_assigned in the user's thread with what was added, then AssignmentDone."""

    partitions: Partitions


@dataclass(frozen=True, slots=True)
class NeedPartitionCounts:
    """This member leads: it needs to know how many partitions these topics have."""

    topics: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Raise:
    """poll() raises this: no retry mends it."""

    error_code: int
    message: str


@dataclass(frozen=True, slots=True)
class Left:
    """The membership is over."""


Effect: TypeAlias = (
    FindCoordinator
    | SendJoin
    | SendSync
    | KeepHeartbeating
    | StopHeartbeats
    | SendLeave
    | StopFetching
    | CommitBeforeRevoke
    | CallRevoked
    | CallLost
    | AssignPartitions
    | CallAssigned
    | NeedPartitionCounts
    | Raise
    | Left
)
